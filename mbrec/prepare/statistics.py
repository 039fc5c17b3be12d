"""What the columns of a data set hold, gathered table by table in bounded memory."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from mbrec.columns.hashing import hash_ids, hash_strings
from mbrec.columns.manifest import QUANTILES, Column
from mbrec.columns.schema import HIDDEN_PREFIX

SAMPLE = 1 << 18  # maximum number of values that the quantiles are taken of
MAX_VOCABULARY = 2_000_000
MAX_VOCABULARY_BYTES = 256 << 20

_HASHES = 1 << 62
_LARGEST_INT = 2**63 - 1
_COUNTS = pa.schema([("values", pa.large_string()), ("counts", pa.int64())])


class Statistics:
    """Statistics of every column that a model may see.

    Args:
        schema: of the tables; hidden columns (`__...`) are left out.
        cardinality: column -> number of ids, where it is known; default: the largest + 1. Is read
            when the columns are asked for.
    """

    def __init__(self, schema: pa.Schema, cardinality: Mapping[str, int]) -> None:
        names = [name for name in schema.names if not name.startswith(HIDDEN_PREFIX)]
        self._columns = {name: _Column(schema.field(name).type) for name in names}
        self._cardinality = cardinality

    def update(self, table: pa.Table) -> None:
        """Add rows."""
        for name, column in self._columns.items():
            column.update(table[name])

    def columns(self) -> dict[str, Column]:
        """Return what was found.

        Raises:
            ValueError: naming a column with ids that are not below its cardinality.
        """
        found = {name: column.result() for name, column in self._columns.items()}
        for name, known in self._cardinality.items():
            least, most = found[name].min or 0, found[name].cardinality or 0
            if least < 0 or most > known:
                raise ValueError(
                    f"column '{name}': expected ids in [0, {known}), the cardinality that was "
                    f"given, got {int(least) if least < 0 else most - 1}"
                )
            found[name].cardinality = known
        return found

    def vocabularies(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield the different strings of each column of strings, most frequent first."""
        for name, column in self._columns.items():
            if (
                isinstance(column.values, _Strings)
                and (table := column.values.vocabulary()) is not None
            ):
                yield name, table


class _Column:
    def __init__(self, kind: pa.DataType) -> None:
        self.nulls = self.rows = self.elements = self.longest = self.null_values = 0
        self.lists = pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
        kind = kind.value_type if self.lists else kind
        self.kind = kind.value_type if pt.is_dictionary(kind) else kind
        self.values: _Numbers | _Times | _Strings | None = None
        if pt.is_string(self.kind) or pt.is_large_string(self.kind):
            self.values = _Strings()
        elif pt.is_timestamp(self.kind) or pt.is_date(self.kind):
            self.values = _Times()
        elif pt.is_integer(self.kind) or pt.is_boolean(self.kind):
            self.values = _Numbers(integers=True)
        elif pt.is_floating(self.kind) or pt.is_decimal(self.kind):
            self.values = _Numbers(integers=False)

    def update(self, column: pa.ChunkedArray) -> None:
        self.rows += len(column)
        self.nulls += column.null_count
        for array in column.chunks:
            if self.lists:
                lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
                self.longest = max(self.longest, int(lengths.max(initial=0)))
                array = array.flatten()
                self.elements += len(array)
                self.null_values += array.null_count
            if self.values is not None and len(array):
                self.values.update(array.cast(self.kind) if pt.is_dictionary(array.type) else array)

    def result(self) -> Column:
        said: dict[str, Any] = self.values.result() if self.values is not None else {}
        if self.lists:
            lists = self.rows - self.nulls
            said |= {"max_length": self.longest, "null_values": self.null_values or None}
            said["mean_length"] = self.elements / lists if lists else None
        return Column(nulls=self.nulls, **said)


class _Times:
    def __init__(self) -> None:
        self.ends: dict[str, Any] = {}
        self.zone = ""

    def update(self, array: pa.Array) -> None:
        if pt.is_timestamp(array.type) and array.type.tz is not None:
            # Arrow keeps these in UTC; without a zone, no database of zones is asked for.
            array, self.zone = array.view(pa.timestamp(array.type.unit)), "Z"
        for key, end in _ends(array).items():
            if end.is_valid:
                both = [self.ends.get(key, end), end]
                self.ends[key] = pc.call_function(f"{key}_element_wise", both)

    def result(self) -> dict[str, Any]:
        names = {"min": "first", "max": "last"}
        return {names[k]: f"{end.cast(pa.string())}{self.zone}" for k, end in self.ends.items()}


class _Numbers:
    def __init__(self, integers: bool) -> None:
        self.integers = integers
        self.largest, self.smallest = -1, 0
        self.seen = self.not_finite = 0
        self.plain, self.log1p = _Moments(), _Moments()
        self.sample = _Sample()

    def update(self, array: pa.Array) -> None:
        places = np.arange(self.seen, self.seen + len(array))
        self.seen += len(array)
        if array.null_count:
            places = places[array.is_valid().to_numpy(zero_copy_only=False)]
            array = array.drop_null()
        if not len(array):
            return
        if pt.is_boolean(array.type):
            array = array.cast(pa.int8())
        if self.integers:
            # As integers: the floating-point numbers below have 53 bits.
            ends = _ends(array)
            self.smallest = min(ends["min"].as_py(), self.smallest)
            self.largest = max(ends["max"].as_py(), self.largest)
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        finite = np.isfinite(values)
        if not finite.all():
            values, places = values[finite], places[finite]
            self.not_finite += int((~finite).sum())
        self.plain.update(values)
        if self.plain.smallest > -1:
            self.log1p.update(np.log1p(values))
        self.sample.update(values, places)

    def result(self) -> dict[str, Any]:
        plain = self.plain
        said: dict[str, Any] = {"not_finite": self.not_finite or None}
        if self.integers and self.smallest >= 0 and self.largest + 1 <= _LARGEST_INT:
            said["cardinality"] = self.largest + 1
        if plain.count:
            said |= {"min": plain.smallest, "max": plain.largest, **plain.result("")}
            quantiles = self.sample.quantiles()
            said["quantiles"] = [plain.smallest, *quantiles[1:-1], plain.largest]
        return said | (self.log1p.result("log1p_") if plain.smallest > -1 else {})


