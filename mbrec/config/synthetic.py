"""A synthetic impression log with a click-conversion funnel and a known Bayes optimum.

Users, items and tags follow power laws; each task's logit is a weighted sum of a dense, a user,
an item, a tag and a user-item interaction effect. The probabilities that the labels are drawn
from travel with the rows as oracle columns, so that a model can be scored against the best
that any model could reach. `mbrec synthetic FOLDER [key=value ...]` writes one.
"""

import hashlib
import json
import math
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

VERSION = 2  # raise it whenever the same settings give other rows or columns
NUM_TASKS = len(LABELS)

# Those left at their defaults do not count in the fingerprint, so that a new one does not make old
# data sets out of date.
_OPTIONS = ("days", "drift", "scale", "history_length", "raw_dense", "delay", "horizon")
_LARGEST_SCALE = 4.0  # beyond it, probabilities round to 0 and 1


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
        rows: impressions, the held-out ones included.
        num_users, num_items, num_tags: numbers of different ids.
        seed: of every random stream.
        conflict: correlation of the tasks.
        shares: shares of the logits' variance due to the dense, user, item, tag and interaction
            effects; they sum to 1. Without interaction: .45, .2, .2, .15, 0.
        rows_per_shard: rows drawn from one random stream and written as one Parquet row group.
        evaluation_fraction: share of the rows, the last in time, that are held out.
        days: length of the log; rows come at an even rate. Column `day` counts from 0.
        drift: angle in radians by which the dense effects turn from the first row to the last.
            Rates, variances and correlations stay; a model of the first rows ages.
        scale: factors of the standard deviations of the logits of click, conversion, like, share
            and comment, at most 4. A task with a larger one has larger gradients.
        history_length: longest list in the column `history` of item ids, which is drawn apart from
            everything else, explains nothing, and is often empty. 0: no such column.
        raw_dense: whether to add columns `x0_raw` to `x7_raw` = exp(x), of which 5% are null.
        delay: mean days from a click to its conversion, exponentially distributed; 0: none. With a
            delay, rows to train on have the label that is known `horizon` days after the last of
            them: 1 turns into 0 where the conversion comes later. Held-out rows have the final one.
        horizon: days from the end of the rows to train on until their labels are read; see `delay`.
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
    days: int = 10
    drift: float = 0.0
    scale: list[float] = field(default_factory=lambda: [1.0] * NUM_TASKS)
    history_length: int = 0
    raw_dense: bool = False
    delay: float = 0.0
    horizon: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for settings that describe no data set."""
        # With fewer entities, an effect may not vary in all five directions.
        least = {"num_users": 20, "num_items": 20, "num_tags": 20, "rows_per_shard": 1, "seed": 0}
        least |= {"days": 1, "drift": 0, "history_length": 0, "delay": 0, "horizon": 0}
        for name, bound in least.items():
            if not bound <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} >= {bound}, got {getattr(self, name)}")
        shares = self.shares
        if not (len(shares) == 5 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
            raise ValueError(f"expected five shares >= 0 that sum to 1, got {shares}")
        fraction = self.evaluation_fraction
        if not 0 < fraction < 1:
            raise ValueError(f"expected 0 < evaluation_fraction < 1, got {fraction}")
        if not 0 < self.evaluation_rows < self.rows:
            raise ValueError(f"expected rows to train on and rows to hold out, got {self.rows}")
        if not (len(self.scale) == 5 and all(0 < k <= _LARGEST_SCALE for k in self.scale)):
            most = f"{_LARGEST_SCALE:g}"
            raise ValueError(f"expected five scales > 0 and at most {most}, got {self.scale}")
        if self.horizon and not self.delay:
            raise ValueError(f"expected a delay where there is a horizon, got {self.horizon}")

    @property
    def evaluation_rows(self) -> int:
        """Number of rows held out, the last of the log."""
        return round(self.rows * self.evaluation_fraction)

    @property
    def train_rows(self) -> int:
        """Number of rows to train on."""
        return self.rows - self.evaluation_rows

    @property
    def train_shards(self) -> int:
        """Number of shards to train on; those that follow are held out."""
        return -(-self.train_rows // self.rows_per_shard)

    def first_row(self, shard: int) -> int:
        """Return the position of a shard's first row; the last one to train on may be short."""
        if shard < self.train_shards:
            return shard * self.rows_per_shard
        return self.train_rows + (shard - self.train_shards) * self.rows_per_shard

    @property
    def sigmas(self) -> Array:
        """Standard deviation of each task's logit, (5,)."""
        return np.array(SIGMAS) * self.scale

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits, different for data sets of different content."""
        plain, usual = self.plain(), Synthetic().plain()
        plain = {k: v for k, v in plain.items() if k not in _OPTIONS or v != usual[k]}
        text = json.dumps([VERSION, plain], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def plain(self) -> dict[str, Any]:
        """Return the settings in types that JSON has."""
        return asdict(self) | {
            "conflict": self.conflict.name,
            "shares": [float(share) for share in self.shares],
            "scale": [float(factor) for factor in self.scale],
            "drift": float(self.drift),
            "delay": float(self.delay),
            "horizon": float(self.horizon),
        }
