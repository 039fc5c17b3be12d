"""The formats of public data sets."""
