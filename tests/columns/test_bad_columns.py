"""Columns of a wrong type or name are found in the footers, before a row is read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_column import (
    BAG,
    BUCKET,
    DENSE,
    F64,
    HASHED,
    HASHED_BAG,
    I64,
    ID,
    IDS,
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

STRUCT, MAP = pa.struct([("a", I64)]), pa.map_(STR, I64)
DECIMAL, TIME = pa.decimal128(9, 2), pa.timestamp("us", tz="Europe/Berlin")
A_LIST = "; multi_hot says which columns hold lists"
A_STRING = "; set hash_size or vocabulary for strings"
INTEGERS, ANY = "integer ids", "integer ids or strings"
AS_WORDS, AS_NUMBERS = "strings, as w.parquet has", "integer ids, as n.parquet has"

TYPES: list[tuple[str, Any, pa.DataType, str]] = [
    ("float id", ID, F64, f"expected {INTEGERS}, got type double"),
    ("float id to be hashed", HASHED, F64, f"expected {ANY}, got type double"),
    ("string id", ID, STR, f"expected {INTEGERS}, got type string{A_STRING}"),
    ("bytes as id", ID, pa.binary(), f"expected {INTEGERS}, got type binary{A_STRING}"),
    ("decimal id", ID, DECIMAL, f"expected {INTEGERS}, got type decimal128(9, 2)"),
    ("time as id", ID, TIME, f"expected {INTEGERS}, got type timestamp[us, tz=Europe/Berlin]"),
    ("time to be hashed", HASHED, TIME, f"expected {ANY}, got type timestamp["),
    ("date as id", ID, pa.date32(), f"expected {INTEGERS}, got type date32[day]"),
    ("struct as id", ID, STRUCT, f"expected {INTEGERS}, got type struct<"),
    ("nothing but nulls", ID, pa.null(), f"expected {INTEGERS}, got type null"),
    ("list as id", ID, IDS, f"expected {INTEGERS}, got type list<element: int64>{A_LIST}"),
    ("id as list", BAG, I64, f"expected lists of {INTEGERS}, got type int64{A_LIST}"),
    ("string as list", HASHED_BAG, STR, f"expected lists of {ANY}, got type string{A_LIST}"),
    ("map as list", BAG, MAP, f"expected lists of {INTEGERS}, got type map<"),
    ("nested list", BAG, pa.list_(IDS), f"expected lists of {INTEGERS}, got type list<"),
    ("nested list to be hashed", HASHED_BAG, pa.list_(IDS), f"expected lists of {ANY}, got type "),
    ("list of floats", BAG, NUMBERS, f"expected lists of {INTEGERS}, got type list<"),
    ("list of strings", BAG, pa.list_(STR), "got type list<element: string>" + A_STRING),
    ("list of structs", BAG, pa.list_(STRUCT), f"expected lists of {INTEGERS}, got type list<"),
    ("numbers for words", WORD, I64, f"expected {AS_WORDS}, got type int64"),
    ("words for numbers", NUMBER, STR, f"expected {AS_NUMBERS}, got type string"),
    ("floats for numbers", NUMBER, F64, f"expected {AS_NUMBERS}, got type double"),
    ("lists of numbers for words", WORDS, IDS, f"expected lists of {AS_WORDS}, got type list<"),
    ("string in buckets", BUCKET, STR, "expected numbers, got type string"),
    ("time in buckets", BUCKET, TIME, "expected numbers, got type timestamp["),
    ("string as number", DENSE, STR, "expected numbers, got type string"),
    ("list as number", DENSE, NUMBERS, "expected numbers, got type list<element: double>"),
    ("decimal as number", DENSE, DECIMAL, "expected numbers, got type decimal128(9, 2)"),
    ("time as number", DENSE, TIME, "expected numbers, got type timestamp[us, tz=Europe/Berlin]"),
    ("string as label", "c", STR, "expected numbers, got type string"),
    ("list as label", "c", IDS, "expected numbers, got type list<element: int64>"),
    ("string as weight", None, STR, "expected numbers, got type string"),
    ("list as weight", None, NUMBERS, "expected numbers, got type list<element: double>"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "part", "kind", "expected"), TYPES, ids=[t[0] for t in TYPES])
def test_column_of_a_wrong_type_is_refused_at_once(
    name: str, part: Any, kind: pa.DataType, expected: str, tmp_path: Path
) -> None:
    files = write(tmp_path, c=pa.array([None] * 8, kind))
    with pytest.raises(ValueError) as caught:
        reader(files, schema(part))
    assert str(caught.value).startswith(f"{files[0]}: column 'c': ")
    assert expected in str(caught.value)
    assert str(caught.value).endswith(f" (and in 1 more: {files[1]})")


@pytest.mark.parametrize("kind", [F64, pa.list_(STR), STR, pa.list_(IDS), MAP])
def test_weights_of_ids_are_lists_of_numbers(kind: pa.DataType, tmp_path: Path) -> None:
    files = write(tmp_path, c=pa.array([[1]] * 8), w=pa.array([None] * 8, kind))
    with pytest.raises(ValueError, match=r": column 'w': expected lists of numbers, got type "):
        reader(files, schema(WEIGHTED))


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("c == 1", STR, "label 'c == 1' cannot be computed: "),
        ("c == 'a'", I64, "label 'c == 'a'' cannot be computed: "),
        ("c + 1", STR, "label 'c + 1' cannot be computed: expected numbers, got type string"),
        ("c in (1, 2)", STR, "label 'c in (1, 2)' cannot be computed: "),
        ("c * y", IDS, "label 'c * y' cannot be computed: expected numbers, got type list<"),
        ("c > 5", TIME, "label 'c > 5' cannot be computed: "),
        (f"c < {10**30}", I64, f"label 'c < {10**30}' cannot be computed: "),
        ("d * y", I64, "expected the columns d, got a file with id, y, c"),
        ("C", I64, "expected the columns C, got a file with id, y, c"),
    ],
)
def test_label_that_no_row_could_have_is_refused_at_once(
    text: str, kind: pa.DataType, expected: str, tmp_path: Path
) -> None:
    files = write(tmp_path, c=pa.array([None] * 8, kind))
    with pytest.raises(ValueError) as caught:
        reader(files, schema(text))
    assert str(caught.value).startswith(f"{files[0]}: {expected}")


def test_column_that_a_file_has_twice_is_refused(tmp_path: Path) -> None:
    file, column = str(tmp_path / "twice.parquet"), pa.array([1, 2])
    pq.write_table(pa.Table.from_arrays([column] * 3, names=["id", "y", "id"]), file)
    with pytest.raises(ValueError, match=r"twice.parquet: expected each column once, got id more"):
        reader([file], schema("y"))


@pytest.mark.parametrize("name", ["id", "w", "y"])
def test_renamed_column_is_named_with_those_there_are(name: str, tmp_path: Path) -> None:
    files = write(tmp_path, c=pa.array([[1]] * 8), w=pa.array([[1.0]] * 8))
    table = pq.read_table(files[1])
    other = ["renamed" if column == name else column for column in table.column_names]
    pq.write_table(table.rename_columns(other), files[1])
    with pytest.raises(ValueError) as caught:
        reader(files, schema(WEIGHTED))
    there = ", ".join(other)
    expected = f"{files[1]}: expected the columns {name}, got a file with {there}"
    assert str(caught.value) == expected
