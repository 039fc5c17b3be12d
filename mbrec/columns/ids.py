"""Columns of ids -> rows of embedding tables, by the policy of each feature.

Every id that leaves here is in [0, num_embeddings): a table of FBGEMM would train another row, or
crash, on one that is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mbrec.columns.hashing import hash_ids, hash_strings, is_list
from mbrec.columns.lookup import Lookup
from mbrec.columns.schema import Categorical, Keep, MissingId, OutOfVocabulary
from mbrec.columns.where import Rows, Where

# A longer list is more likely an error than a feature, and takes the memory of a batch.
MAX_LIST_LENGTH = 10_000

_RAISE = "raise the cardinality, or set out_of_vocabulary to hash or oov"
_EXTEND = "set out_of_vocabulary to hash or oov, or prepare the data again"
_ALLOW_MISSING = "set missing: row to give missing values a row of their own"


@dataclass
class Bag:
    """The ids of a multi-hot feature, those of the first row first.

    Attributes:
        values: int64.
        lengths: int32, ids of each of n rows.
        weights: float32, one for each value, or None where each counts 1.
        dropped: int64, how many ids were cut off each row's list, or None where none ever are.
    """

    values: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None = None
    dropped: np.ndarray | None = None

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where the ids of each row begin, and the last ones end: (n + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @staticmethod
    def empty(*, weighted: bool) -> "Bag":
        """Return a bag without rows."""
        weights = np.empty(0, np.float32) if weighted else None
        return Bag(np.empty(0, np.int64), np.empty(0, np.int32), weights)

    def slice(self, start: int, stop: int) -> "Bag":
        """Return rows [start, stop) as views."""
        a, b = self.offsets[start], self.offsets[stop]
        return Bag(
            self.values[a:b],
            self.lengths[start:stop],
            None if self.weights is None else self.weights[a:b],
            None if self.dropped is None else self.dropped[start:stop],
        )

    @staticmethod
    def concatenate(bags: "Sequence[Bag]") -> "Bag":
        """Return the rows of all bags of a feature, in order."""
        weights = [bag.weights for bag in bags if bag.weights is not None]
        dropped = [bag.dropped for bag in bags if bag.dropped is not None]
        return Bag(
            np.concatenate([bag.values for bag in bags]),
            np.concatenate([bag.lengths for bag in bags]),
            np.concatenate(weights) if weights else None,
            np.concatenate(dropped) if dropped else None,
        )


def type_problem(
    feature: Categorical, found: pa.DataType, vocabulary: Lookup | None = None
) -> str | None:
    """Return what is wrong with the type of a feature's column, or None."""
    nested, value = is_list(found), found
    if is_list(found):
        value = found.value_type
    if pa.types.is_dictionary(value):
        value = value.value_type
    # A column of nothing but nulls, or of empty lists, has no other type.
    if pa.types.is_null(value) and (
        feature.multi_hot if nested else feature.missing is MissingId.row
    ):
        return None
    integer = pa.types.is_integer(value) or pa.types.is_boolean(value)
    if feature.is_bucketised:
        what, fits = "numbers", integer or pa.types.is_floating(value)
    elif vocabulary is not None and is_text(vocabulary.values.type):
        what, fits = f"strings, as {feature.vocabulary} has", is_text(value)
    elif vocabulary is not None:
        what, fits = f"integer ids, as {feature.vocabulary} has", integer
    elif feature.hash_size or feature.vocabulary:
        what, fits = "integer ids or strings", integer or is_text(value)
    else:
        what, fits = "integer ids", integer
    if nested == feature.multi_hot and fits:
        return None
    expected = f"lists of {what}" if feature.multi_hot else what
    hint = ""
    if nested != feature.multi_hot:
        hint = "; multi_hot says which columns hold lists"
    elif is_text(value):
        hint = "" if feature.vocabulary else "; set hash_size or vocabulary for strings"
    return f"expected {expected}, got type {found}{hint}"


