"""Numerical features -> a dense embedding. Shapes: B batch, N features."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchrec.modules.mlp import MLP


class NumericalModule(nn.Module):
    """An MLP over the standardised numerical features.

    Args:
        in_features: N, at least 1.
        hidden: widths of its layers; the last is the width of the output.
    """

    def __init__(self, in_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.mlp = MLP(in_features, list(hidden))
        self.out_features = hidden[-1]

    def forward(self, dense_BN: Tensor) -> Tensor:
        """Return (B, out_features)."""
        return self.mlp(dense_BN)
