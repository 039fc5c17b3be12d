"""Bad values stop at the encoder, with their place named; good ones of every type pass."""

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns.encode import Encoder, Part, Target
from mbrec.columns.hashing import hash_ids
from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.columns.where import Where

I64, F64, IDS = pa.int64(), pa.float64(), pa.list_(pa.int64())
LAYOUT = [[2], [3, 4]]
BAD = 7  # Row 2 of row group 1 of the second file.
HUGE = 2**64 - 1
NO_NULL, NO_NULL_LIST = "a value in every row", "a list in every row"
FINITE = "a finite number"
USER, TAG, UNIT = "an id in [0, 50)", "an id in [0, 9)", "a value in [0, 1]"
POSITIVE, WIDE = "a weight of at least 0", "that fits in 32 bits"

# Column, its type, a good value, a bad one, what is expected, what is reported (default: str(bad)).
BAD_VALUES: list[tuple[Any, ...]] = [
    ("user_id", I64, 1, 50, USER),
    ("user_id", pa.int8(), 1, 50, USER),
    ("user_id", pa.int8(), 1, -1, USER),
    ("user_id", pa.uint8(), 1, 255, USER),
    ("user_id", pa.int32(), 1, 51, USER),
    ("user_id", I64, 1, -1, USER),
    ("user_id", I64, 1, -(10**9), USER),
    ("user_id", I64, 1, 2**40, USER),
    ("user_id", pa.uint64(), 1, 2**63, USER),
    ("user_id", pa.uint64(), 1, HUGE, USER),
    ("user_id", I64, 1, None, NO_NULL, "null"),
    ("user_id", pa.uint64(), HUGE // 2**60, None, NO_NULL, "null"),
    ("query", I64, -5, None, NO_NULL, "null"),
    ("tags", IDS, [0, 1], [1, 2, 9, 3], TAG, "9"),
    ("tags", IDS, [0, 1], [-1], TAG, "-1"),
    ("tags", pa.large_list(pa.int32()), [0, 1], [3, 10**9], TAG, "1000000000"),
    ("tags", pa.list_(pa.uint64()), [0, 1], [HUGE], TAG, str(HUGE)),
    ("tags", pa.list_(pa.int8()), [], [8, 9], TAG, "9"),
    ("tags", IDS, [0, 1], None, NO_NULL_LIST, "null"),
    ("tags", IDS, [0, 1], [1, None], NO_NULL, "null"),
    ("tags", pa.large_list(I64), [0, 1], None, NO_NULL_LIST, "null"),
    ("word_ids", IDS, [0, 1], None, NO_NULL_LIST, "null"),
    ("word_ids", IDS, [0, 1, 2], [None], NO_NULL, "null"),
    ("age", F64, 1.0, math.nan, FINITE),
    ("age", F64, 1.0, math.inf, FINITE),
    ("age", pa.float32(), 1.0, -math.inf, FINITE),
    ("age", F64, 1.0, None, NO_NULL, "null"),
    ("age", I64, 1, None, NO_NULL, "null"),
    ("age", F64, 1.0, 1e300, WIDE),
    ("num_views", I64, 1, -1, "a number of at least 0 (it goes through log1p)"),
    ("num_views", F64, 1.0, -0.5, "a number of at least 0 (it goes through log1p)"),
    ("num_views", F64, 1.0, math.nan, FINITE),
    ("click", pa.int8(), 1, 2, UNIT),
    ("click", pa.int8(), 0, -1, UNIT),
    ("click", F64, 0.5, 1.5, UNIT),
    ("click", F64, 1.0, 1e300, UNIT),
    ("click", F64, 1.0, math.nan, FINITE),
    ("click", pa.bool_(), True, None, NO_NULL, "null"),
    ("is_buy", pa.int8(), 1, 2, UNIT),
    ("wt", F64, 1.0, -0.5, POSITIVE),
    ("wt", I64, 1, -1, POSITIVE),
    ("wt", F64, 1.0, math.nan, FINITE),
    ("wt", F64, 1.0, math.inf, FINITE),
    ("wt", F64, 1.0, None, NO_NULL, "null"),
    ("wt", F64, 1.0, 1e39, WIDE),
    ("__p_buy", F64, 0.5, 1.5, UNIT),
    ("__p_click", F64, 0.5, math.nan, FINITE),
    ("__p_click", F64, 0.5, None, NO_NULL, "null"),
]


IDS_OF = ("user_id", "query", "tags", "word_ids")
NUMBERS = ("age", "num_views")


def remedy_for(column: str, bad: Any, expected: str) -> str:
    """Return what a message must propose: a policy of that kind of column, or nothing."""
    if expected in (USER, TAG):
        return "; raise the cardinality, or set out_of_vocabulary to hash or oov"
    if column in IDS_OF:
        return "; set missing: row to give missing values a row of their own"
    if column in NUMBERS and (bad is None or math.isnan(bad)):
        return "; set missing: mean or indicator"
    return ""


@pytest.mark.parametrize("case", BAD_VALUES, ids=lambda c: f"{c[0]}-{c[1]}-{c[3]}".replace(" ", ""))
def test_bad_value_is_refused_with_its_place(new_log: Any, case: tuple[Any, ...]) -> None:
    column, dtype, good, bad, expected = case[:5]
    got = case[5] if len(case) > 5 else str(bad)
    values = [good] * 9
    values[BAD] = bad
    log = new_log(LAYOUT, {column: pa.array(values, dtype)})
    batches = iter(log.reader(global_batch_size=5))
    next(batches)  # The rows before that row group are good.
    with pytest.raises(ValueError) as caught:
        next(batches)
    place = f"{log.files[1]}: row group 1, row 2, column '{column}': expected "
    assert str(caught.value).startswith(place)
    assert expected in str(caught.value)
    remedy = remedy_for(column, bad, expected)
    assert str(caught.value).endswith(f", got {got} (1 such in this row group){remedy}")


@pytest.mark.parametrize(
    ("column", "dtype", "values", "row", "got"),
    [
        ("user_id", I64, [0, 1, 99, 2, -1], 2, "99 (2 such"),
        ("tags", IDS, [[], [0, 1], [], [0, 9, 10], [11]], 3, "9 (3 such"),
        ("tags", IDS, [[0, 1], [2, None, None], [None], [3], []], 1, "null (3 such"),
        ("word_ids", IDS, [[0, 1], None, [], None, []], 1, "null (2 such"),
        ("wt", F64, [1.0, 1.0, 1.0, -3.0, -2.0], 3, "-3.0 (2 such"),
    ],
)
def test_first_of_several_bad_values_is_named_and_all_are_counted(
    new_log: Any, column: str, dtype: pa.DataType, values: list[Any], row: int, got: str
) -> None:
    log = new_log([[5]], {column: pa.array(values, dtype)})
    with pytest.raises(ValueError) as caught:
        list(log.reader())
    assert f"row group 0, row {row}, column '{column}'" in str(caught.value)
    assert f"got {got} in this row group)" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "dtype", "expected"),
    [
        ("user_id", 1.0, F64, "integer ids, got type double"),
        ("user_id", "1", pa.string(), "integer ids, got type string"),
        ("user_id", [1], IDS, "integer ids, got type list<"),
        ("query", 1.0, F64, "integer ids or strings, got type double"),
        ("tags", 1, I64, "lists of integer ids, got type int64"),
        ("tags", [1.0], pa.list_(F64), "lists of integer ids, got type list<"),
        ("tags", ["1"], pa.large_list(pa.string()), "lists of integer ids, got type large_list<"),
        ("word_ids", [[1]], pa.list_(IDS), "lists of integer ids or strings, got type list<"),
        ("age", "1", pa.string(), "numbers, got type string"),
        ("age", [1.0], pa.list_(F64), "numbers, got type list<"),
        ("num_views", "1", pa.string(), "numbers, got type string"),
        ("click", "yes", pa.string(), "numbers, got type string"),
        ("wt", [1], IDS, "numbers, got type list<"),
        ("__p_buy", "0.5", pa.string(), "numbers, got type string"),
    ],
)
def test_column_of_the_wrong_type_is_refused_before_a_row_is_read(
    new_log: Any, column: str, value: Any, dtype: pa.DataType, expected: str
) -> None:
    log = new_log([[2, 1]], {column: pa.array([value] * 3, dtype)})
    with pytest.raises(ValueError) as caught:
        log.reader()
    assert str(caught.value).startswith(f"{log.files[0]}: column '{column}': expected {expected}")