def encode_ids(
    column: pa.Array,
    feature: Categorical,
    where: Where,
    vocabulary: Lookup | None = None,
    rows: Rows | None = None,
) -> np.ndarray:
    """Return the table rows of ids, int64, one a value.

    Args:
        column: ids, strings, or numbers to be bucketised; not nested.
        feature: what they are.
        where: what an error names.
        vocabulary: of the feature, if it has one.
        rows: the row of each value in the row group, or what returns them; default: its index.

    Raises:
        ValueError: if an id is missing or unknown, and the feature has no policy for it.
    """
    missing = None
    if pa.types.is_null(column.type):
        if feature.missing is MissingId.row or not len(column):
            return np.full(len(column), feature.missing_row)
        column = column.cast(pa.int64())
    if pa.types.is_floating(column.type):
        missing = np.isnan(column.to_numpy(zero_copy_only=False))
    elif column.null_count:
        missing = column.is_null().to_numpy(zero_copy_only=False)
    if missing is not None and missing.any():
        if feature.missing is MissingId.error:
            got = None if column.null_count else column
            where.refuse(missing, got, "a value in every row", rows, remedy=_ALLOW_MISSING)
        known = ~missing
        ids = np.full(len(column), feature.missing_row)
        numbers = np.flatnonzero(known) if rows is None else _numbered(rows)[known]
        column = column.filter(pa.array(known))
        ids[known] = encode_ids(column, feature, where, vocabulary, numbers)
        return ids
    if pa.types.is_dictionary(column.type):
        return _of_dictionary(column, feature, where, vocabulary, rows)
    return _known(column, feature, where, vocabulary, rows)


def encode_bag(
    column: pa.Array,
    weights: pa.Array | None,
    feature: Categorical,
    where: Where,
    vocabulary: Lookup | None = None,
) -> Bag:
    """Return the table rows of a list column, with the weights of another where there is one.

    Args:
        column: lists of ids or strings.
        weights: lists of numbers of the same lengths, or None.
        feature: what they are.
        where: what an error names.
        vocabulary: of the feature, if it has one.

    Raises:
        ValueError: if an id is missing or unknown and the feature has no policy for it, a list is
            too long, or weights do not fit.
    """
    column = _plain_lists(column)
    lengths = _lengths(column)
    null = column.is_null().to_numpy(False) if column.null_count else None
    if null is not None and feature.missing is MissingId.error:
        where.refuse(null, None, "a list in every row", remedy=_ALLOW_MISSING)
    limit = feature.max_length
    if limit is None and lengths.max(initial=0) > MAX_LIST_LENGTH:
        remedy = f"set max_length, up to {MAX_LIST_LENGTH:,}, and keep: first or last"
        expected = f"a list of at most {MAX_LIST_LENGTH:,} ids"
        where.refuse(lengths > MAX_LIST_LENGTH, lengths, expected, remedy=remedy)
    flat = column.flatten()
    numbers = None if weights is None else _weights(weights, lengths, feature, where)
    dropped = None
    if limit is not None:
        dropped = np.maximum(lengths - limit, 0)
        if dropped.any():
            kept = _kept(lengths, dropped, limit, feature.keep)
            flat, lengths = flat.filter(pa.array(kept)), lengths - dropped
            numbers = None if numbers is None else numbers[kept]
    count = len(column)
    values = encode_ids(
        flat, feature, where, vocabulary, lambda: np.repeat(np.arange(count), lengths)
    )
    if null is not None:
        at = (np.cumsum(lengths) - lengths)[null]
        values = np.insert(values, at, feature.missing_row)
        numbers = None if numbers is None else np.insert(numbers, at, 1.0)
        lengths = lengths + null
    return Bag(values, lengths.astype(np.int32), numbers, dropped)


def _kept(lengths: np.ndarray, dropped: np.ndarray, limit: int, keep: Keep) -> np.ndarray:
    """Return for each value of lists of these lengths whether it is one of those kept."""
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return within < limit if keep is Keep.first else within >= np.repeat(dropped, lengths)


