"""What the paper claims, measured on this implementation. Not part of the wheel."""
