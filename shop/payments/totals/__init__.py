"""The money of each currency by where it is (I11), at one moment, for a price that does not grow with the past."""