WIDTHS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make_list", [pa.list_, pa.large_list])
def test_integers_of_every_width_are_the_same_ids(new_log: Any, width: str, make_list: Any) -> None:
    dtype, lists = pa.type_for_alias(width), [[7], [], [8, 0, 8]]
    integers = {name: pa.array([49, 0, 7], dtype) for name in ("user_id", "query", "item")}
    bags = {name: pa.array(lists, make_list(dtype)) for name in ("tags", "word_ids")}
    log = new_log([[3]], integers | bags)
    sparse = log.batches()[0].sparse
    found = {key: jagged.values().tolist() for key, jagged in sparse.to_dict().items()}
    words = hash_ids(np.array([7, 8, 0, 8]), 11).tolist()
    query = hash_ids(np.array([49, 0, 7]), 16).tolist()
    ids = {"user": [49, 0, 7], "item": [49, 0, 7], "tags": [7, 8, 0, 8]}
    assert found == ids | {"words": words, "query": query}
    assert str(sparse.values().dtype) == "torch.int64"


def test_booleans_are_the_ids_0_and_1(new_log: Any) -> None:
    flags = pa.array([True, False, True])
    log = new_log([[3]], {"user_id": flags, "query": flags})
    sparse = log.batches()[0].sparse
    assert sparse["user"].values().tolist() == [1, 0, 1]
    assert sparse["query"].values().tolist() == hash_ids(np.array([1, 0, 1]), 16).tolist()


