"""Every id that goes to a table is one of its rows, and the one that its policy says."""

import bisect
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns import lookup
from mbrec.columns.hashing import hash_ids, hash_strings
from mbrec.columns.ids import MAX_LIST_LENGTH, encode_bag, encode_ids
from mbrec.columns.lookup import Lookup
from mbrec.columns.schema import Categorical, Keep, MissingId, OutOfVocabulary
from mbrec.columns.where import Where

WHERE = Where("file", 3, "c")
ERROR, HASH, OOV = OutOfVocabulary.error, OutOfVocabulary.hash, OutOfVocabulary.oov
NUMBERS, WORDS = [5, -3, 0, 2**40], ["b", "", "ab", "a\0", "é"]

INTEGERS = [pa.type_for_alias(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
TEXTS = (pa.string(), pa.large_string(), pa.binary())


@st.composite
def features(draw: st.DrawFn) -> tuple[Categorical, pa.Array | None]:
    """Return any feature that is not bucketised, and its vocabulary."""
    missing = draw(st.sampled_from(list(MissingId)))
    kind = draw(st.sampled_from(["cardinality", "hash_size", "numbers", "words"]))
    if kind == "hash_size":
        size, salt = draw(st.integers(1, 9)), draw(st.integers(0, 2))
        return Categorical(hash_size=size, salt=salt, missing=missing), None
    policy = draw(st.sampled_from(list(OutOfVocabulary)))
    salt = draw(st.integers(0, 2)) if policy is HASH else 0
    if kind == "cardinality":
        size, vocabulary = draw(st.integers(1, 9)), None
    else:
        vocabulary = pa.array(NUMBERS if kind == "numbers" else WORDS)
        size = len(vocabulary)
    name = None if vocabulary is None else "v.parquet"
    feature = Categorical(
        size, vocabulary=name, missing=missing, out_of_vocabulary=policy, salt=salt
    )
    return feature, vocabulary


@st.composite
def columns(draw: st.DrawFn, feature: Categorical, vocabulary: pa.Array | None) -> pa.Array:
    """Return any column that the feature accepts: every type, nulls, known and unknown ids."""
    words = vocabulary is not None and pa.types.is_string(vocabulary.type)
    if words or (feature.hash_size and draw(st.booleans())):
        kind = draw(st.sampled_from(TEXTS))
        value = st.sampled_from(WORDS) | st.text(max_size=9)
        found = draw(st.lists(st.none() | value, max_size=8))
        return pa.array(found, pa.string()).cast(kind)
    kind = draw(st.sampled_from(INTEGERS))
    info = np.iinfo(kind.to_pandas_dtype())
    least, most = int(info.min), int(info.max)
    near = [i for i in (*NUMBERS, *range(10), least, most) if least <= i <= most]
    fits = st.integers(least, most) | st.sampled_from(near)
    return pa.array(draw(st.lists(st.none() | fits, max_size=8)), kind)


def hashed(value: Any, size: int, salt: int) -> int:
    if isinstance(value, int):
        return int(hash_ids(np.array([value % 2**64], np.uint64), size, salt)[0])
    return int(hash_strings(pa.array([value]), size, salt)[0])


def row_of(value: Any, feature: Categorical, vocabulary: pa.Array | None) -> int | None:
    """Return the row of an id, by the words of the schema; None where it is an error."""
    if value is None:
        return feature.num_ids + 1 if feature.missing is MissingId.row else None
    if isinstance(value, bytes):
        value = value.decode()
    if feature.hash_size:
        return hashed(value, feature.hash_size, feature.salt)
    known = list(range(feature.num_ids)) if vocabulary is None else vocabulary.to_pylist()
    if value in known:
        return known.index(value)
    if feature.out_of_vocabulary is HASH:
        return hashed(value, feature.num_ids, feature.salt)
    return feature.num_ids if feature.out_of_vocabulary is OOV else None


def outcome(
    column: pa.Array, feature: Categorical, where: Where, vocabulary: pa.Array | None = None
) -> Any:
    """Return the ids, or the message of the error."""
    try:
        ids = encode_ids(column, feature, where, vocabulary and Lookup(vocabulary))
    except ValueError as error:
        return str(error)
    assert ids.dtype == np.int64
    return ids.tolist()


@pytest.mark.parametrize(
    ("ids", "known", "expected"),
    [
        (pa.array([7, 2**63, 5], pa.uint64()), pa.array([5, -3, 7]), [2, 3, 0]),
        (pa.array([7, -1, 5], pa.int8()), pa.array([5, 2**63, 7], pa.uint64()), [2, 3, 0]),
        (pa.array([7, 2**63], pa.uint64()), pa.array([5, 2**63], pa.uint64()), [2, 1]),
    ],
)
def test_ids_beyond_the_type_of_the_vocabulary_are_outside_of_it(ids, known, expected):
    feature = Categorical(len(known), vocabulary="v.parquet", out_of_vocabulary=OOV)
    assert encode_ids(ids, feature, WHERE, Lookup(known)).tolist() == expected
    strict = replace(feature, out_of_vocabulary=ERROR)
    with pytest.raises(ValueError, match=r"row group 3, row [01], column 'c'"):
        encode_ids(ids, strict, WHERE, Lookup(known))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_id_is_the_row_that_the_policy_says(data: st.DataObject) -> None:
    feature, vocabulary = data.draw(features())
    column = data.draw(columns(feature, vocabulary))
    found = outcome(column, feature, WHERE, vocabulary)
    rows = [row_of(value, feature, vocabulary) for value in column.to_pylist()]
    if None in rows:
        # Missing values are looked at before unknown ones.
        wrong = [value is None for value in column.to_pylist()]
        if not any(wrong) or feature.missing is MissingId.row:
            wrong = [row is None for row in rows]
        first = wrong.index(True)
        assert found.startswith(f"file: row group 3, row {first}, column 'c': expected ")
        assert f"({sum(wrong)} such in this row group); " in found
    else:
        assert found == rows
        assert all(0 <= row < feature.num_embeddings for row in found)
    # The same again, for the same in a dictionary, and for a slice.
    assert outcome(column, feature, WHERE, vocabulary) == found
    if isinstance(found, list):
        assert outcome(column[1:], feature, WHERE, vocabulary) == found[1:]
    if not pa.types.is_integer(column.type):
        assert outcome(column.dictionary_encode(), feature, WHERE, vocabulary) == found


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_dictionary_is_as_good_as_its_values(data: st.DataObject) -> None:
    feature, vocabulary = data.draw(features().filter(lambda f: f[1] is not None or f[0].hash_size))
    if vocabulary is not None and pa.types.is_integer(vocabulary.type):
        return
    # In any order, with values that no row has.
    words = data.draw(st.lists(st.sampled_from([*WORDS, "x", "y"]), unique=True, min_size=1))
    places = data.draw(st.lists(st.none() | st.integers(0, len(words) - 1), max_size=8))
    column = pa.DictionaryArray.from_arrays(pa.array(places, pa.int8()), pa.array(words))
    plain = column.dictionary_decode()
    assert outcome(column, feature, WHERE, vocabulary) == outcome(plain, feature, WHERE, vocabulary)
    lists = in_lists(column)
    found = [bag_outcome(c, None, feature, vocabulary) for c in (lists, in_lists(plain))]
    assert found[0] == found[1]


def test_unknown_words_of_a_dictionary_are_told_by_their_rows() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([3, 2, 0, 2]), pa.array(["x", "z", "y", "a"]))
    feature, vocabulary = Categorical(1, vocabulary="v.parquet"), pa.array(["a"])
    expected = "column 'c': expected one of the 1 values of v.parquet, got 'y' (3 such"
    assert f"row 1, {expected}" in outcome(words, feature, WHERE, vocabulary)
    lists = pa.ListArray.from_arrays(pa.array([0, 0, 1, 1, 3, 4], pa.int32()), words)
    assert f"row 3, {expected}" in bag_outcome(lists, None, feature, vocabulary)


def in_lists(values: pa.Array) -> pa.Array:
    """Return lists of one, two and no values in turn."""
    ends = [0]
    while ends[-1] < len(values):
        ends.append(min(len(values), ends[-1] + (1, 2, 0)[len(ends) % 3]))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)


