"""Arrow columns -> checked, transformed arrays. Nothing bad gets past this file."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mbrec.data.block import Block
from mbrec.data.schema import Categorical, Columns, Numerical, Transform


class Encoder:
    """Turns Arrow tables into blocks, by a `Columns` schema.

    Args:
        columns: the schema.
        labels: names of the labels wanted, in order.
        oracle: columns with true probabilities, in order; may be empty.
    """

    def __init__(self, columns: Columns, labels: Sequence[str], oracle: Sequence[str]) -> None:
        self.columns = columns
        self.labels = [columns.labels[label] for label in labels]
        self.oracle = list(oracle)

    @property
    def names(self) -> list[str]:
        """Every column that is read from the files, once each."""
        names = [feature.column or name for name, feature in self.columns.categorical.items()]
        names += [feature.column or name for name, feature in self.columns.numerical.items()]
        names += self.labels + ([self.columns.weight] if self.columns.weight else []) + self.oracle
        return list(dict.fromkeys(names))

    def check_types(self, schema: pa.Schema, file: str) -> None:
        """Refuse a file whose columns are missing or of the wrong type, before reading it.

        Raises:
            ValueError: naming the file, the columns, and what was expected.
        """
        if missing := [name for name in self.names if name not in schema.names]:
            raise ValueError(
                f"{file}: expected the columns {', '.join(missing)}, "
                f"got a file with {', '.join(schema.names)}"
            )
        for name, feature in self.columns.categorical.items():
            found = schema.field(feature.column or name).type
            _check_id_type(file, feature.column or name, feature, found)
        rest = [feature.column or name for name, feature in self.columns.numerical.items()]
        weight = [self.columns.weight] if self.columns.weight else []
        for name in rest + self.labels + weight + self.oracle:
            if not _is_number(found := schema.field(name).type):
                raise ValueError(f"{file}: column '{name}': expected numbers, got type {found}")

    def encode(self, table: pa.Table, first_row: int, where: "Where") -> Block:
        """Return a checked block of a table's rows.

        Args:
            table: one row group, with at least the columns of `names`.
            first_row: position in the data set of its first row.
            where: what an error names.

        Raises:
            ValueError: naming file, row group, row, column and value.
        """
        one_hot, bags = [], []
        for name, feature in self.columns.categorical.items():
            column = table[feature.column or name].combine_chunks()
            if feature.multi_hot:
                bags.append(_encode_bag(column, feature, where.column(feature.column or name)))
            else:
                one_hot.append(_encode_ids(column, feature, where.column(feature.column or name)))
        n = len(table)
        dense = [
            _encode_numerical(
                table[f.column or name].combine_chunks(), f, where.column(f.column or name)
            )
            for name, f in self.columns.numerical.items()
        ]
        labels = [self._unit(table, name, where, np.float32) for name in self.labels]
        oracle = [self._unit(table, name, where, np.float64) for name in self.oracle]
        return Block(
            np.stack(one_hot) if one_hot else np.empty((0, n), np.int64),
            bags,
            np.stack(dense, axis=1) if dense else np.empty((n, 0), np.float32),
            np.stack(labels, axis=1),
            self._weights(table, where),
            np.stack(oracle, axis=1) if oracle else np.empty((n, 0), np.float64),
            np.arange(first_row, first_row + n),
        )

    def _unit(self, table: pa.Table, name: str, where: "Where", dtype: type) -> np.ndarray:
        where = where.column(name)
        values = _numbers(table[name].combine_chunks(), where)
        unit = _cast(values, dtype)
        where.refuse(~((unit >= 0) & (unit <= 1)), values, "a value in [0, 1]")
        return unit

    def _weights(self, table: pa.Table, where: "Where") -> np.ndarray:
        name = self.columns.weight
        if name is None:
            return np.ones(len(table), np.float32)
        where = where.column(name)
        values = _numbers(table[name].combine_chunks(), where)
        weights = _cast(values, np.float32)
        where.refuse(~(weights >= 0), values, "a weight of at least 0")
        where.refuse(np.isinf(weights), values, "a weight that fits in 32 bits")
        return weights


@dataclass(frozen=True)
class Where:
    """The place that an error in the data is reported at."""

    file: str
    row_group: int
    name: str = ""

    def column(self, name: str) -> "Where":
        """Return the same place in a column."""
        return Where(self.file, self.row_group, name)

    def refuse(
        self,
        bad: np.ndarray,
        values: np.ndarray | None,
        expected: str,
        rows: np.ndarray | None = None,
    ) -> None:
        """Raise for the first True in `bad`.

        Args:
            bad: bool, one a value.
            values: the values, or None where they are null.
            expected: what would have been right.
            rows: the row of each value in the row group; default: its index.

        Raises:
            ValueError: naming file, row group, row, column, value and what was expected.
        """
        if not bad.any():
            return
        first = int(bad.argmax())
        row = first if rows is None else int(rows[first])
        got = "null" if values is None else values[first]
        raise ValueError(
            f"{self.file}: row group {self.row_group}, row {row}, column '{self.name}': "
            f"expected {expected}, got {got} ({int(bad.sum())} such in this row group)"
        )


def hash_ids(ids: np.ndarray, size: int) -> np.ndarray:
    """Hash integers to [0, size), the same on every machine (the splitmix64 finaliser)."""
    x = ids.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(size)).astype(np.int64)


def _is_number(found: pa.DataType) -> bool:
    return pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_boolean(found)


def _check_id_type(file: str, name: str, feature: Categorical, found: pa.DataType) -> None:
    is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
    value = found.value_type if is_list else found
    if is_list != feature.multi_hot or not pa.types.is_integer(value):
        expected = "lists of integer ids" if feature.multi_hot else "integer ids"
        raise ValueError(f"{file}: column '{name}': expected {expected}, got type {found}")


def _refuse_nulls(column: pa.Array, where: Where, rows: np.ndarray | None = None) -> None:
    if column.null_count:
        where.refuse(column.is_null().to_numpy(False), None, "a value in every row", rows)


def _check_ids(
    ids: np.ndarray, feature: Categorical, where: Where, rows: np.ndarray | None = None
) -> np.ndarray:
    if feature.hash_size is not None:
        return hash_ids(ids, feature.hash_size)
    size = feature.num_embeddings
    if len(ids) and (ids.min() < 0 or ids.max() >= size):
        where.refuse((ids < 0) | (ids >= size), ids, f"an id in [0, {size})", rows)
    return ids.astype(np.int64, copy=False)


def _encode_ids(column: pa.Array, feature: Categorical, where: Where) -> np.ndarray:
    _refuse_nulls(column, where)
    return _check_ids(column.to_numpy(zero_copy_only=False), feature, where)


def _encode_bag(
    column: pa.Array, feature: Categorical, where: Where
) -> tuple[np.ndarray, np.ndarray]:
    _refuse_nulls(column, where)
    offsets = column.offsets.to_numpy().astype(np.int64)
    offsets -= offsets[0]
    flat = column.flatten()
    rows = np.repeat(np.arange(len(column)), np.diff(offsets))
    _refuse_nulls(flat, where, rows)
    return _check_ids(flat.to_numpy(zero_copy_only=False), feature, where, rows), offsets


def _numbers(column: pa.Array, where: Where) -> np.ndarray:
    _refuse_nulls(column, where)
    values = column.to_numpy(zero_copy_only=False)
    where.refuse(~np.isfinite(values), values, "a finite number")
    return values


def _cast(values: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(over="ignore"):  # the callers refuse the infinities that come of it
        return values.astype(dtype)


def _encode_numerical(column: pa.Array, feature: Numerical, where: Where) -> np.ndarray:
    values = _numbers(column, where).astype(np.float64)
    scaled = values
    if feature.transform is Transform.log1p:
        where.refuse(values < 0, values, "a number of at least 0 (it goes through log1p)")
        scaled = np.log1p(values)
    dense = _cast((scaled - feature.mean) / feature.std, np.float32)
    where.refuse(~np.isfinite(dense), values, "a number that fits in 32 bits once standardised")
    return dense
