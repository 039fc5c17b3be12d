"""What a data set looks like: its columns, and how each becomes a model input.

These dataclasses are the `data` part of the config schema as well; they import nothing heavy.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

from mbrec.columns.expression import parse

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


class OutOfVocabulary(Enum):
    """What becomes of an id outside the vocabulary: an error, its hash, or one row for them all.

    The share of ids that took the row `oov` is written to TensorBoard.
    """

    error = "error"
    hash = "hash"
    oov = "oov"


class Keep(Enum):
    """Which ids of a list that is longer than `max_length` the model sees: the first or the last.

    Which of them are the newest is up to whoever wrote the lists. The share of ids that were cut
    off is written to TensorBoard.
    """

    first = "first"
    last = "last"


class MissingId(Enum):
    """What becomes of a missing id (null, or NaN in a column of numbers): an error, or a row."""

    error = "error"
    row = "row"


class MissingNumber(Enum):
    """What becomes of a missing number (null or NaN).

    An error; 0 on the model's scale, which is the mean once standardised; or that, and a further
    input that is 1 where the number is missing.
    """

    error = "error"
    mean = "mean"
    indicator = "indicator"


@dataclass
class Categorical:
    """A column of ids with an embedding table, or with `multi_hot` a column of lists of ids.

    What is left out is taken from the data set's manifest, where there is one.

    Attributes:
        cardinality: ids are integers in [0, cardinality).
        hash_size: integers or strings of any kind, hashed to [0, hash_size).
        vocabulary: a Parquet file below the data set's folder with a column `value`; integers or
            strings, whose id is their position in it.
        boundaries: the column holds numbers; the id is how many boundaries are at most the number.
        num_buckets: the same, with quantiles of the training rows as boundaries.
        multi_hot: the column holds lists, empty ones included; embeddings are summed.
        weights: a column of lists of numbers, one for each id, that multiply the embeddings.
        max_length: lists are cut to that many ids.
        keep: which ids of a longer list are kept; those that were saved before there was a choice
            have learned from the first.
        missing: what becomes of a missing value.
        out_of_vocabulary: what becomes of an id outside the cardinality or vocabulary.
        salt: another one gives other hashes.
        table: features that name the same one share an embedding table; default: their own.
        embedding_dim: width of the table's rows; default: the model's.
        column: its name in the files; default: the name of the feature.
    """

    cardinality: int | None = None
    hash_size: int | None = None
    vocabulary: str | None = None
    boundaries: list[float] | None = None
    num_buckets: int | None = None
    multi_hot: bool = False
    weights: str | None = None
    max_length: int | None = None
    keep: Keep = Keep.first
    missing: MissingId = MissingId.error
    out_of_vocabulary: OutOfVocabulary = OutOfVocabulary.error
    salt: int = 0
    table: str | None = None
    embedding_dim: int | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        self._check_kind()
        for name in ("cardinality", "hash_size", "max_length", "embedding_dim"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"expected {name} of at least 1, got {value}")
        if self.num_buckets is not None and not 2 <= self.num_buckets <= 100:
            raise ValueError(f"expected num_buckets of 2 to 100, got {self.num_buckets}")
        edges = self.boundaries
        rising = edges is None or (sorted(set(edges)) == edges and all(map(math.isfinite, edges)))
        if not rising:
            raise ValueError(f"expected finite, rising boundaries, got {edges}")
        if self.multi_hot and self.is_bucketised:
            raise ValueError("expected buckets of numbers, got multi_hot")
        if not self.multi_hot and (self.weights is not None or self.max_length is not None):
            raise ValueError("expected multi_hot with weights or max_length, got neither")
        if self.keep is not Keep.first and self.max_length is None:
            raise ValueError(f"expected max_length with keep: {self.keep.name}, got none")
        policy = self.out_of_vocabulary
        if policy is not OutOfVocabulary.error and (self.hash_size or self.is_bucketised):
            raise ValueError(
                "expected out_of_vocabulary with a cardinality or vocabulary: every value has a "
                f"hash and a bucket, got {policy.name}"
            )
        if self.salt and not (self.hash_size or policy is OutOfVocabulary.hash):
            raise ValueError(f"expected salt with hashing, got {self.salt}")

    def _check_kind(self) -> None:
        kinds = {"cardinality": self.cardinality, "hash_size": self.hash_size}
        kinds |= {"vocabulary": self.vocabulary, "boundaries": self.boundaries}
        kinds |= {"num_buckets": self.num_buckets}
        given = [name for name, value in kinds.items() if value is not None]
        allowed = ({"cardinality", "vocabulary"}, {"boundaries", "num_buckets"})
        if len(given) > 1 and set(given) not in allowed:
            raise ValueError(
                f"expected one of {', '.join(kinds)} for a categorical column, got "
                f"{', '.join(given)}"
            )

    @property
    def is_bucketised(self) -> bool:
        """Whether it is a number in buckets."""
        return self.boundaries is not None or self.num_buckets is not None

    @property
    def num_ids(self) -> int:
        """Ids without the rows of missing and unknown ones."""
        if self.boundaries is not None:
            return len(self.boundaries) + 1
        assert self.cardinality or self.hash_size, "resolved from the manifest before it is used"
        return self.cardinality or self.hash_size or 0

    @property
    def oov_row(self) -> int:
        """The table's row of ids outside the vocabulary."""
        return self.num_ids

    @property
    def missing_row(self) -> int:
        """The table's row of missing ids."""
        return self.num_ids + 1

    @property
    def num_embeddings(self) -> int:
        """Rows that this feature needs of its embedding table."""
        if self.missing is MissingId.row:
            return self.missing_row + 1
        return self.num_ids + (self.out_of_vocabulary is OutOfVocabulary.oov)


