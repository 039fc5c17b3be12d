"""A sweep: one job for each combination of the values that settings are given."""
