"""Arrow columns -> checked, transformed arrays. Nothing bad gets past this file.

Shapes: n rows, F one-hot features, N numerical inputs, K targets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mbrec.columns.expression import Expression, parse
from mbrec.columns.ids import Bag, encode_bag, encode_ids, type_problem
from mbrec.columns.lookup import Lookup
from mbrec.columns.schema import Columns, MissingNumber, Numerical, Transform
from mbrec.columns.where import Where


class Target(NamedTuple):
    """Labels to read for a task.

    Attributes:
        label: name of the label.
        given: name of the label that says which rows count, by a value above 0; default: all.
        oracle: column with the true probability, if it is to be read.
    """

    label: str
    given: str | None = None
    oracle: str | None = None


class Part(NamedTuple):
    """Rows of a row group.

    Attributes:
        batch: the rows.
        first_row: position in the data set of the first one.
        where: the place that errors name.
    """

    batch: pa.RecordBatch
    first_row: int
    where: Where


@dataclass
class EncodedRows:
    """Rows in columns, as batches are cut from them.

    Attributes:
        ids_Fn: int64, one-hot features in config order.
        bags: of each multi-hot feature, in config order.
        dense_nN: float32.
        labels_nK: float32 in [0, 1]; 0 where masked.
        masks_nK: float32, 1 where the row counts for the target.
        weights_n: float32.
        oracle_nK: float64, nan for targets without an oracle; None if none has one.
        rows_n: int64, position in the data set.
    """

    ids_Fn: np.ndarray
    bags: list[Bag]
    dense_nN: np.ndarray
    labels_nK: np.ndarray
    masks_nK: np.ndarray
    weights_n: np.ndarray
    oracle_nK: np.ndarray | None
    rows_n: np.ndarray

    def __len__(self) -> int:
        return len(self.rows_n)

    def slice(self, start: int, stop: int) -> "EncodedRows":
        """Return rows [start, stop) as views."""
        bags = [bag.slice(start, stop) for bag in self.bags]
        return self._apply(self.ids_Fn[:, start:stop], bags, lambda part: part[start:stop])

    def memory_for(self, n: int) -> "EncodedRows":
        """Return n rows to be written, without bags, in this memory if they fit.

        The memory of a window is kept for the next one: to touch new memory costs more than to
        fill it.
        """
        num_one_hot = len(self.ids_Fn)
        if n <= len(self):
            ids_Fn = self.ids_Fn.reshape(-1)[: num_one_hot * n].reshape(num_one_hot, n)
            return self._apply(ids_Fn, [], lambda part: part[:n])
        ids_Fn = np.empty((num_one_hot, n), np.int64)
        return self._apply(ids_Fn, [], lambda part: np.empty((n, *part.shape[1:]), part.dtype))

    @staticmethod
    def concatenate(parts: "Sequence[EncodedRows]") -> "EncodedRows":
        """Return the rows of all parts, in order, in memory of their own."""
        oracles = [part.oracle_nK for part in parts if part.oracle_nK is not None]
        return EncodedRows(
            np.concatenate([part.ids_Fn for part in parts], axis=1),
            [Bag.concatenate(bags) for bags in zip(*(part.bags for part in parts), strict=True)],
            np.concatenate([part.dense_nN for part in parts]),
            np.concatenate([part.labels_nK for part in parts]),
            np.concatenate([part.masks_nK for part in parts]),
            np.concatenate([part.weights_n for part in parts]),
            np.concatenate(oracles) if oracles else None,
            np.concatenate([part.rows_n for part in parts]),
        )

    def _apply(
        self, ids_Fn: np.ndarray, bags: list[Bag], function: Callable[[np.ndarray], np.ndarray]
    ) -> "EncodedRows":
        """Return other ids and bags, and what a function returns for the other arrays."""
        return EncodedRows(
            ids_Fn,
            bags,
            function(self.dense_nN),
            function(self.labels_nK),
            function(self.masks_nK),
            function(self.weights_n),
            None if self.oracle_nK is None else function(self.oracle_nK),
            function(self.rows_n),
        )


class Encoder:
    """Turns Arrow tables into checked arrays, by a `Columns` schema.

    Args:
        columns: the schema, resolved.
        targets: the labels to read, in the order of the K columns.
        vocabularies: of the features that have one; by the name of the file.

    Attributes:
        empty: no rows.
    """

    def __init__(
        self,
        columns: Columns,
        targets: Sequence[Target],
        vocabularies: Mapping[str, pa.Array] | None = None,
    ) -> None:
        self.columns, self.targets = columns, list(targets)
        names = [target.label for target in targets]
        names += [target.given for target in targets if target.given is not None]
        self.labels = {name: parse(columns.labels[name]) for name in names}
        self._vocabularies = {file: Lookup(values) for file, values in (vocabularies or {}).items()}
        features = columns.categorical.items()
        self._one_hot = [(name, feature) for name, feature in features if not feature.multi_hot]
        self._multi_hot = [(name, feature) for name, feature in features if feature.multi_hot]
        num_targets = len(self.targets)
        self.empty = EncodedRows(
            np.empty((len(self._one_hot), 0), np.int64),
            [Bag.empty(weighted=feature.weights is not None) for _, feature in self._multi_hot],
            np.empty((0, columns.dense_width), np.float32),
            np.empty((0, num_targets), np.float32),
            np.empty((0, num_targets), np.float32),
            np.empty(0, np.float32),
            np.empty((0, num_targets), np.float64) if self._oracles else None,
            np.empty(0, np.int64),
        )

    @property
    def names(self) -> list[str]:
        """Every column that is read from the files, once each."""
        names = [feature.column or name for name, feature in self.columns.categorical.items()]
        names += [f.weights for f in self.columns.categorical.values() if f.weights]
        names += [feature.column or name for name, feature in self.columns.numerical.items()]
        names += [column for label in self.labels.values() for column in label.columns]
        names += ([self.columns.weight] if self.columns.weight else []) + self._oracles
        return list(dict.fromkeys(names))

    @property
    def lists(self) -> list[str]:
        """The columns that hold lists."""
        names = [feature.column or name for name, feature in self._multi_hot]
        names += [feature.weights for _, feature in self._multi_hot if feature.weights]
        return list(dict.fromkeys(names))

    @property
    def strings(self) -> list[str]:
        """The columns that may hold strings, or lists of them, to be read as dictionaries."""
        features = self.columns.categorical.items()
        return [f.column or name for name, f in features if f.hash_size or f.vocabulary]

    @property
    def _oracles(self) -> list[str]:
        return [target.oracle for target in self.targets if target.oracle is not None]

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
        numbers += [label.columns[0] for label in self.labels.values() if label.is_column]
        numbers += ([self.columns.weight] if self.columns.weight else []) + self._oracles
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
        for label in self.labels.values():
            found += _label_problem(label, schema)
        return found

    def encode(
        self, parts: Iterable[Part], n: int, memory: EncodedRows | None = None
    ) -> EncodedRows:
        """Return the checked rows of some parts, one after another.

        Args:
            parts: with at least the columns of `names`.
            n: rows of all of them.
            memory: rows that may be overwritten.

        Raises:
            ValueError: naming file, row group, row, column and value.
        """
        rows = (memory or self.empty).memory_for(n)
        bags = [[bag] for bag in self.empty.bags]
        start = 0
        for part in parts:
            stop = start + len(part.batch)
            self._encode(part, rows.slice(start, stop), bags)
            start = stop
        rows.bags = [Bag.concatenate(some) for some in bags]
        return rows

    def _encode(self, part: Part, out: EncodedRows, bags: list[list[Bag]]) -> None:
        """Write a part into `out`, and append its bags to those of each feature."""
        batch, first_row, where = part
        arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
        one_hot, multi_hot = iter(out.ids_Fn), iter(bags)
        for name, feature in self.columns.categorical.items():
            at = where.column(feature.column or name)
            vocabulary = self._vocabularies.get(feature.vocabulary or "")
            if feature.multi_hot:
                weights = arrays[feature.weights] if feature.weights else None
                bag = encode_bag(arrays[at.name], weights, feature, at, vocabulary)
                next(multi_hot).append(bag)
            else:
                next(one_hot)[:] = encode_ids(arrays[at.name], feature, at, vocabulary)
        width = 0
        for name, feature in self.columns.numerical.items():
            at = where.column(feature.column or name)
            width += _encode_numerical(arrays[at.name], feature, at, out.dense_nN[:, width:])
        self._encode_targets(batch, where, out)
        weight = self.columns.weight
        out.weights_n[:] = 1.0 if weight is None else _weights(arrays[weight], where.column(weight))
        out.rows_n[:] = np.arange(first_row, first_row + len(batch))

    def _encode_targets(self, batch: pa.RecordBatch, where: Where, out: EncodedRows) -> None:
        labels = {name: _label(label, batch, where) for name, label in self.labels.items()}
        for k, (label, given, oracle) in enumerate(self.targets):
            if given is None:
                out.masks_nK[:, k], out.labels_nK[:, k] = 1.0, labels[label]
            else:
                mask = labels[given] > 0
                out.masks_nK[:, k] = mask
                np.multiply(labels[label], mask, out=out.labels_nK[:, k])
            if out.oracle_nK is not None:
                out.oracle_nK[:, k] = (
                    np.nan
                    if oracle is None
                    else _unit(batch.column(oracle), where.column(oracle), np.float64)
                )


def _label(label: Expression, batch: pa.RecordBatch, where: Where) -> np.ndarray:
    try:
        values = label.evaluate(batch)
    except ValueError as error:
        raise ValueError(f"{where.file}: row group {where.row_group}: {error}") from error
    return _unit(values, where.column(label.text), np.float32)


def _weights(column: pa.Array, where: Where) -> np.ndarray:
    values = _numbers(column, where)
    weights = _cast(values, np.float32)
    where.refuse(~(weights >= 0), values, "a weight of at least 0")
    where.refuse(np.isinf(weights), values, "a weight that fits in 32 bits")
    return weights


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
    if values.dtype.kind == "f" and not np.isfinite(values).all():
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
