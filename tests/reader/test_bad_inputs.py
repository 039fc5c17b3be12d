"""Each kind of bad input ends in an error that says where it is and what to do about it.

What the policies make of the same inputs is in `test_policies.py`, columns of a wrong type are in
`test_bad_columns.py`, files that are none in `test_bad_files.py`.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_column import (
    BAG,
    BUCKET,
    CLIPPED,
    DENSE,
    F64,
    HASHED,
    HASHED_BAG,
    I64,
    ID,
    IDS,
    LOG,
    NUMBER,
    NUMBERS,
    STR,
    WEIGHTED,
    WORD,
    WORDS,
    reader,
    schema,
    write,
)

from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.reader import footers

RAISE = "raise the cardinality, or set out_of_vocabulary to hash or oov"
EXTEND = "set out_of_vocabulary to hash or oov, or prepare the data again"
ROW = "set missing: row to give missing values a row of their own"
MEAN = "set missing: mean or indicator"
RANGE, TWO_WORDS = "an id in [0, 5)", "one of the 2 values of w.parquet"
VALUE, LIST, FINITE = "a value in every row", "a list in every row", "a finite number"
AT_LEAST_0 = "a number of at least 0 (it goes through log1p)"
CUT = "set max_length, up to 10,000, and keep: first or last"
SHORT, U64S = "a list of at most 10,000 ids", pa.list_(pa.uint64())
UNIT, FITS = "a value in [0, 1]", "a number that fits in 32 bits once standardised"


class Case(NamedTuple):
    """A kind of bad input: a column `c` with one bad value among good ones."""

    name: str
    part: Any  # A feature, the text of a label, or None for the weight.
    kind: pa.DataType
    good: Any
    bad: Any
    expected: str
    got: str
    remedy: str = ""


VALUES = [
    Case("id = rows", ID, I64, 4, 5, RANGE, "5", RAISE),
    Case("id > rows", ID, I64, 4, 6, RANGE, "6", RAISE),
    Case("id -1", ID, I64, 0, -1, RANGE, "-1", RAISE),
    Case("id -10^9", ID, I64, 0, -(10**9), RANGE, "-1000000000", RAISE),
    Case("id 2^40", ID, I64, 0, 2**40, RANGE, "1099511627776", RAISE),
    Case("id 2^32, 0 in 32 bits", ID, I64, 0, 2**32, RANGE, "4294967296", RAISE),
    Case("least int8", ID, pa.int8(), 0, -128, RANGE, "-128", RAISE),
    Case("largest uint8", ID, pa.uint8(), 0, 255, RANGE, "255", RAISE),
    Case("least int32", ID, pa.int32(), 0, -(2**31), RANGE, "-2147483648", RAISE),
    Case("largest int32", ID, pa.int32(), 0, 2**31 - 1, RANGE, "2147483647", RAISE),
    Case("largest uint32", ID, pa.uint32(), 0, 2**32 - 1, RANGE, "4294967295", RAISE),
    Case("least int64", ID, I64, 0, -(2**63), RANGE, str(-(2**63)), RAISE),
    Case("largest int64", ID, I64, 0, 2**63 - 1, RANGE, str(2**63 - 1), RAISE),
    Case("largest uint64", ID, pa.uint64(), 0, 2**64 - 1, RANGE, str(2**64 - 1), RAISE),
    Case("null id", ID, I64, 0, None, VALUE, "null", ROW),
    Case("null of uint64", ID, pa.uint64(), 0, None, VALUE, "null", ROW),
    Case("null flag", ID, pa.bool_(), True, None, VALUE, "null", ROW),
    Case("null to be hashed", HASHED, I64, 0, None, VALUE, "null", ROW),
    Case("null word to be hashed", HASHED, STR, "a", None, VALUE, "null", ROW),
    Case("null word", WORD, STR, "a", None, VALUE, "null", ROW),
    Case("unknown word", WORD, STR, "a", "c", TWO_WORDS, "'c'", EXTEND),
    Case("empty word", WORD, STR, "a", "", TWO_WORDS, "''", EXTEND),
    Case("word with a line break", WORD, STR, "a", "b\n", TWO_WORDS, r"'b\n'", EXTEND),
    Case("long word", WORD, STR, "a", "b" * 10**5, TWO_WORDS, "'" + "b" * 99, EXTEND),
    Case("unknown bytes", WORD, pa.binary(), b"a", b"\0", TWO_WORDS, r"b'\x00'", EXTEND),
    Case("unknown number", NUMBER, I64, 10, 0, "one of the 2 values of n.parquet", "0", EXTEND),
    Case("large word", WORD, pa.large_string(), "a", "c", TWO_WORDS, "'c'", EXTEND),
    Case("bucket of nan", BUCKET, F64, 1.0, math.nan, VALUE, "nan", ROW),
    Case("bucket of null", BUCKET, F64, 1.0, None, VALUE, "null", ROW),
    Case("bucket of inf", BUCKET, F64, 1.0, math.inf, FINITE, "inf"),
    Case("null list", BAG, IDS, [1], None, LIST, "null", ROW),
    Case("null in a list", BAG, IDS, [1], [1, None], VALUE, "null", ROW),
    Case("null in a list of words", WORDS, pa.list_(STR), ["a"], [None], VALUE, "null", ROW),
    Case("unknown word in a list", WORDS, pa.list_(STR), [], ["a", "c"], TWO_WORDS, "'c'", EXTEND),
    Case("null in a list to be hashed", HASHED_BAG, IDS, [1], [None], VALUE, "null", ROW),
    Case("id = rows in a list", BAG, IDS, [], [4, 5], RANGE, "5", RAISE),
    Case("id -1 in a list", BAG, pa.large_list(pa.int8()), [1], [-1], RANGE, "-1", RAISE),
    Case("id 2^64 in a list", BAG, U64S, [1], [2**64 - 1], RANGE, str(2**64 - 1), RAISE),
    Case("too long list", BAG, IDS, [1], [0] * 10_001, SHORT, "10001", CUT),
    Case("nan", DENSE, F64, 1.0, math.nan, FINITE, "nan", MEAN),
    Case("null number", DENSE, F64, 1.0, None, VALUE, "null", MEAN),
    Case("null integer", DENSE, I64, 1, None, VALUE, "null", MEAN),
    Case("inf", DENSE, F64, 1.0, math.inf, FINITE, "inf"),
    Case("inf to be clipped", CLIPPED, F64, 1.0, math.inf, FINITE, "inf"),
    Case("-inf", DENSE, pa.float32(), 1.0, -math.inf, FINITE, "-inf"),
    Case("inf in 16 bits", DENSE, pa.float16(), 1.0, math.inf, FINITE, "inf"),
    Case("too large for 32 bits", DENSE, F64, 1.0, 1e39, FITS, "1e+39"),
    Case("too large once divided", Numerical(std=1e-9), F64, 1.0, 1e30, FITS, "1e+30"),
    Case("log of a negative", LOG, I64, 0, -1, AT_LEAST_0, "-1"),
    Case("log of a clipped negative", CLIPPED, F64, 0.0, -3.0, AT_LEAST_0, "-3.0"),
    Case("label 2", "c", pa.int8(), 1, 2, UNIT, "2"),
    Case("label -0.1", "c", F64, 0.5, -0.1, UNIT, "-0.1"),
    Case("label nan", "c", F64, 1.0, math.nan, FINITE, "nan"),
    Case("label null", "c", I64, 1, None, VALUE, "null"),
    Case("label inf", "c", F64, 1.0, math.inf, FINITE, "inf"),
    Case("label divided by 0", "1 / c", I64, 1, 0, FINITE, "inf"),
    Case("label 0 / 0", "c / c", I64, 1, 0, FINITE, "nan"),
    Case("label of null", "c == 1", I64, 1, None, VALUE, "null"),
    Case("label too large", "c + c", F64, 0.5, 1.0, UNIT, "2.0"),
    Case("weight < 0", None, F64, 1.0, -0.5, "a weight of at least 0", "-0.5"),
    Case("weight inf", None, F64, 1.0, math.inf, FINITE, "inf"),
    Case("weight nan", None, F64, 1.0, math.nan, FINITE, "nan"),
    Case("weight null", None, F64, 1.0, None, VALUE, "null"),
    Case("weight too large", None, F64, 1.0, 1e39, "a weight that fits in 32 bits", "1e+39"),
]  # fmt: skip


def message(files: list[str], columns: Columns) -> str:
    """Return the error of reading the files; the batches before it are good."""
    batches, read = iter(reader(files, columns)), 0
    with pytest.raises(ValueError) as caught:
        for _ in batches:
            read += 1
    assert read == 2, "expected the rows of the row groups before to be read"
    assert type(caught.value) is ValueError
    return str(caught.value)


PLACE = "row group 1, row 1"


@pytest.mark.faults
@pytest.mark.parametrize("case", VALUES, ids=[case.name for case in VALUES])
def test_bad_value_is_refused_with_its_place_and_a_remedy(case: Case, tmp_path: Path) -> None:
    values = [*[case.good] * 6, case.bad, case.good]
    files = write(tmp_path, c=pa.array(values, case.kind))
    column = case.part if isinstance(case.part, str) else "c"
    assert message(files, schema(case.part)) == (
        f"{files[1]}: {PLACE}, column '{column}': expected {case.expected}, "
        f"got {case.got} (1 such in this row group)" + (f"; {case.remedy}" if case.remedy else "")
    )


SHARED = ["id 2^40", "null id", "unknown word", "null in a list", "unknown word in a list"]
SHARED += ["id = rows in a list", "nan", "null number", "label 2", "label divided by 0"]


@pytest.mark.parametrize("case", [c for c in VALUES if c.name in SHARED], ids=lambda c: c.name)
def test_row_is_numbered_in_its_row_group_if_ranks_share_it(case: Case, tmp_path: Path) -> None:
    values = [*[case.good] * 9, case.bad, case.good, case.good]
    files = write(tmp_path, c=pa.array(values, case.kind))
    pq.write_table(pq.ParquetFile(files[1]).read(), files[1])
    ranks = [reader(files[1:], schema(case.part), rank=rank, world_size=2) for rank in (0, 1)]
    assert len(list(ranks[0])) == 5, "expected the rank without the row to go on"
    with pytest.raises(ValueError, match=r"part-1.parquet: row group 0, row 7, column '") as caught:
        list(ranks[1])
    assert f"got {case.got} (1 such in this row group)" in str(caught.value)


@pytest.mark.parametrize("part", [WORD, WORDS], ids=["scalar", "list"])
def test_bytes_that_are_no_text_are_shown(part: Categorical, tmp_path: Path) -> None:
    words = pa.array([*[b"a"] * 6, b"\xff\xfe", b"b"]).view(pa.string())
    if part.multi_hot:
        words = pa.ListArray.from_arrays(pa.array(range(9), pa.int32()), words)
    assert message(write(tmp_path, c=words), schema(part)).endswith(
        rf"{PLACE}, column 'c': expected {TWO_WORDS}, got b'\xff\xfe' (1 such in this row group); "
        + EXTEND
    )


@pytest.mark.parametrize(
    ("bad", "expected", "got"),
    [
        ([0.5], "2 weights, one for each id", "1"),
        ([], "2 weights, one for each id", "0"),
        (None, "2 weights, one for each id", "0"),
        ([0.5] * 3, "2 weights, one for each id", "3"),
        ([0.5, None], "a weight for every id", "null"),
        ([0.5, math.nan], "a finite weight", "nan"),
        ([-math.inf, 0.5], "a finite weight", "-inf"),
        ([1e39, 0.5], "a finite weight", "1e+39"),
    ],
)
def test_bad_weight_of_an_id_is_refused_with_its_place(
    bad: Any, expected: str, got: str, tmp_path: Path
) -> None:
    weights = [*[[0.5, -2.0]] * 6, bad, [1.0, 1.0]]
    files = write(tmp_path, c=pa.array([[1, 2]] * 8), w=pa.array(weights, NUMBERS))
    assert message(files, schema(WEIGHTED)) == (
        f"{files[1]}: {PLACE}, column 'w': expected {expected}, got {got} "
        "(1 such in this row group)"
    )


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"MAX_ROW_GROUP_ROWS": 2}, "row group 0: expected at most 2 rows, got 3; write the file"),
        ({"MAX_LIST_VALUES": 8}, "row group 0: expected at most 8 values in a column of"),
        ({"MAX_ROW_GROUP_BYTES": 8}, "row group 0: expected at most 0 MiB of the columns that are"),
    ],
)  # fmt: skip
def test_row_group_that_would_fill_the_memory_is_refused(
    limit: dict[str, int], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path, c=pa.array([[1, 2, 3]] * 5))
    assert len(reader(files, schema(BAG)).row_groups) == 2
    monkeypatch.setattr(footers, *next(iter(limit.items())))
    with pytest.raises(ValueError) as caught:
        reader(files[1:], schema(BAG))
    assert f"{files[1]}: {expected}" in str(caught.value)
    assert "write the file again with smaller row groups" in str(caught.value)


@pytest.mark.faults
def test_small_file_with_an_immense_list_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert footers.MAX_LIST_VALUES * 12 < 2**30, "expected less than 1 GiB with the levels"
    monkeypatch.setattr(footers, "MAX_LIST_VALUES", 10**6)
    count, file = 10**6 + 1, str(tmp_path / "immense.parquet")
    values = pa.array(np.zeros(count, np.int8))
    lists = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), values)
    pq.write_table(pa.table({"id": [0], "y": [1], "c": lists}), file)
    assert Path(file).stat().st_size < 2_000
    with pytest.raises(ValueError, match=r"immense.parquet: row group 0: expected at most 1,0"):
        reader([file], schema(BAG))
    # A column that is not read may be of any size.
    assert len(list(reader([file], schema("y")))) == 1
