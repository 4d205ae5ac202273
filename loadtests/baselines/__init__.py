"""What the shop is measured against: the same purchase, built in the ways that people usually build it."""
