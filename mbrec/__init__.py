"""Multi-task ranking on TorchRec with MultiBalance gradient balancing."""

__version__ = "0.1.0"
