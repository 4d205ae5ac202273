"""All payments, as an admin looks for them."""
