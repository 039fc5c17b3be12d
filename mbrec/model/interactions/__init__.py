"""Feature interactions, one a file: all features side by side -> the shared representation."""