class _Moments:
    """Mean and spread, with the update of Chan, Golub and LeVeque (1979) around a shift."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.shift = 0, 0.0, 0.0, 0.0
        self.smallest, self.largest = math.inf, -math.inf

    def update(self, values: np.ndarray) -> None:
        if not len(values):
            return
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))
        if not self.count:
            self.shift = float(np.quantile(values, 0.5, method="nearest"))
        count = self.count + len(values)
        with np.errstate(over="ignore", invalid="ignore"):  # see `result`
            values = values - self.shift
            mean = values.mean()
            step = mean - self.mean
            self.squares += float(np.square(values - mean).sum())
            self.squares += float(step * step * self.count * (len(values) / count))
            self.mean += float(step * (len(values) / count))
        self.count = count

    def result(self, prefix: str) -> dict[str, float]:
        """Return mean and standard deviation, unless they are beyond floating-point numbers."""
        if not self.count or not math.isfinite(self.squares):
            return {}
        std = math.sqrt(self.squares / self.count)
        return {f"{prefix}mean": self.shift + self.mean, f"{prefix}std": std}


class _Sample:
    """Values whose place has a hash below a threshold, which falls as there are more of them.

    What is kept depends on the values and their places alone, not on how they were cut up.
    """

    def __init__(self) -> None:
        self.threshold = _HASHES
        self.values, self.hashes = np.empty(0), np.empty(0, np.int64)

    def update(self, values: np.ndarray, places: np.ndarray) -> None:
        hashes = hash_ids(places, _HASHES)
        chosen = hashes < self.threshold
        self.values = np.concatenate([self.values, values[chosen]])
        self.hashes = np.concatenate([self.hashes, hashes[chosen]])
        while len(self.values) > SAMPLE:
            self.threshold //= 2
            chosen = self.hashes < self.threshold
            self.values, self.hashes = self.values[chosen], self.hashes[chosen]

    def quantiles(self) -> list[float]:
        """Return sampled values at 0%, 1% ... 100%."""
        steps = np.linspace(0, 1, QUANTILES)
        return np.quantile(self.values, steps, method="nearest").tolist()


class _Strings:
    """Counts of different strings; of too many, only their number is estimated."""

    def __init__(self) -> None:
        self.counts: pa.Table | None = _COUNTS.empty_table()
        self.pending: list[pa.Table] = []
        self.new = self.new_bytes = 0
        self.threshold, self.hashes = _HASHES, np.empty(0, np.int64)

    def update(self, array: pa.Array) -> None:
        array = array.drop_null().cast(pa.large_string())
        if self.counts is None:
            self._sample(array)
        elif len(array):
            self.pending.append(pa.Table.from_struct_array(array.value_counts()).cast(_COUNTS))
            self.new += len(self.pending[-1])
            self.new_bytes += self.pending[-1].nbytes
            if self.new > len(self.counts) + 2**17 or self.new_bytes > MAX_VOCABULARY_BYTES:
                self._compact()

    def _compact(self) -> None:
        if self.counts is None or not self.pending:
            return
        together = pa.concat_tables([self.counts, *self.pending]).group_by("values")
        counts = together.aggregate([("counts", "sum")]).rename_columns(_COUNTS.names)
        self.counts, self.pending = counts, []
        self.new = self.new_bytes = 0
        if len(counts) > MAX_VOCABULARY or counts.nbytes > MAX_VOCABULARY_BYTES:
            self.counts = None
            for array in counts["values"].chunks:
                self._sample(array)

    def _sample(self, array: pa.Array) -> None:
        hashes = hash_strings(array, _HASHES)
        self.hashes = np.union1d(self.hashes, hashes[hashes < self.threshold])
        while len(self.hashes) > SAMPLE:
            self.threshold //= 2
            self.hashes = self.hashes[self.hashes < self.threshold]

    def result(self) -> dict[str, Any]:
        self._compact()
        if self.counts is not None:
            return {"cardinality": len(self.counts)}
        # Each string is kept with the same chance, whatever the number of times it comes.
        distinct = len(self.hashes) * (_HASHES // self.threshold)
        return {"cardinality": distinct, "note": "too many strings for a vocabulary: hash them"}

    def vocabulary(self) -> pa.Table | None:
        self._compact()
        if self.counts is None:
            return None
        order = [("counts", "descending"), ("values", "ascending")]
        values = self.counts.sort_by(order)["values"].cast(pa.string())
        return pa.table({"value": values})


def _ends(array: pa.Array) -> dict[str, Any]:
    return dict(pc.call_function("min_max", [array]).items())
