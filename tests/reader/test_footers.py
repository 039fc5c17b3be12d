"""Before a row is read, all that is wrong in all files is told, from their footers alone."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.columns.encode import Encoder, Target
from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.reader import footers
from mbrec.reader.footers import RowGroup, check_files, open_file
from mbrec.reader.source import LOCAL, open_store

COLUMNS = Columns(
    {"user": Categorical(5), "tags": Categorical(5, multi_hot=True)},
    {"age": Numerical()},
    {"click": "click"},
)
ENCODER = Encoder(COLUMNS, [Target("click")])
NOT_PARQUET = "expected a Parquet file: "
GOOD = pa.table({"user": [1, 2], "tags": [[1], []], "age": [1.0, 2.0], "click": [0, 1]})


def changed(**columns: Any) -> pa.Table:
    """Return the good table with other columns, or without those that are None."""
    table = GOOD
    for name, values in columns.items():
        table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values))
    return table


def write(folder: Path, **tables: pa.Table | bytes) -> list[str]:
    files = [str(folder / f"{name}.parquet") for name in tables]
    for file, table in zip(files, tables.values(), strict=True):
        if isinstance(table, bytes):
            Path(file).write_bytes(table)
        else:
            pq.write_table(table, file)
    return files


def problems(files: list[str]) -> list[str]:
    """Return the lines of the error."""
    with pytest.raises(ValueError) as caught:
        check_files(files, ENCODER, LOCAL)
    return str(caught.value).splitlines()


@pytest.mark.faults
def test_all_differences_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    without = changed(user=None, click=None)
    strings = changed(age=["1", "2"], tags=[["a"], []])
    good, a, b, c, d, e, text, empty = files = write(
        tmp_path,
        good=GOOD,
        a=without,
        b=strings,
        c=without,
        d=changed(age=["1", "2"]),
        e=without,
        text=b"user,tags\n1,2\n",
        empty=b"",
    )
    first, *lines = problems(files)
    assert first == "5 problems in the files:"
    assert sorted(lines) == sorted(
        [
            f"  {a}: expected the columns user, click, got a file with tags, age "
            f"(and in 2 more: {c} ...)",
            f"  {b}: column 'age': expected numbers, got type string (and in 1 more: {d})",
            f"  {b}: column 'tags': expected lists of integer ids, got type "
            "list<element: string>; set hash_size or vocabulary for strings",
            *(line for line in lines if f": {NOT_PARQUET}" in line),
        ]
    )
    for file in (text, empty):
        assert any(line.startswith(f"  {file}: {NOT_PARQUET}") for line in lines)
    assert not any(good in line or e in line for line in lines)


def test_one_problem_is_one_line(tmp_path: Path) -> None:
    files = write(tmp_path, a=GOOD, b=changed(click=None))
    assert problems(files) == [
        f"{files[1]}: expected the columns click, got a file with user, tags, age"
    ]


def test_list_of_very_many_problems_ends(tmp_path: Path) -> None:
    other = changed(age=None)
    tables = {f"f{i}": other.append_column(f"x{i}", GOOD["user"]) for i in range(25)}
    files = write(tmp_path, **tables)
    lines = problems(files)
    assert lines[0] == "25 problems in the files:"
    assert len(lines) == 22
    assert lines[-1] == "  ... 5 more"


def test_row_groups_are_numbered_through_all_files_without_the_empty_ones(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{name}.parquet") for name in "abc"]
    for file, sizes in zip(files, ([2, 0, 1], [], [0, 3]), strict=True):
        with pq.ParquetWriter(file, GOOD.schema) as writer:
            for size in sizes:
                writer.write_table(pa.concat_tables([GOOD, GOOD])[:size])
    found = check_files(files, ENCODER, LOCAL).row_groups
    assert [replace(group, num_bytes=0) for group in found] == [
        RowGroup(files[0], 0, 0, 2),
        RowGroup(files[0], 2, 2, 1),
        RowGroup(files[2], 1, 3, 3),
    ]
    assert all(group.num_bytes > 0 for group in found)


@pytest.mark.parametrize("files", [0, 1, 5])
def test_no_rows_are_refused_with_the_first_files(tmp_path: Path, files: int) -> None:
    empty = write(tmp_path, **{f"f{i}": GOOD[:0] for i in range(files)})
    shown = ", ".join(empty[:3])
    assert problems(empty) == [f"expected rows, got none in {files} files ({shown})"]


def test_only_the_footers_are_read(tmp_path: Path) -> None:
    (file,) = write(tmp_path, a=pa.concat_tables([GOOD] * 100))
    expected = check_files([file], ENCODER, LOCAL)
    content = bytearray(Path(file).read_bytes())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    content[4:-footer] = bytes(len(content) - footer - 4)
    Path(file).write_bytes(content)
    assert check_files([file], ENCODER, LOCAL) == expected


@pytest.mark.faults
def test_a_thousand_files_are_checked_in_their_order(tmp_path: Path) -> None:
    good, bad = write(tmp_path, good=GOOD, bad=changed(user=None))
    names = [f"{i:04}.parquet" for i in range(1_000)]
    for i, name in enumerate(names):
        source = bad if i in (500, 700, 999) else good
        (tmp_path / name).write_bytes(Path(source).read_bytes())
    store = open_store(str(tmp_path))
    with pytest.raises(ValueError) as caught:
        check_files(store.find(["0*"]), ENCODER, store)
    assert str(caught.value) == (
        f"{tmp_path}/0500.parquet: expected the columns user, got a file with tags, age, click "
        f"(and in 2 more: {tmp_path}/0700.parquet ...)"
    )
    fine = [name for name in store.find(["0*"]) if name[:4] not in ("0500", "0700", "0999")]
    groups = check_files(fine, ENCODER, store).row_groups
    assert [group.file for group in groups] == fine
    assert [group.first_row for group in groups] == list(range(0, 2 * len(fine), 2))


def test_too_large_row_groups_are_told_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footers, "MAX_ROW_GROUP_ROWS", 2)
    files = write(tmp_path, a=GOOD, b=pa.concat_tables([GOOD] * 2), c=pa.concat_tables([GOOD] * 2))
    with pq.ParquetWriter(files[2], GOOD.schema) as writer:
        writer.write_table(GOOD)
        writer.write_table(pa.concat_tables([GOOD] * 3))
    assert problems(files) == [
        "2 problems in the files:",
        f"  {files[1]}: row group 0: expected at most 2 rows, got 4; write the file again with "
        "smaller row groups",
        f"  {files[2]}: row group 1: expected at most 2 rows, got 6; write the file again with "
        "smaller row groups",
    ]


def test_size_of_columns_that_are_not_read_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = write(tmp_path, a=GOOD.append_column("note", [["x" * 2**21, "y"]]))
    monkeypatch.setattr(footers, "MAX_ROW_GROUP_BYTES", 2**20)
    assert len(check_files([file], ENCODER, LOCAL).row_groups) == 1
    with_note = Columns({"note": Categorical(hash_size=9)}, labels={"click": "click"})
    expected = "row group 0: expected at most 1 MiB of the columns that are read, got 2; write"
    with pytest.raises(ValueError, match=re.escape(f"{file}: {expected}")):
        check_files([file], Encoder(with_note, [Target("click")]), LOCAL)


@pytest.mark.parametrize("name", ["note.list", "a note", "ünïcode", "note.x.y"])
def test_columns_of_any_name_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(footers, "MAX_LIST_VALUES", 3)
    (file,) = write(tmp_path, a=GOOD.append_column(name, [[[1, 2, 3], [4]]]))
    assert check_files([file], ENCODER, LOCAL)
    columns = Columns({name: Categorical(5, multi_hot=True)}, labels={"click": "click"})
    with pytest.raises(ValueError, match="expected at most 3 values in a column of lists, got 4"):
        check_files([file], Encoder(columns, [Target("click")]), LOCAL)


@pytest.mark.parametrize("element", ["element", "item"])
@pytest.mark.parametrize("values", [[["a"], ["b", "a"]], [[1], [2, 1]], ["a", "b"], [1, 2]])
def test_strings_are_read_as_dictionaries_whatever_a_writer_calls_elements(
    tmp_path: Path, element: str, values: list[Any]
) -> None:
    file = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"c": values}), file, use_compliant_nested_type=element == "element")
    with open_file(file, LOCAL, ["c"]) as parquet:
        found = parquet.read()
    kind = found.schema.field("c").type
    kind = kind.value_type if pa.types.is_list(kind) else kind
    assert pa.types.is_dictionary(kind) is ("a" in str(values))
    assert found["c"].to_pylist() == values
