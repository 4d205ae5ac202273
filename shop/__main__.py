"""`python -m shop` is `shop`."""

from shop.cli import main

main()