@dataclass
class Numerical:
    """A number column; the model sees (transform(clip(x)) - mean) / std.

    Attributes:
        transform: `log1p` needs x >= 0.
        clip: the least and the largest value; default: no limits.
        standardise: take mean and std, on the transformed scale, from the data set's manifest.
        mean: subtracted, on the transformed scale.
        std: divided by, on the transformed scale; positive.
        missing: what becomes of a missing value.
        column: its name in the files; default: the name of the feature.
    """

    transform: Transform = Transform.none
    clip: list[float] | None = None
    standardise: bool = False
    mean: float = 0.0
    std: float = 1.0
    missing: MissingNumber = MissingNumber.error
    column: str | None = None

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"expected std of a numerical column to be positive, got {self.std}")
        if self.clip is not None and not (len(self.clip) == 2 and self.clip[0] < self.clip[1]):
            raise ValueError(f"expected clip: [least, largest], got {self.clip}")
        if self.standardise and (self.mean, self.std) != (0.0, 1.0):
            raise ValueError("expected standardise or a mean and std, got both")


@dataclass
class Columns:
    """The columns of a data set that training reads.

    Attributes:
        categorical: feature name -> column; the order is that of the model's input.
        numerical: feature name -> column.
        labels: label name, which tasks refer to -> column, or expression over columns, with
            values in [0, 1]; see `mbrec.columns.expression`.
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
        if both := sorted(set(self.categorical) & set(self.numerical)):
            raise ValueError(f"expected different names of features, got {', '.join(both)} twice")
        # A run saves its settings, and reads them back as plain data.
        for name in (*self.categorical, *self.numerical, *self.labels):
            if "${" in name:
                raise ValueError(f"expected names of features and labels without ${{, got {name}")
        seen = [f.column or name for name, f in self.categorical.items()]
        seen += [f.weights for f in self.categorical.values() if f.weights]
        seen += [f.column or name for name, f in self.numerical.items()]
        if hidden := [name for name in seen if name.startswith(HIDDEN_PREFIX)]:
            raise ValueError(f"expected features that are not hidden columns, got {hidden}")
        visible = [column for text in self.labels.values() for column in parse(text).columns]
        visible += [self.weight] if self.weight else []
        if leaks := sorted(set(seen) & set(visible)):
            raise ValueError(f"expected features that are no labels or weights, got {leaks}")
        if plain := [n for n in self.oracle.values() if not n.startswith(HIDDEN_PREFIX)]:
            raise ValueError(f"expected oracle columns that start with '__', got {plain}")
        if hidden := [name for name in visible if name.startswith(HIDDEN_PREFIX)]:
            raise ValueError(f"expected labels that are not hidden columns, got {hidden}")

    @property
    def tables(self) -> dict[str, list[str]]:
        """Name of each embedding table -> the features that share it."""
        tables: dict[str, list[str]] = {}
        for name, feature in self.categorical.items():
            tables.setdefault(feature.table or name, []).append(name)
        return tables

    @property
    def with_oov(self) -> list[str]:
        """The categorical features whose ids outside the vocabulary share a row."""
        oov = OutOfVocabulary.oov
        return [n for n, f in self.categorical.items() if f.out_of_vocabulary is oov]

    @property
    def cut(self) -> list[str]:
        """The categorical features whose lists are cut to a length."""
        return [n for n, f in self.categorical.items() if f.max_length is not None]

    @property
    def lost_ids(self) -> list[str]:
        """Names of the figures that say how many ids the model does not see."""
        unknown = [f"out_of_vocabulary/{name}" for name in self.with_oov]
        return unknown + [f"truncated/{name}" for name in self.cut]

    @property
    def dense_inputs(self) -> list[str]:
        """Names of the numerical module's inputs: the features, each before its indicator."""
        names = []
        for name, feature in self.numerical.items():
            names.append(name)
            if feature.missing is MissingNumber.indicator:
                names.append(f"{name} (missing)")
        return names

    @property
    def dense_width(self) -> int:
        """Inputs of the numerical module: the numerical features and their indicators."""
        return len(self.dense_inputs)
