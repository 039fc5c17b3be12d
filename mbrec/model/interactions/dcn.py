"""Feature interactions: all features side by side -> the shared representation.

Shapes: B batch, I input width, H representation.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet
from torchrec.modules.mlp import MLP


class DCN(nn.Module):
    """Cross layers and a projection (Wang et al. 2021, DCN V2, the stacked form).

    Args:
        in_features: I.
        num_layers: cross layers.
        low_rank: rank of the cross layers' matrices; None: full I x I matrices.
        hidden: widths of the projection's ReLU layers; the last is H.

    Attributes:
        out_features: H.

    Raises:
        ValueError: if a number is not a positive integer, or `hidden` is empty.
    """

    def __init__(
        self,
        in_features: int,
        *,
        num_layers: int = 2,
        low_rank: int | None = None,
        hidden: Sequence[int] = (256,),
    ) -> None:
        super().__init__()
        sizes = {"num_layers": num_layers, "low_rank": 1 if low_rank is None else low_rank}
        sizes |= {f"hidden[{i}]": width for i, width in enumerate(hidden)}
        for name, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"expected {name} to be a positive integer, got {size!r}")
        if not hidden:
            raise ValueError("expected hidden to hold at least the width of the output, got none")
        if low_rank is None:
            self.cross: nn.Module = CrossNet(in_features, num_layers)
        else:
            self.cross = LowRankCrossNet(in_features, num_layers, low_rank)
        self.projection = MLP(in_features, list(hidden))
        self.out_features = hidden[-1]

    def forward(self, features_BI: Tensor) -> Tensor:
        """Return the shared representation (B, H)."""
        return self.projection(self.cross(features_BI))
