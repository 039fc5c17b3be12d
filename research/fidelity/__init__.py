"""How well the gradients of the representation stand for those of the parameters below it."""
