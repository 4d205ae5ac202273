"""Deliberate breaks of the shop, each with the tests that must notice it: proof that the tests can fail."""
