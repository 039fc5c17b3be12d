"""What a data set looks like: its columns, and how each becomes a model input.

These dataclasses are the `data` part of the config schema as well; they import nothing heavy.
"""

from dataclasses import dataclass, field
from enum import Enum

# Columns that start so hold what a model must never see (the true probabilities of the
# synthetic world); no feature, label or weight can name one.
HIDDEN_PREFIX = "__"


class Order(Enum):
    """How rows are dealt to the ranks.

    `dealt` gives each rank and loader worker a stretch of row groups of its own, equally many
    rows each, and scales. `exact` makes global batch t a function of the data, the seed, the
    epoch and the global batch size alone; each rank takes its slice of it, so that W ranks see
    what one rank would see.
    """

    dealt = "dealt"
    exact = "exact"


class Transform(Enum):
    """What is done to a numerical value x before it is standardised: nothing, or log(1 + x)."""

    none = "none"
    log1p = "log1p"


@dataclass
class Categorical:
    """An integer id column, or with `multi_hot` a list of them, with an embedding table.

    Attributes:
        cardinality: ids are in [0, cardinality); one outside is an error.
        hash_size: any integer is allowed and is hashed to [0, hash_size). Set one of the two.
        multi_hot: the column holds lists of ids, empty ones included; embeddings are summed.
        embedding_dim: width of the table's rows; default: the model's.
        column: its name in the files; default: the name of the feature.
    """

    cardinality: int | None = None
    hash_size: int | None = None
    multi_hot: bool = False
    embedding_dim: int | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        sizes = [size for size in (self.cardinality, self.hash_size) if size is not None]
        if len(sizes) != 1 or sizes[0] < 1:
            raise ValueError(
                "expected a categorical column to have either cardinality or hash_size, at least "
                f"1, got cardinality={self.cardinality}, hash_size={self.hash_size}"
            )

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding table."""
        return self.cardinality or self.hash_size or 0


@dataclass
class Numerical:
    """A number column; the model sees (transform(x) - mean) / std.

    Attributes:
        transform: applied first; `log1p` needs x >= 0.
        mean: subtracted, on the transformed scale.
        std: divided by, on the transformed scale; positive.
        column: its name in the files; default: the name of the feature.
    """

    transform: Transform = Transform.none
    mean: float = 0.0
    std: float = 1.0
    column: str | None = None

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"expected std of a numerical column to be positive, got {self.std}")


@dataclass
class Columns:
    """The columns of a data set that training reads.

    Attributes:
        categorical: feature name -> column; the order is that of the model's input.
        numerical: feature name -> column.
        labels: label name, which tasks refer to -> column with values in [0, 1].
        weight: column of sample weights >= 0; default: every row weighs 1.
        oracle: task name -> hidden column (`__...`) with its true probability, of simulated data.
    """

    categorical: dict[str, Categorical] = field(default_factory=dict)
    numerical: dict[str, Numerical] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    weight: str | None = None
    oracle: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.categorical:
            raise ValueError("expected at least one categorical column, got none")
        seen = [f.column or name for name, f in self.categorical.items()]
        seen += [f.column or name for name, f in self.numerical.items()]
        if hidden := [name for name in seen if name.startswith(HIDDEN_PREFIX)]:
            raise ValueError(f"expected features that are not hidden columns, got {hidden}")
        visible = [*self.labels.values(), *([self.weight] if self.weight else [])]
        if leaks := sorted(set(seen) & set(visible)):
            raise ValueError(f"expected features that are no labels or weights, got {leaks}")
        if plain := [n for n in self.oracle.values() if not n.startswith(HIDDEN_PREFIX)]:
            raise ValueError(f"expected oracle columns that start with '__', got {plain}")
        if hidden := [name for name in visible if name.startswith(HIDDEN_PREFIX)]:
            raise ValueError(f"expected labels that are not hidden columns, got {hidden}")
