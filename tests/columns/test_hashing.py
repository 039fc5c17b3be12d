"""Hashes of ids, strings and rows."""

import math
import struct
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mbrec.columns.hashing import hash_ids, hash_rows, hash_strings

WORDS = ["", "a", "ab", "1234567", "12345678", "123456789", "zwei Wörter", "€" * 40]
TEXTS = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]
# Written down: a model that is saved depends on them.
ID_HASHES = {0: [535, 465, 936, 944, 39, 915], 7: [855, 725, 188, 508, 935, 671]}
STRING_HASHES = {
    0: [880745, 864504, 25894, 779804, 135210, 137289, 288142, 425216],
    7: [74866, 247312, 476380, 197787, 334120, 251807, 141582, 53166],
}
GOLDEN = 0x9E3779B97F4A7C15
ALL = 2**64 - 1


def mix(x: int) -> int:
    """The splitmix64 finaliser, one integer at a time."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & ALL
    return x ^ (x >> 31)


def slow_string_hash(text: bytes, salt: int) -> int:
    """What `hash_strings` computes, in Python's integers."""
    key, total = mix(salt & ALL), 0
    for k in range(max(1, math.ceil(len(text) / 8))):
        (word,) = struct.unpack("<Q", text[8 * k : 8 * k + 8].ljust(8, b"\0"))
        total += mix((word ^ mix((k ^ key) + 0xD6E8FEB86659FD93 & ALL)) + GOLDEN & ALL)
    return mix(total + len(text) * 0xD6E8FEB86659FD93 & ALL)


def chi_square(hashes: np.ndarray, size: int) -> float:
    """Return how many standard deviations the bins are from uniform."""
    expected = len(hashes) / size
    chi = float(((np.bincount(hashes, minlength=size) - expected) ** 2).sum() / expected)
    return (chi - (size - 1)) / math.sqrt(2 * (size - 1))


def test_hashes_of_ids_are_the_same_for_ever():
    ids = np.array([0, 1, -1, 12345, 2**63 - 1, -(2**63)])
    size = 2**62
    assert hash_ids(ids, size).tolist() == [mix((int(i) + GOLDEN) & ALL) % size for i in ids]
    assert hash_ids(ids, 1_000).tolist() == ID_HASHES[0]
    assert hash_ids(ids, 1_000, salt=7).tolist() == ID_HASHES[7]


def test_hashes_of_strings_are_the_same_for_ever():
    assert hash_strings(pa.array(WORDS), 1_000_000).tolist() == STRING_HASHES[0]
    assert hash_strings(pa.array(WORDS), 1_000_000, salt=7).tolist() == STRING_HASHES[7]


@pytest.mark.parametrize("salt", [0, 1, -5, 2**63])
def test_strings_are_hashed_as_one_at_a_time(salt):
    random = np.random.default_rng(3)
    texts = [random.bytes(n) for n in [*range(40), 1_000, 65_537]]
    expected = [slow_string_hash(text, salt) % 2**62 for text in texts]
    assert hash_strings(pa.array(texts, pa.binary()), 2**62, salt).tolist() == expected


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_a_string_has_one_hash_whatever_holds_it(kind):
    array = pa.array([word.encode() for word in WORDS], pa.binary()).cast(kind)
    expected = hash_strings(pa.array(WORDS), 10**9).tolist()
    assert hash_strings(array, 10**9).tolist() == expected
    assert hash_strings(array.dictionary_encode(), 10**9).tolist() == expected
    assert hash_strings(array[3:6], 10**9).tolist() == expected[3:6]
    assert hash_strings(array.dictionary_encode()[3:6], 10**9).tolist() == expected[3:6]
    assert hash_strings(array[:0], 10**9).tolist() == []
    doubled = pa.concat_arrays([array] * 9_000)
    assert hash_strings(doubled, 10**9).tolist() == expected * 9_000


def test_nulls_do_not_change_the_hashes_of_others():
    array = pa.array([None, "a", None, "ab", None])
    for given in (array, array.dictionary_encode()):
        hashes = hash_strings(given, 10**9)
        assert hashes[[1, 3]].tolist() == hash_strings(pa.array(["a", "ab"]), 10**9).tolist()
        assert hashes[0] == hashes[2] == hashes[4]


def test_columns_without_strings_are_refused():
    for kind in (pa.int64(), pa.list_(pa.string()), pa.dictionary(pa.int32(), pa.int64())):
        with pytest.raises(ValueError, match=r"expected an array of strings, got type"):
            hash_strings(pa.array([], kind), 10)


