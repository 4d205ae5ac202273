"""What only orders without a sale have: a bound of what one buyer may have open."""
