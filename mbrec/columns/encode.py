"""Arrow columns -> checked, transformed arrays. Nothing bad gets past this file."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from mbrec.columns.block import Bag, Block
from mbrec.columns.expression import Expression, parse
from mbrec.columns.ids import encode_bag, encode_ids, type_problem
from mbrec.columns.schema import Columns, MissingNumber, Numerical, Transform
from mbrec.columns.where import Where


class Encoder:
    """Turns Arrow tables into blocks, by a `Columns` schema.

    Args:
        columns: the schema, resolved.
        labels: names of the labels wanted, in order.
        oracle: columns with true probabilities, in order; may be empty.
        vocabularies: of the features that have one; by the name of the file.

    Attributes:
        empty: a block without rows.
    """

    def __init__(
        self,
        columns: Columns,
        labels: Sequence[str],
        oracle: Sequence[str],
        vocabularies: Mapping[str, pa.Array] | None = None,
    ) -> None:
        self.columns = columns
        self.labels = [parse(columns.labels[label]) for label in labels]
        self.oracle = list(oracle)
        self._vocabularies = vocabularies or {}
        features = columns.categorical.values()
        num_bags = sum(feature.multi_hot for feature in features)
        self.empty = Block(
            np.empty((len(features) - num_bags, 0), np.int64),
            [Bag(np.empty(0, np.int64), np.zeros(1, np.int64)) for _ in range(num_bags)],
            np.empty((0, columns.dense_width), np.float32),
            np.empty((0, len(self.labels)), np.float32),
            np.empty(0, np.float32),
            np.empty((0, len(self.oracle)), np.float64),
            np.empty(0, np.int64),
        )

    @property
    def names(self) -> list[str]:
        """Every column that is read from the files, once each."""
        names = [feature.column or name for name, feature in self.columns.categorical.items()]
        names += [f.weights for f in self.columns.categorical.values() if f.weights]
        names += [feature.column or name for name, feature in self.columns.numerical.items()]
        names += [column for label in self.labels for column in label.columns]
        names += ([self.columns.weight] if self.columns.weight else []) + self.oracle
        return list(dict.fromkeys(names))

    @property
    def lists(self) -> list[str]:
        """The columns that hold lists."""
        bags = [(n, f) for n, f in self.columns.categorical.items() if f.multi_hot]
        names = [f.column or n for n, f in bags] + [f.weights for _, f in bags if f.weights]
        return list(dict.fromkeys(names))

    @property
    def strings(self) -> list[str]:
        """The columns that may hold strings, or lists of them, to be read as dictionaries."""
        features = self.columns.categorical.items()
        return [f.column or name for name, f in features if f.hash_size or f.vocabulary]

    def problems(self, schema: pa.Schema) -> list[str]:
        """Return everything that is wrong with the columns of a file, before it is read."""
        found = []
        if missing := [name for name in self.names if name not in schema.names]:
            there = ", ".join(schema.names)
            found.append(f"expected the columns {', '.join(missing)}, got a file with {there}")
        if twice := [name for name in self.names if schema.names.count(name) > 1]:
            return [*found, f"expected each column once, got {', '.join(twice)} more often"]
        numbers = [feature.column or name for name, feature in self.columns.numerical.items()]
        numerical = self.columns.numerical.items()
        # A column of nothing but nulls has no other type.
        nullable = {f.column or n for n, f in numerical if f.missing is not MissingNumber.error}
        numbers += [label.columns[0] for label in self.labels if label.is_column]
        numbers += ([self.columns.weight] if self.columns.weight else []) + self.oracle
        found += [
            f"column '{name}': expected numbers, got type {schema.field(name).type}"
            for name in dict.fromkeys(numbers)
            if name in schema.names
            and not _is_number(kind := schema.field(name).type)
            and not (pa.types.is_null(kind) and name in nullable)
        ]
        for name, feature in self.columns.categorical.items():
            column = feature.column or name
            vocabulary = self._vocabularies.get(feature.vocabulary or "")
            if column in schema.names and (
                problem := type_problem(feature, schema.field(column).type, vocabulary)
            ):
                found.append(f"column '{column}': {problem}")
            found += _weights_problem(feature.weights, schema)
        for label in self.labels:
            found += _label_problem(label, schema)
        return found

    def encode(
        self, table: pa.Table, first_row: int, where: Where, out: Block | None = None
    ) -> Block:
        """Return a checked block of a table's rows.

        Args:
            table: rows of a row group, with at least the columns of `names`.
            first_row: position in the data set of its first row.
            where: what an error names.
            out: where to write what has a fixed width; default: new memory.

        Raises:
            ValueError: naming file, row group, row, column and value.
        """
        block = Block.allocate(len(table), self.empty) if out is None else out
        block.bags, number = [], 0
        for name, feature in self.columns.categorical.items():
            column, at = _column(table, name, feature.column), where.column(feature.column or name)
            vocabulary = self._vocabularies.get(feature.vocabulary or "")
            if feature.multi_hot:
                weights = _column(table, feature.weights) if feature.weights else None
                block.bags.append(encode_bag(column, weights, feature, at, vocabulary))
            else:
                block.ids_Fn[number] = encode_ids(column, feature, at, vocabulary)
                number += 1
        width = 0
        for name, feature in self.columns.numerical.items():
            column, at = _column(table, name, feature.column), where.column(feature.column or name)
            width += _encode_numerical(column, feature, at, block.dense_nN[:, width:])
        for number, label in enumerate(self.labels):
            block.labels_nL[:, number] = self._label(table, label, where)
        for number, name in enumerate(self.oracle):
            column = _column(table, name)
            block.oracle_nO[:, number] = _unit(column, where.column(name), np.float64)
        block.weights_n[:] = self._weights(table, where)
        block.rows_n[:] = np.arange(first_row, first_row + len(table))
        return block

    def _label(self, table: pa.Table, label: Expression, where: Where) -> np.ndarray:
        where = where.column(label.text)
        try:
            values = label.evaluate(table)
        except ValueError as error:
            raise ValueError(f"{where.file}: row group {where.row_group}: {error}") from error
        return _unit(values, where, np.float32)

    def _weights(self, table: pa.Table, where: Where) -> np.ndarray | float:
        name = self.columns.weight
        if name is None:
            return 1.0
        where = where.column(name)
        values = _numbers(_column(table, name), where)
        weights = _cast(values, np.float32)
        where.refuse(~(weights >= 0), values, "a weight of at least 0")
        where.refuse(np.isinf(weights), values, "a weight that fits in 32 bits")
        return weights


def _column(table: pa.Table, name: str, other: str | None = None) -> pa.Array:
    return table[other or name].combine_chunks()


def _is_number(found: pa.DataType) -> bool:
    return pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_boolean(found)


def _weights_problem(name: str | None, schema: pa.Schema) -> list[str]:
    if name is None or name not in schema.names:
        return []
    found = schema.field(name).type
    nested = pa.types.is_list(found) or pa.types.is_large_list(found)
    nested = nested or pa.types.is_fixed_size_list(found)
    if nested and (pa.types.is_integer(found.value_type) or pa.types.is_floating(found.value_type)):
        return []
    return [f"column '{name}': expected lists of numbers, got type {found}"]


def _label_problem(label: Expression, schema: pa.Schema) -> list[str]:
    if label.is_column or any(name not in schema.names for name in label.columns):
        return []
    try:
        found = label.evaluate(schema.empty_table()).type
    except ValueError as error:
        return [f"label {error}"]
    return (
        [] if _is_number(found) else [f"label '{label.text}': expected numbers, got type {found}"]
    )


def _numbers(column: pa.Array, where: Where) -> np.ndarray:
    if column.null_count:
        where.refuse(column.is_null().to_numpy(False), None, "a value in every row")
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        where.refuse(~np.isfinite(values), values, "a finite number")
    return values


def _cast(values: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(over="ignore"):  # the callers refuse the infinities that come of it
        return values.astype(dtype)


def _unit(column: pa.Array, where: Where, dtype: type) -> np.ndarray:
    values = _numbers(column, where)
    unit = _cast(values, dtype)
    if len(unit) and not (unit.min() >= 0 and unit.max() <= 1):
        where.refuse(~((unit >= 0) & (unit <= 1)), values, "a value in [0, 1]")
    return unit


def _encode_numerical(
    column: pa.Array, feature: Numerical, where: Where, out_nN: np.ndarray
) -> int:
    """Write a feature, and its indicator if it has one, into the first columns of `out_nN`.

    Returns:
        How many columns were written.
    """
    if pa.types.is_null(column.type):
        column = column.cast(pa.float64())
    values = column.to_numpy(zero_copy_only=False)
    missing = None
    if feature.missing is not MissingNumber.error:
        values = values.astype(np.float64)
        missing = np.isnan(values)
        values[missing] = 0.0
    dense = _standardised(values, feature)
    # Checked as it comes out; which of the reasons it was is found out only if there is one.
    if (column.null_count and missing is None) or not np.isfinite(dense).all():
        _refuse_number(column, values, missing, feature, where)
    if missing is not None:
        dense[missing] = 0.0
    out_nN[:, 0] = dense
    if feature.missing is not MissingNumber.indicator:
        return 1
    out_nN[:, 1] = missing
    return 2


def _standardised(values: np.ndarray, feature: Numerical) -> np.ndarray:
    """Return what the model sees, float32; NaN or infinite where there is no such number."""
    plain = feature.clip is None and feature.transform is Transform.none
    if plain and feature.mean == 0 and feature.std == 1 and values.dtype == np.float32:
        return values
    scaled = values.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # the caller refuses what comes of it
        if feature.clip is not None:
            scaled = np.where(np.isinf(scaled), np.nan, _clipped(scaled, feature))
        if feature.transform is Transform.log1p:
            scaled = np.log1p(np.where(scaled < 0, np.nan, scaled))
        return _cast((scaled - feature.mean) / feature.std, np.float32)


def _clipped(values: np.ndarray, feature: Numerical) -> np.ndarray:
    if feature.clip is None:
        return values
    least, largest = feature.clip
    return np.clip(values, least, largest)


def _refuse_number(
    column: pa.Array,
    values: np.ndarray,
    missing: np.ndarray | None,
    feature: Numerical,
    where: Where,
) -> None:
    """Raise for the first bad number, by the first reason that one is bad for."""
    if missing is None:
        remedy = "set missing: mean or indicator"
        if column.null_count:
            null = column.is_null().to_numpy(False)
            where.refuse(null, None, "a value in every row", remedy=remedy)
        where.refuse(np.isnan(values), values, "a finite number", remedy=remedy)
    where.refuse(np.isinf(values), values, "a finite number")
    if feature.transform is Transform.log1p:
        clipped = _clipped(values, feature)
        where.refuse(clipped < 0, values, "a number of at least 0 (it goes through log1p)")
    bad = ~np.isfinite(_standardised(values, feature))
    where.refuse(bad, values, "a number that fits in 32 bits once standardised")
