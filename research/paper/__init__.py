"""What the paper claims, measured on this implementation: `python -m research.paper`."""
