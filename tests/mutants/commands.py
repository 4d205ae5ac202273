"""Breaks of what an operator relies on at the command line."""

from tests.mutants.mutant import Mutant, breaks

OF_UP = "tests/cli/test_up.py"

MUTANTS: tuple[Mutant, ...] = (
    breaks(
        "ports_shared_with_another_shop",
        "Two shops listen at one port, and the kernel mixes their buyers.",
        "shop/listening.py",
        "    first = _bound(family, address)\n",
        "    first = _bound(family, address, socket.SO_REUSEPORT)\n",
        f"{OF_UP}::test_two_shops_never_share_a_port",
    ),
    breaks(
        "short_secret_kept",
        "A secret that a crash has cut short signs tokens that anybody can make.",
        "shop/local/starting.py",
        "    if len(found) >= SECRET_BYTES_MIN and ",
        "    if file.exists() and ",
        f"{OF_UP}::test_what_is_no_secret_is_replaced_and_said",
    ),
    breaks(
        "retry_that_finds_another_order",
        "The demo takes any answer to a retry for the order that was promised.",
        "loadtests/retries.py",
        "            return (read.code, read.order_id) == (REPLAYED, order_id)\n",
        "            return read.order_id is not None\n",
        "tests/loadtests/test_retries.py::test_a_retry_that_gets_another_order_a_new_one_or_none_does_not_hold",
    ),
)
