"""The orders of all buyers, as an admin looks for them."""
