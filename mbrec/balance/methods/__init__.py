"""The balancing methods, one a file; each is named after its paper."""
