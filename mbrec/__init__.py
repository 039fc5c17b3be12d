"""Multi-task ranking on TorchRec with MultiBalance gradient balancing."""

__version__ = "0.1.0"


class UserError(ValueError):
    """What a user can fix: a setting, a file or a command. Commands show it in short."""
