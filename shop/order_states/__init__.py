"""An order's state for all who wait for it: answered at the server's door, from one statement for many of them."""
