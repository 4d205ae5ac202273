"""What several commands are given."""

ROW_ID_MAX = 2**63 - 1
"""The greatest number of a row."""
