"""One thing's failure is its own: one poisoned item in each loop, and all others are served."""