@pytest.mark.parametrize("dtype", [*WIDTHS, "bool", "float16", "float32", "float64"])
def test_labels_weights_and_numbers_of_every_type_are_equal(new_log: Any, dtype: str) -> None:
    names, values = ["click", "is_buy", "like", "wt", "age", "num_views"], [1, 0, 1, 1, 0]
    column = pa.array(values, I64).cast(pa.type_for_alias(dtype), safe=True)
    batch = new_log([[5]], dict.fromkeys(names, column)).batches(global_batch_size=5)[0]
    expected = np.array(values, np.float32)
    assert np.array_equal(batch.weights_B.numpy(), expected)
    assert np.array_equal(batch.labels_BK.numpy(), np.stack([expected] * 3, axis=1))
    dense = [(expected - 3) / 2, (np.log1p(expected) - 0.5) / 1.5]
    np.testing.assert_allclose(batch.dense_BN.numpy(), np.stack(dense, axis=1), rtol=1e-6)


bags_of_ids = st.lists(st.lists(st.integers(0, 8), max_size=4), min_size=1, max_size=12)


@settings(deadline=None)
@given(bags_of_ids, st.lists(st.integers(0, 12)), st.integers(0, 3), st.data())
def test_chunks_and_slices_do_not_change_the_rows(
    bags: list[list[int]], cuts: list[int], before: int, data: st.DataObject
) -> None:
    columns = Columns(
        {"id": Categorical(9), "bag": Categorical(9, multi_hot=True)},
        {"x": Numerical()},
        {"y": "y"},
    )
    n, make_list = len(bags), data.draw(st.sampled_from([pa.list_, pa.large_list]))
    ids = [sum(bag) % 9 for bag in bags]
    y = [sum(bag) % 2 == 1 for bag in bags]
    # Values, their type, and a bad value around each slice, which is not part of the rows.
    plain: dict[str, tuple[list[Any], Any, Any]] = {
        "id": (ids, pa.int16(), 99),
        "bag": (bags, make_list(pa.uint8()), [99, None]),
        "x": ([float(i) for i in ids], pa.float32(), math.nan),
        "y": (y, pa.bool_(), None),
    }
    bounds = sorted({0, n, *(cut for cut in cuts if cut < n)})
    parts = []
    for start, stop in pairwise(bounds):
        arrays = {
            name: pa.array([bad] * before + values[start:stop] + [bad], dtype)[before:-1]
            for name, (values, dtype, bad) in plain.items()
        }
        parts.append(Part(pa.record_batch(arrays), 100 + start, Where("file", 0)))
    encoder = Encoder(columns, [Target("y")])
    # In memory in which other rows were, of which there were more or fewer.
    memory = encoder.encode(parts[:1] * 2, 2 * bounds[1])
    rows = encoder.encode(parts, n, memory)
    (bag,) = rows.bags
    values, offsets = bag.values, bag.offsets
    assert bag.lengths.tolist() == list(map(len, bags))
    assert bag.weights is None
    assert rows.ids_Fn.tolist() == [ids]
    assert [values[a:b].tolist() for a, b in pairwise(offsets)] == bags
    assert (values.dtype, rows.ids_Fn.dtype) == (np.int64, np.int64)
    assert rows.dense_nN[:, 0].tolist() == ids
    assert rows.labels_nK[:, 0].tolist() == y
    assert rows.weights_n.tolist() == [1.0] * n
    assert rows.rows_n.tolist() == list(range(100, 100 + n))


