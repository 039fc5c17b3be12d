"""Raw logs -> data sets."""
