"""Delimited files are read in pieces, and what is wrong in one is named by line and column."""

import gzip

import pyarrow as pa
import pytest

from mbrec.prepare.delimited import Format, find_file, read_delimited, show

TYPES = {"b": pa.float64(), "a": pa.int8()}


@pytest.fixture
def write(tmp_path):
    def run(text, name="file.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return run


def tables(path, types=TYPES, **options):
    return [piece.table for piece in read_delimited(path, types, **options)]


@pytest.mark.parametrize("block_bytes", [16, 1 << 20])
@pytest.mark.parametrize("name", ["file.csv", "file.csv.gz"])
def test_pieces_hold_the_rows_in_order_and_know_their_lines(block_bytes, name, write):
    path = write("a,x,b\n" + "".join(f"{i},x,{i}.5\n" for i in range(20)), name)
    first, rows = 2, []
    for piece in read_delimited(path, TYPES, block_bytes=block_bytes):
        assert piece.first_line == first
        assert piece.table.column_names == ["b", "a"]
        first += len(piece.table)
        rows += piece.table["a"].to_pylist()
    assert rows == list(range(20))
    assert (len(tables(path, block_bytes=block_bytes)) > 1) == (block_bytes == 16)


def test_a_file_without_names_starts_with_a_row(write):
    (table,) = tables(write("1\t2.5\n3\t4\n"), names=["a", "b"], format=Format("\t"))
    assert table.to_pylist() == [{"b": 2.5, "a": 1}, {"b": 4.0, "a": 3}]


def test_texts_stay_as_they_are_and_quotes_have_no_meaning(write):
    (table,) = tables(write('a,b\n NA ,""x"\n,nan\n'), {"a": pa.string(), "b": pa.string()})
    assert table["a"].to_pylist() == [" NA ", ""]
    assert table["b"].to_pylist() == ['""x"', "nan"]


def test_an_empty_number_is_null_where_that_is_allowed(write):
    path = write("a,b\n1,\n")
    (table,) = tables(path, optional=["b"])
    assert table["b"].to_pylist() == [None]
    with pytest.raises(
        ValueError, match=r"file\.csv: line 2, column b: expected a value, got none"
    ):
        tables(path)


@pytest.mark.parametrize("block_bytes", [16, 1 << 20])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,1", "line 22, column a: expected int8, got 'x'"),
        ("1,x", "line 22, column b: expected double, got 'x'"),
        ("300,1", "line 22, column a: expected int8, got '300'"),
        ("1", "line 22: expected 2 columns, got 1: 1"),
        ("1,2,\x01", "line 22: expected 2 columns, got 3: 1,2, $"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(row, message, block_bytes, write):
    path = write("a,b\n" + "1,2\n" * 20 + row + "\n")
    with pytest.raises(ValueError, match=rf"file\.csv: {message}"):
        tables(path, block_bytes=block_bytes)


def test_missing_columns_empty_and_cut_off_files_are_named(write):
    with pytest.raises(
        ValueError, match=r"file\.csv: expected the columns b, got a file with a, c"
    ):
        tables(write("a,c\n1,2\n"))
    with pytest.raises(ValueError, match=r"file\.csv: expected rows, got an empty file"):
        tables(write(""), names=["a", "b"])
    path = write("a,b\n" + "1,2\n" * 50_000, "cut.csv.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(OSError, match=r"cut\.csv\.gz: Truncated"):
        tables(path)


def test_refusals_name_the_first_bad_row_and_its_value(write):
    (piece,) = read_delimited(write("a,b\n1,2\n3,4\n5,6\n"), TYPES)
    piece.refuse([False] * 3, "a", "anything")
    with pytest.raises(ValueError, match=r"line 3, column b: expected less, got 4\.0$"):
        piece.refuse([False, True, True], "b", "less")
    with pytest.raises(ValueError, match=r"line 4, column a: expected 1 or 3, got 5$"):
        piece.refuse_all_but((1, 3), ["a"])


def test_a_long_value_is_shown_in_short():
    assert show("x" * 500) == "'" + "x" * 76 + "..."
    assert show("a\nb\x01") == r"'a\nb\x01'"


def test_a_file_is_found_plain_or_gz_in_the_folder_or_one_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.csv or b\.csv \(plain or \.gz\) in .*none"):
        find_file(tmp_path, "a.csv", "b.csv")
    for path in ("in/side/b.csv", "in/b.csv.gz", "in/b.csv", "b.csv.gz", "b.csv", "in/a.csv"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        assert find_file(tmp_path, "a.csv", "b.csv") == tmp_path / path