def splitmix64(state: int) -> int:
    """Return the first output of the published generator, in Python's integers."""
    x = (state + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_hashes_stay_what_they_were() -> None:
    # The first outputs of the reference implementation for the seeds 0 and 1234567.
    known = [0xE220A8397B1DCDAF % 2**40, 6457827717110365317 % 2**40]
    assert hash_ids(np.array([0, 1234567]), 2**40).tolist() == known
    assert hash_ids(np.array([-1, 0, 1, 2, 10**12]), 1_000).tolist() == [936, 535, 465, 110, 224]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 2**62))
def test_hash_is_splitmix64_modulo_the_size(value: int, size: int) -> None:
    found = int(hash_ids(np.array([value]), size)[0])
    assert found == splitmix64(value) % size
    assert 0 <= found < size


@pytest.mark.parametrize("stride", [1, 64, 1_000, 2**32])
def test_hashes_are_roughly_uniform(stride: int) -> None:
    n, buckets = 100_000, 64
    counts = np.bincount(hash_ids(np.arange(n) * stride, buckets), minlength=buckets)
    chi_squared = ((counts - n / buckets) ** 2 / (n / buckets)).sum()
    # Mean buckets - 1, variance twice that; far below would be as wrong as far above.
    assert abs(chi_squared - (buckets - 1)) < 5 * math.sqrt(2 * (buckets - 1))


def test_error_shows_where_in_one_line() -> None:
    with pytest.raises(ValueError) as caught:
        Where("f", 3).column("c").refuse(np.array([False, True]), np.array([1, 2]), "less")
    pattern = r"f: row group 3, row 1, column 'c': expected less, got 2 \(1 such in .*\)"
    assert re.fullmatch(pattern, str(caught.value))
    with pytest.raises(ValueError) as caught:
        Where("f", 3, "c").refuse(np.array([True]), None, "more", np.array([8]), remedy="add one")
    pattern = r"f: row group 3, row 8, column 'c': expected more, got null \(.*\); add one"
    assert re.fullmatch(pattern, str(caught.value))
