"""The catalogue, read through the cache."""
