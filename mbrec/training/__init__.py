"""The training loop, evaluation, optimizers, and the guards of both."""
