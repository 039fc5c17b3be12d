"""A column of a file -> checked ids and numbers. Reads no configuration and no torch."""