def test_values_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(values: pa.Array, size: int, salt: int) -> np.ndarray:
        # All of one length collide, and with another salt those of other vocabularies alone.
        hashes = hash_strings(values, size, salt) % 5
        lengths = pc.call_function("binary_length", [values])
        return lengths.to_numpy() if salt == 0 else hashes

    monkeypatch.setattr(lookup, "hash_strings", colliding)
    known = ["a", "b"]
    assert len(set(colliding(pa.array(known), 1 << 63, 1))) == 2
    positions, found = Lookup(pa.array(known)).find(pa.array(["b", *"cdefgh", "a", ""]))
    assert found.tolist() == [True, *[False] * 6, True, False]
    assert positions[found].tolist() == [1, 0]


# Bags


def bag_outcome(
    column: pa.Array, weights: pa.Array | None, feature: Categorical, vocabulary: Any = None
) -> Any:
    """Return the ids and weights of each row, or the message of the error."""
    feature = replace(feature, multi_hot=True)
    try:
        bag = encode_bag(column, weights, feature, WHERE, vocabulary and Lookup(vocabulary))
    except ValueError as error:
        return str(error)
    assert (bag.values.dtype, bag.lengths.dtype) == (np.int64, np.int32)
    assert bag.offsets[0] == 0
    assert bag.offsets[-1] == len(bag.values)
    bounds = list(pairwise(bag.offsets))
    if bag.weights is None:
        return [bag.values[a:b].tolist() for a, b in bounds]
    assert bag.weights.dtype == np.float32
    assert len(bag.weights) == len(bag.values)
    return [
        list(zip(bag.values[a:b].tolist(), bag.weights[a:b].tolist(), strict=True))
        for a, b in bounds
    ]


ids = st.none() | st.integers(-2, 6)
lists = st.lists(st.none() | st.lists(ids, max_size=4), max_size=6)


