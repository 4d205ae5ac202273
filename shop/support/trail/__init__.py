"""Everything that happened to one order."""
