"""What the hook does inside the backward pass."""