@pytest.mark.parametrize("size", [2, 97, 1_024])
def test_hashes_are_spread_evenly(size):
    numbers = np.arange(200_000)
    texts = pa.array(numbers).cast(pa.string())
    long = pa.array([f"https://example.org/item?{n:010d}" for n in range(50_000)])
    for salt in (0, 1, 2):
        assert abs(chi_square(hash_ids(numbers, size, salt), size)) < 5
        assert abs(chi_square(hash_ids(numbers * 1_024, size, salt), size)) < 5
        assert abs(chi_square(hash_strings(texts, size, salt), size)) < 5
        assert abs(chi_square(hash_strings(long, size, salt), size)) < 5


def test_salts_give_independent_hashes():
    numbers, size = np.arange(200_000), 64
    texts = pa.array(numbers).cast(pa.string())
    for hashes in (
        [hash_ids(numbers, size, salt) for salt in (0, 1, 2)],
        [hash_strings(texts, size, salt) for salt in (0, 1, 2)],
    ):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            together = hashes[one] * size + hashes[other]
            assert abs(chi_square(together, size * size)) < 5


def test_different_strings_have_different_hashes():
    near = [b"\0" * n for n in range(100)]
    near += [b"x" * n + b"\0" + b"x" * (30 - n) for n in range(31)]
    near += [bytes([i, j]) for i in range(256) for j in range(256)]
    hashes = hash_strings(pa.array(near, pa.binary()), 2**62)
    assert len(np.unique(hashes)) == len(set(near))


COLUMNS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int8(), [1, 2, None, -1]),
    (pa.uint64(), [2**64 - 1, 2**64 - 2, 0, None]),
    (pa.float32(), [1.5, 2.5, math.nan, math.inf, None]),
    (pa.float64(), [0.0, 1e-300, math.nan, -math.inf, None]),
    (pa.bool_(), [True, False, None]),
    (pa.string(), ["", "a", "A", None]),
    (pa.dictionary(pa.int8(), pa.string()), ["", "a", "A", None]),
    (pa.list_(pa.int32()), [[], [0], [0, 0], [1, 2], [2, 1], [None], None]),
    (pa.list_(pa.string()), [[], [""], ["a", "b"], ["ab"], ["b", "a"], None]),
    (pa.list_(pa.list_(pa.int8())), [[], [[]], [[1], [2]], [[1, 2]], None]),
    (pa.list_(pa.float64(), 2), [[1, 2], [2, 1], None]),
    (pa.date32(), [date(2020, 1, 1), date(2020, 1, 2), None]),
    (pa.timestamp("ns", "UTC"), [datetime(2020, 1, 1), datetime(2020, 1, 1, 1), None]),
    (pa.duration("s"), [1, 2, None]),
    (pa.decimal128(25, 3), [Decimal("1.5"), Decimal("-1.5"), Decimal(2**60), None]),
    (pa.binary(3), [b"abc", b"abd", None]),
    (pa.struct({"a": pa.int8(), "b": pa.string()}), [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, None]),
    (pa.null(), [None]),
]


@pytest.mark.parametrize(("kind", "values"), COLUMNS, ids=lambda given: str(given)[:20])
def test_rows_have_the_same_hashes_exactly_if_their_values_are_the_same(kind, values):
    array = pa.array(values * 2, kind)
    table = pa.table({"x": array, "same": pa.array([7] * len(array))})
    for hashes in hash_rows(table):
        assert hashes[: len(values)].tolist() == hashes[len(values) :].tolist()
        assert len(np.unique(hashes)) == len(values)
    first, second = hash_rows(table.slice(1, 2 * len(values) - 1))
    assert [first.tolist(), second.tolist()] == [h[1:].tolist() for h in hash_rows(table)]
    assert not set(first.tolist()) & set(second.tolist())


def test_negative_zero_and_every_nan_are_as_their_equals():
    strange = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
    table = pa.table({"x": [0.0, -0.0, math.nan, strange]})
    first, _ = hash_rows(table)
    assert first[0] == first[1] != first[2] == first[3]


def test_values_do_not_move_between_columns_unseen():
    table = pa.table({"a": ["x", "", "y"], "b": ["", "x", "y"], "c": ["y", "y", ""]})
    assert all(len(np.unique(hashes)) == 3 for hashes in hash_rows(table))
    assert hash_rows(table)[0].tolist() != hash_rows(table.select(["b", "a", "c"]))[0].tolist()


def test_chunks_make_no_difference():
    table = pa.table({"a": np.arange(100_000), "b": pa.array(np.arange(100_000)).cast("string")})
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 60_000), table.slice(60_007)])
    for one, other in zip(hash_rows(table), hash_rows(chunked), strict=True):
        assert (one == other).all()


def test_a_column_that_cannot_be_hashed_is_named():
    table = pa.table({"a": [1], "when": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
    with pytest.raises(ValueError, match=r"column 'when': expected numbers.*; leave it out"):
        hash_rows(table)
