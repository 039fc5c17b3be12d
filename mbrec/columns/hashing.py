"""Hashes of ids, strings and rows: the same on every machine, and on every day.

Models that hash their ids are saved with what these functions returned, so none of the constants
may change. Everything is built on the splitmix64 finaliser (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014), vectorised over the rows.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

Hashes = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0x6E756C6C2D2D2D31)  # what a null counts as; any odd constant would do
_LENGTH = np.uint64(0xD6E8FEB86659FD93)
_NAN = np.uint64(0x7FF8000000000000)
_SECOND = 1  # salt of the second of the two hashes of a row
# Rows hashed at a time, so that the temporary arrays stay in the processor's cache.
_CHUNK = 1 << 15


def hash_ids(ids: np.ndarray, size: int, salt: int = 0) -> np.ndarray:
    """Hash integers to [0, size).

    Args:
        ids: of any integer type.
        size: how many values the hash has.
        salt: another salt gives an independent hash.

    Returns:
        int64, one an id.
    """
    words = ids.astype(np.int64).view(np.uint64)
    return (_mix((words ^ _key(salt)) + _GOLDEN) % np.uint64(size)).astype(np.int64)


def hash_strings(array: pa.Array, size: int, salt: int = 0) -> np.ndarray:
    """Hash the bytes of strings to [0, size).

    Args:
        array: string, large_string, binary, or a dictionary of these. What a null is hashed to has
            no meaning; the caller replaces it.
        size: how many values the hash has.
        salt: another salt gives an independent hash.

    Returns:
        int64, one a row.

    Raises:
        ValueError: if the array holds no strings.
    """
    value_type = array.type.value_type if pt.is_dictionary(array.type) else array.type
    if not is_text(value_type):
        raise ValueError(f"expected an array of strings, got type {array.type}")
    hashes = np.empty(len(array), np.uint64)
    for start in range(0, len(array), _CHUNK):
        chunk = array.slice(start, _CHUNK)
        hashes[start : start + _CHUNK] = _hash_array(chunk, _key(salt))
    return (hashes % np.uint64(size)).astype(np.int64)


def hash_rows(table: pa.Table) -> tuple[Hashes, Hashes]:
    """Return two independent 64-bit hashes of each row, over all its columns.

    Rows are alike if their columns are, in order: nulls equal nulls, NaN equals NaN, 0 equals -0.

    Raises:
        ValueError: naming a column of a type that cannot be hashed.
    """
    rows = len(table)
    first, second = np.empty(rows, np.uint64), np.empty(rows, np.uint64)
    start = 0
    for batch in table.to_batches(max_chunksize=_CHUNK):
        stop = start + len(batch)
        for salt, hashes in ((0, first), (_SECOND, second)):
            hashes[start:stop] = _hash_batch(batch, _key(salt))
        start = stop
    return first, second


def _mix(words: Hashes) -> Hashes:
    """Return the splitmix64 finaliser of each word; overwrites the words."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _key(salt: int) -> np.uint64:
    """Return what words are changed by before they are mixed; 0 for the salt 0."""
    return _mix(np.array([salt & 0xFFFFFFFFFFFFFFFF], np.uint64))[0]


def _hash_batch(batch: pa.RecordBatch, key: np.uint64) -> Hashes:
    hashes = np.full(len(batch), key)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            hashes = _mix((hashes ^ _hash_array(column, key)) + _GOLDEN)
        except pa.ArrowException as error:
            raise ValueError(
                f"column '{name}': expected numbers, booleans, strings, times, or lists of these, "
                f"got type {column.type}; leave it out or cast it"
            ) from error
    return hashes


def _hash_array(array: pa.Array, key: np.uint64) -> Hashes:
    """Return a hash of each value of any type."""
    kind = array.type
    if pt.is_null(kind):
        return np.full(len(array), _NULL)
    if pt.is_dictionary(kind) and len(array.dictionary) > len(array):
        return _hash_array(array.dictionary_decode(), key)
    if pt.is_dictionary(kind):
        values = np.append(_hash_array(array.dictionary, key), _NULL)
        return values[array.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)]
    if pt.is_struct(kind):
        names = [str(i) for i in range(kind.num_fields)]
        hashes = _hash_batch(pa.RecordBatch.from_arrays(array.flatten(), names), key)
    elif is_text(kind):
        hashes = _hash_text(array, key)
    elif is_list(kind):
        hashes = _hash_lists(array, key)
    else:
        hashes = _mix((_words(array) ^ key) + _GOLDEN)
    if array.null_count:
        hashes[array.is_null().to_numpy(zero_copy_only=False)] = _NULL
    return hashes


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type holds strings or bytes of any length."""
    return any(is_kind(kind) for is_kind in (pt.is_string, pt.is_large_string)) or (
        pt.is_binary(kind) or pt.is_large_binary(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type holds lists."""
    return pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)


