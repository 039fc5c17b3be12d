"""A synthetic impression log with a click-conversion funnel and a known Bayes optimum.

Users, items and tags follow power laws; each task's logit is a weighted sum of a dense, a user,
an item, a tag and a user-item interaction effect. The probabilities that the labels are drawn
from travel with the rows as oracle columns, so that a model can be scored against the best
that any model could reach.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LABELS = ("click", "conversion", "like", "share", "comment")
NUM_DENSE = 8
ORACLE_PREFIX = "__oracle_"
BASE_RATES = (0.10, 0.05, 0.03, 0.005, 0.008)  # conversion: among the clicked rows
SIGMAS = (1.2, 1.2, 1.4, 1.2, 1.2)  # standard deviation of each task's logit

VERSION = 1  # raise it whenever the same settings give other rows
NUM_TASKS = len(LABELS)


class Conflict(Enum):
    """How the tasks' true functions correlate, and with them the tasks' gradients."""

    aligned = "aligned"
    independent = "independent"
    conflict = "conflict"

    @property
    def correlation(self) -> Array:
        """Correlation matrix of the tasks' logits, (5, 5), in the order of `LABELS`."""
        matrix = np.full((NUM_TASKS, NUM_TASKS), 0.0 if self is Conflict.independent else 0.3)
        if self is Conflict.conflict:
            matrix[0, 1:] = matrix[1:, 0] = -0.3
            matrix[0, 1] = matrix[1, 0] = -0.6
        np.fill_diagonal(matrix, 1.0)
        return matrix


@dataclass
class Synthetic:
    """Settings of the synthetic data set.

    Attributes:
        rows: Impressions, the held-out ones included.
        num_users: Distinct user ids.
        num_items: Distinct item ids.
        num_tags: Distinct tag ids.
        seed: Seed of every random stream.
        conflict: Correlation of the tasks.
        shares: Shares of the logits' variance due to the dense, user, item, tag and interaction
            effects; they sum to 1. Without interaction: .45, .2, .2, .15, 0.
        rows_per_shard: Rows drawn from one random stream and written as one Parquet row group.
        evaluation_fraction: Share of the rows, the last in time, that are held out.
    """

    rows: int = 200_000
    num_users: int = 5_000
    num_items: int = 2_000
    num_tags: int = 300
    seed: int = 17
    conflict: Conflict = Conflict.aligned
    shares: list[float] = field(default_factory=lambda: [0.35, 0.15, 0.15, 0.10, 0.25])
    rows_per_shard: int = 8_192
    evaluation_fraction: float = 0.2

    def __post_init__(self) -> None:
        """Raises ValueError for settings that describe no data set."""
        # With fewer entities, an effect may not vary in all five directions.
        least = {"num_users": 20, "num_items": 20, "num_tags": 20, "rows_per_shard": 1, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"expected {name} >= {bound}, got {getattr(self, name)}")
        shares = self.shares
        if not (len(shares) == 5 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
            raise ValueError(f"expected five shares >= 0 that sum to 1, got {shares}")
        fraction = self.evaluation_fraction
        if not 0 < fraction < 1:
            raise ValueError(f"expected 0 < evaluation_fraction < 1, got {fraction}")
        if not 0 < self.evaluation_rows < self.rows:
            raise ValueError(f"expected rows to train on and rows to hold out, got {self.rows}")

    @property
    def evaluation_rows(self) -> int:
        """Number of rows held out, at the end of the log."""
        return round(self.rows * self.evaluation_fraction)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that tell apart data sets of different content."""
        plain = json.dumps([VERSION, self.plain()], sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()[:16]

    def plain(self) -> dict[str, Any]:
        """The settings in types that JSON has."""
        return asdict(self) | {
            "conflict": self.conflict.name,
            "shares": [float(share) for share in self.shares],
        }
