"""A payment provider to develop and test against, with the faults of a real one. It knows nothing of the shop."""