def _words(array: pa.Array) -> Hashes:
    """Return each value of a type of fixed width as 64 bits; nulls may be anything."""
    kind = array.type
    if pt.is_floating(kind):
        values = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0
        return np.where(np.isnan(values), _NAN, values.view(np.uint64))
    if pt.is_boolean(kind):
        return array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint64)
    if pt.is_temporal(kind) and not pt.is_interval(kind):
        array = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    elif pt.is_decimal(kind) or pt.is_fixed_size_binary(kind):
        return _hash_text(_variable_width(array), np.uint64(0))
    elif not pt.is_integer(kind):
        raise pa.ArrowTypeError(f"type {kind}")
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    return values.astype(np.uint64 if pt.is_unsigned_integer(kind) else np.int64).view(np.uint64)


def _variable_width(array: pa.Array) -> pa.Array:
    """Return the bytes of each value of fixed width as a binary value; nulls may be anything."""
    width = array.type.bit_width // 8
    offsets = (array.offset + np.arange(len(array) + 1, dtype=np.int64)) * width
    buffers: list[Any] = [None, pa.py_buffer(offsets), array.buffers()[1]]
    return pa.Array.from_buffers(pa.large_binary(), len(array), buffers)


def _hash_text(array: pa.Array, key: np.uint64) -> Hashes:
    kind = array.type
    wide = pt.is_large_string(kind) or pt.is_large_binary(kind)
    width = np.int64 if wide else np.int32
    _, ends, data = array.buffers()
    if not len(array):
        return np.empty(0, np.uint64)
    offsets = np.frombuffer(ends, width, len(array) + 1, array.offset * np.dtype(width).itemsize)
    first, last = int(offsets[0]), int(offsets[-1])
    # Eight more bytes: the last word of a string is read in full, then what is beyond is masked.
    padded = np.zeros(last - first + 8, np.uint8)
    if last > first:
        padded[:-8] = np.frombuffer(data, np.uint8, last - first, first)
    words_at = np.ndarray((last - first + 1,), "<u8", padded, 0, (1,))
    lengths = np.diff(offsets).astype(np.int64)
    starts = offsets[:-1].astype(np.int64) - first
    words = np.maximum((lengths + 7) >> 3, 1)
    within = _positions(words)
    left = np.repeat(lengths, words) - 8 * within
    gathered = words_at[np.repeat(starts, words) + 8 * within]
    beyond = (8 * np.clip(8 - left, 0, 7)).astype(np.uint64)
    gathered = (gathered << beyond) >> beyond
    gathered[left <= 0] = 0
    return _fold(gathered, words, within, lengths, key)


def _hash_lists(array: pa.Array, key: np.uint64) -> Hashes:
    if pt.is_fixed_size_list(array.type):
        array = array.cast(pa.large_list(array.type.value_type))
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    # flatten() leaves out what lies under nulls, as the lengths do. An empty list needs a word.
    words = np.maximum(lengths, 1)
    within = _positions(words)
    values = np.zeros(len(within), np.uint64)
    values[within < np.repeat(lengths, words)] = _hash_array(array.flatten(), key)
    return _fold(values, words, within, lengths, key)


def _positions(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return 0, 1, ... count - 1 for each count, one after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _fold(
    words: Hashes,
    counts: npt.NDArray[np.int64],
    within: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    key: np.uint64,
) -> Hashes:
    """Hash rows of `counts` words each: the sum of words mixed with their positions, mixed.

    A sum needs no loop over the positions, so that one long row among short ones costs nothing.
    """
    if not len(counts):
        return np.empty(0, np.uint64)
    place = _mix((within.astype(np.uint64) ^ key) + _LENGTH)
    mixed = _mix((words ^ place) + _GOLDEN)
    sums = np.add.reduceat(mixed, np.cumsum(counts) - counts)
    return _mix(sums + lengths.astype(np.uint64) * _LENGTH)