@settings(max_examples=120, deadline=None)
@given(lists, st.none() | st.integers(1, 4), st.sampled_from([HASH, OOV]), st.data())
def test_bag_is_the_first_or_last_ids_of_each_list(
    lists: list[Any], max_length: int | None, policy: OutOfVocabulary, data: st.DataObject
) -> None:
    keep = Keep.first if max_length is None else data.draw(st.sampled_from(Keep))
    feature = Categorical(
        4,
        multi_hot=True,
        max_length=max_length,
        keep=keep,
        missing=MissingId.row,
        out_of_vocabulary=policy,
    )

    def kept(row: list[Any]) -> list[Any]:
        return row[:max_length] if keep is Keep.first else row[-(max_length or 0) :]

    kind = data.draw(st.sampled_from([pa.list_(pa.int64()), pa.large_list(pa.int8())]))
    column = pa.array(lists, kind)
    expected = [
        [feature.missing_row] if row is None else [row_of(i, feature, None) for i in row]
        for row in (row and kept(row) for row in lists)
    ]
    assert bag_outcome(column, None, feature) == expected
    # With weights: those of the ids that are kept, and 1 for a row that is missing.
    given = [row and [k + i / 8 for i in range(len(row))] for k, row in enumerate(lists)]
    heavy = [row and kept(row) for row in given]
    if data.draw(st.booleans()):  # A missing list may have no weights or none at all.
        given = [[] if row is None else row for row in given]
    numbers = data.draw(st.sampled_from([pa.list_(pa.float32()), pa.large_list(pa.float64())]))
    weights = pa.array(given, numbers)
    pairs = [
        [(ids[0], 1.0)] if row is None else list(zip(ids, row, strict=True))
        for row, ids in zip(heavy, expected, strict=True)
    ]
    feature = replace(feature, weights="w")
    assert bag_outcome(column, weights, feature) == pairs
    assert bag_outcome(column[1:], weights[1:], feature) == pairs[1:]


def test_lists_of_a_fixed_size_are_lists() -> None:
    column = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int16(), 2))
    weights = pa.array([[0.5, 1.5], None, [2.5, 3.5]], pa.list_(pa.float32(), 2))
    feature = Categorical(4, multi_hot=True, missing=MissingId.row, weights="w")
    assert bag_outcome(column, None, feature) == [[1, 2], [5], [3, 5]]
    expected = [[(1, 0.5), (2, 1.5)], [(5, 1.0)], [(3, 2.5), (5, 3.5)]]
    assert bag_outcome(column, weights, feature) == expected


def test_longest_list_is_read_and_a_longer_one_needs_a_limit() -> None:
    longest = [[0] * MAX_LIST_LENGTH]
    assert bag_outcome(pa.array(longest), None, Categorical(1)) == longest
    longer = pa.array([[0], [0] * (MAX_LIST_LENGTH + 1)])
    assert bag_outcome(longer, None, Categorical(1)) == (
        "file: row group 3, row 1, column 'c': expected a list of at most 10,000 ids, got 10001 "
        "(1 such in this row group); set max_length, up to 10,000, and keep: first or last"
    )
    cut = Categorical(1, multi_hot=True, max_length=2)
    assert bag_outcome(longer, None, cut) == [[0], [0, 0]]


def test_ids_beyond_the_limit_are_not_looked_at() -> None:
    cut = Categorical(4, multi_hot=True, max_length=1)
    assert bag_outcome(pa.array([[1, 99], [2, None], []]), None, cut) == [[1], [2], []]
    found = bag_outcome(pa.array([[1, 99], [98, 2], []]), None, cut)
    assert "row 1, column 'c': expected an id in [0, 4), got 98 (1 such" in found


# Buckets


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-9, 9), min_size=1, max_size=4, unique=True).map(sorted),
    st.lists(st.none() | st.floats(allow_infinity=False) | st.integers(-9, 9).map(float)),
)
def test_bucket_is_the_number_of_boundaries_that_are_not_above(
    boundaries: list[float], values: list[float | None]
) -> None:
    feature = Categorical(boundaries=boundaries, missing=MissingId.row)
    found = outcome(pa.array(values, pa.float64()), feature, WHERE)
    known = [None if v is None or math.isnan(v) else v for v in values]
    assert feature.missing_row == len(boundaries) + 2
    expected = [
        feature.missing_row if v is None else bisect.bisect_right(boundaries, v) for v in known
    ]
    assert found == expected
    assert all(0 <= i < feature.num_embeddings for i in found)


@pytest.mark.parametrize("kind", ["int8", "uint64", "int64", "float16", "float32", "bool"])
def test_boundary_belongs_to_the_bucket_above_it_in_every_type(kind: str) -> None:
    column = pa.array([0, 1, 1, 0], pa.int64()).cast(pa.type_for_alias(kind))
    assert outcome(column, Categorical(boundaries=[1.0]), WHERE) == [0, 1, 1, 0]
    assert outcome(column, Categorical(boundaries=[0.5]), WHERE) == [0, 1, 1, 0]


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinity_has_no_bucket(bad: float) -> None:
    found = outcome(pa.array([1.0, bad]), Categorical(boundaries=[1.0]), WHERE)
    assert "row 1, column 'c': expected a finite number, got " in found