def _known(
    column: pa.Array,
    feature: Categorical,
    where: Where,
    vocabulary: Lookup | None,
    rows: Rows | None,
) -> np.ndarray:
    """Return the table rows of ids none of which is missing."""
    if feature.boundaries is not None:
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
        where.refuse(np.isinf(values), values, "a finite number", rows)
        return np.searchsorted(feature.boundaries, values, side="right")
    if feature.hash_size is not None:
        return _hashed(column, feature.hash_size, feature.salt)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if vocabulary is not None:
        ids, found = vocabulary.find(column)
        if found.all():
            return ids
        expected = f"one of the {len(vocabulary.values):,} values of {feature.vocabulary}"
        return _outside(ids, ~found, column, feature, where, rows, expected, _EXTEND)
    ids, size = column.to_numpy(zero_copy_only=False), feature.num_ids
    known = ids.astype(np.int64, copy=False)
    # As unsigned numbers, negative ones are the largest.
    if known.view(np.uint64).max(initial=0) < size:
        return known
    outside = (ids < 0) | (ids >= size)
    kept = np.where(outside, 0, ids).astype(np.int64)
    return _outside(kept, outside, column, feature, where, rows, f"an id in [0, {size})", _RAISE)


def _outside(
    ids: np.ndarray,
    outside: np.ndarray,
    column: pa.Array,
    feature: Categorical,
    where: Where,
    rows: Rows | None,
    expected: str,
    remedy: str,
) -> np.ndarray:
    if feature.out_of_vocabulary is OutOfVocabulary.error:
        where.refuse(outside, column, expected, rows, remedy=remedy)
    if feature.out_of_vocabulary is OutOfVocabulary.oov:
        ids[outside] = feature.oov_row
    else:
        unknown = column.filter(pa.array(outside))
        ids[outside] = _hashed(unknown, feature.num_ids, feature.salt)
    return ids


def _of_dictionary(
    column: pa.Array,
    feature: Categorical,
    where: Where,
    vocabulary: Lookup | None,
    rows: Rows | None,
) -> np.ndarray:
    """Look each distinct value up once; an unknown one is reported with its first row."""
    indices = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(indices, minlength=len(column.dictionary))
    first = np.zeros(len(counts), np.int64)
    first[indices[::-1]] = np.arange(len(indices))[::-1]
    # A dictionary may hold values that no row has, which must not be refused, in any order.
    used = np.flatnonzero(counts)
    used = used[np.argsort(first[used])]
    distinct, at = column.dictionary.take(pa.array(used)), first[used]
    at, where = at if rows is None else _numbered(rows)[at], replace(where, counts=counts[used])
    ids = np.zeros(len(counts), np.int64)
    ids[used] = _known(distinct, feature, where, vocabulary, at)
    return ids[indices]


def _numbered(rows: Rows) -> np.ndarray:
    return rows() if callable(rows) else rows


def _hashed(column: pa.Array, size: int, salt: int) -> np.ndarray:
    if is_text(column.type):
        return hash_strings(column, size, salt)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return hash_ids(column.to_numpy(zero_copy_only=False), size, salt)


def _weights(
    column: pa.Array, lengths: np.ndarray, feature: Categorical, where: Where
) -> np.ndarray:
    where = where.column(feature.weights or "")
    column = _plain_lists(column)
    found = _lengths(column)
    if (other := found != lengths).any():
        where.refuse(other, found, f"{lengths[other.argmax()]} weights, one for each id")
    flat, rows = column.flatten(), np.repeat(np.arange(len(column)), lengths)
    if flat.null_count:
        where.refuse(flat.is_null().to_numpy(False), None, "a weight for every id", rows)
    with np.errstate(over="ignore"):  # the infinities are refused
        weights = flat.to_numpy(zero_copy_only=False).astype(np.float32)
    where.refuse(~np.isfinite(weights), flat, "a finite weight", rows)
    return weights


def _lengths(column: pa.Array) -> np.ndarray:
    if not column.null_count:
        return np.diff(column.offsets.to_numpy()).astype(np.int64)
    return (
        pc.call_function("list_value_length", [column])
        .fill_null(0)
        .to_numpy(False)
        .astype(np.int64)
    )


def _plain_lists(column: pa.Array) -> pa.Array:
    if pa.types.is_null(column.type):
        return column.cast(pa.list_(pa.int64()))
    if pa.types.is_fixed_size_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    return column


def is_text(found: pa.DataType) -> bool:
    """Return whether values of a type can be the words of a vocabulary."""
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    return any(is_kind(found) for is_kind in kinds)
