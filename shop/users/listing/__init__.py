"""All accounts, as an admin looks for them."""
