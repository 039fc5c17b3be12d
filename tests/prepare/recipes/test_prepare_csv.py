"""Tests of `prepare csv`: any log in CSV files becomes a data set."""

import gzip
import random
import re
import subprocess
import sys
import weakref
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.columns.manifest import load_folder
from mbrec.prepare import writer
from mbrec.prepare.command import main
from mbrec.prepare.duplicates import Duplicates
from mbrec.prepare.recipes import csv
from mbrec.prepare.recipes.csv import Options, prepare
from mbrec.reader.verify import main as verify

LOG = """time,user,city,price,tags,click
5,12,Berlin,1.5,a|b,1
1,3,,2,c,0
9,12,"New
York",,,0
3,7,Berlin,-1e3,b,1
7,0,Oslo,4,a| b |a,0
"""


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on files with these contents; returns exit code, rows, what it printed."""

    def call(*contents: str, options: str = "") -> tuple[int, list[dict[str, Any]], str]:
        names = [tmp_path / f"log-{k}.csv" for k in range(len(contents))]
        for name, content in zip(names, contents, strict=True):
            name.write_text(content, encoding="utf-8", newline="")
        code = main(["csv", *map(str, names), str(tmp_path / "out"), *options.split()])
        printed = capsys.readouterr()
        return code, rows_of(tmp_path / "out"), printed.out + printed.err

    return call


def splits_of(out: Path) -> dict[str, pa.Table]:
    if not out.exists():
        return {}
    found = load_folder(out)
    return {
        split: pa.concat_tables(pq.read_table(out / name) for name in found.files_of(split))
        for split in found.splits
    }


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for table in splits_of(out).values() for row in table.to_pylist()]


def type_of(tmp_path: Path, column: str, *values: str, **options: Any) -> str:
    """Return the type of a column with these values, read in blocks of a few of them."""
    path = tmp_path / "types.csv"
    path.write_text("n," + column + "\n" + "".join(f"{k},{v}\n" for k, v in enumerate(values)))
    chosen = Options(overwrite=True, test=0, validation=0, **options)
    prepare([path], tmp_path / "types", chosen, block_bytes=24)
    return str(pq.read_schema(tmp_path / "types/train/part-00000.parquet").field(column).type)


def test_a_log_is_ordered_by_time_split_and_typed(run, tmp_path):
    code, rows, _ = run(LOG, options="--time time --lists tags --test 0.2 --validation 0.4")
    assert code == 0
    splits = splits_of(tmp_path / "out")
    assert {name: table["time"].to_pylist() for name, table in splits.items()} == {
        "train": [1, 3],
        "validation": [5, 7],
        "test": [9],
    }
    assert [row["city"] for row in rows] == [None, "Berlin", "Berlin", "Oslo", "New\nYork"]
    assert [row["price"] for row in rows] == [2.0, -1000.0, 1.5, 4.0, None]
    assert [row["tags"] for row in rows] == [["c"], ["b"], ["a", "b"], ["a", "b", "a"], []]
    assert [str(field.type) for field in splits["train"].schema] == [
        *("int64", "int64", "string", "double", "list<element: string>", "int64"),
    ]
    assert load_folder(tmp_path / "out").columns["tags"].vocabulary == "vocabulary/tags.parquet"
    assert verify([str(tmp_path / "out")]) == 0


def test_it_prints_what_it_guessed_the_splits_and_what_to_type_next(run, tmp_path):
    code, _, printed = run(LOG + "8,1,,,,1\n" * 2, options="--test 0.4 --validation 0")
    assert code == 0
    lines = printed.splitlines()
    assert "labels, a guess (or add --labels A,B): click" in lines
    assert any(line.startswith("note: split in the order of the files") for line in lines)
    assert ["rows", "4", "3"] in map(str.split, lines)
    assert lines[-1].endswith(f"mbrec describe {tmp_path / 'out'} name=NAME")
    _, _, printed = run(LOG, options="--time time --labels click --overwrite")
    assert "a guess" not in printed and "note:" not in printed


def test_without_a_time_rows_stay_in_the_order_of_the_files(run):
    head, body = "a,click\n", [f"{k},{k % 2}\n" for k in (5, 3, 9, 1, 7, 2, 8, 4)]
    _, rows, _ = run(head + "".join(body[:3]), head + "".join(body[3:]))
    assert [row["a"] for row in rows] == [5, 3, 9, 1, 7, 2, 8, 4]


@pytest.mark.parametrize("block", [300, 1 << 24])
@pytest.mark.parametrize("partition", [2_000, 1 << 27])
def test_sorting_does_not_depend_on_the_pieces(tmp_path, block, partition):
    numbers = random.Random(0)
    times = [numbers.randrange(100) for _ in range(500)]
    lines = [f"{t},{k},{'x' * (k % 20)},{k % 3}|{k}\n" for k, t in enumerate(times)]
    (tmp_path / "a.csv").write_text("t,k,text,tags\n" + "".join(lines[:200]))
    (tmp_path / "b.csv").write_text("t,k,text,tags\n" + "".join(lines[200:]))
    options = Options(time="t", lists=["tags"])
    sources = [tmp_path / "a.csv", tmp_path / "b.csv"]
    manifest, _ = prepare(
        sources, tmp_path / "out", options, block_bytes=block, partition_bytes=partition
    )
    expected = sorted(range(500), key=lambda k: times[k])  # stable
    rows = rows_of(tmp_path / "out")
    assert [row["k"] for row in rows] == expected
    assert [row["text"] or "" for row in rows] == ["x" * (k % 20) for k in expected]
    assert [row["tags"] for row in rows] == [[k % 3, k] for k in expected]
    assert [manifest["splits"][s]["rows"] for s in ("train", "validation", "test")] == [400, 50, 50]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "b.csv", "out"]


def test_folders_and_compressed_files_are_read_by_name(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "2.csv").write_text("a,b\n3,4\n")
    (folder / "1.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfa,b\r\n1,2\r\n"))
    (folder / "notes.txt").write_text("no table")
    assert main(["csv", str(folder), str(tmp_path / "out"), "--test", "0"]) == 0
    assert rows_of(tmp_path / "out") == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]


TYPES = [
    (["1", "-2", ""], "int64"),
    (["1", "2", "3", "4", "2.5"], "double"),
    (["1", "2", "3", "4", "many"], "string"),
    (["", "", "", "", "7"], "int64"),
    (["", "", ""], "string"),
    (["true", "False", "null"], "bool"),
    (["2020-01-31", "2020-02-29"], "date32[day]"),
    (["2020-01-31", "2020-02-29", "2020-02-29 12:00:00"], "timestamp[us]"),
    (["2020-01-31T10:00:00Z", "2020-01-31T10:00:00+02:00"], "timestamp[us, tz=UTC]"),
    (["2020-02-30"], "string"),
    (["1.0e5", "nan", "-2e-3", "1e+16"], "double"),
    (["1.5", "-inf"], "string"),
    (["1", "2", "3", "18446744073709551615"], "string"),  # a double would change the digits
    (["NA", "DE", "SE"], "string"),
]


@pytest.mark.parametrize(("values", "kind"), TYPES)
def test_types_are_found_from_all_values(tmp_path, values, kind):
    assert type_of(tmp_path, "x", *values) == kind


def test_columns_of_strings_and_lists_are_as_asked(tmp_path):
    assert type_of(tmp_path, "x", "1", "2", strings=["x"]) == "string"
    assert type_of(tmp_path, "x", "1|2", "", "3", lists=["x"]) == "list<element: int64>"
    assert type_of(tmp_path, "x", "1|2", "3.5", lists=["x"]) == "list<element: double>"
    assert type_of(tmp_path, "x", "1", "2|a", lists=["x"]) == "list<element: string>"
    assert (
        type_of(tmp_path, "x", "[1; 2]", lists=["x"], list_separator=";") == "list<element: int64>"
    )
    assert rows_of(tmp_path / "types")[0]["x"] == [1, 2]
    assert type_of(tmp_path, "x", "1", lists=["x"], strings=["x"]) == "list<element: string>"


def test_a_late_value_that_is_no_number_is_told(run, tmp_path):
    lines = "".join(f"{k},{k}\n" for k in range(2_000)) + "2000,oops\n2001,2001\n"
    code, rows, printed = run("a,b\n" + lines, options="--test 0")
    assert code == 0
    assert rows[-2]["b"] == "oops"
    assert (
        f"column 'b' holds strings because of 'oops' in {tmp_path / 'log-0.csv'}, row 2002"
        in printed
    )


def test_dates_are_kept_and_can_be_the_time(run):
    log = "day,at,x\n2020-02-01,2020-02-01 10:00:00,1\n2020-01-01,2020-01-01 09:30:00.5,2\n"
    _, rows, _ = run(log, options="--time day --test 0")
    assert [row["day"] for row in rows] == [date(2020, 1, 1), date(2020, 2, 1)]
    assert rows[0]["at"] == datetime(2020, 1, 1, 9, 30, 0, 500_000)


def test_null_values_and_delimiters_are_as_asked(run):
    log = "a\tb\n1\tnone\n-\t\n"
    _, rows, _ = run(log, options=r"--delimiter \t --null-values none,- --test 0")
    assert rows == [{"a": 1, "b": None}, {"a": None, "b": None}]


REFUSED = [
    (LOG, "--ids city", r"log-0.csv: row 2, column 'city': expected an integer, got 'Berlin'"),
    (
        "uid,x\n7,1\n12e4,0\n",
        "--ids uid",
        r"row 3, column 'uid': expected an integer, got '12e4' \(an exponent, .* --strings uid",
    ),
    ("a,click\n1,1\n2,inf\n", "--labels click", r"expected a number, got 'inf' \(infinite"),
    (LOG, "--ids price", r"row 2, column 'price': expected an integer, got '1.5'"),
    (LOG, "--labels city", r"row 2, column 'city': expected a number, got 'Berlin'"),
    (LOG, "--time city", r"row 3, column 'city': expected a time in every row, got none"),
    (LOG, "--time tag", r"--time: expected one of time, user, .*, got tag"),
    (LOG, "--lists a,tags", r"--lists: expected one of time, user, .*, got a"),
    (LOG, "--strings click --labels click", r"expected times and labels that are no lists or stri"),
    (LOG, "--ids user --strings user", r"expected either --ids or --strings, got both for"),
    (LOG, "--test 1.5", r"expected shares for validation and test in \[0, 1\), got 0.1 and 1.5"),
    (LOG, "--delimiter ,,", r"--delimiter: expected one character, got ',,'"),
    (LOG, '--delimiter "', r"--delimiter: expected one character, got '\"'"),
    (LOG, "--test 0.6 --validation 0.4", r"expected validation and test to leave rows for train"),
    ("a,b\n1,2\n3\n", "", r"log-0.csv: row 3: expected 2 columns, got 1: 3"),
    ('a,b\n"1,2\n3,4\n5,6\n', "", r"log-0.csv: row 2: expected 2 columns, got"),
    ("a,b\n", "", r"log-0.csv: expected rows below the column names, got none"),
    ("", "", r"log-0.csv: expected a first line of different column names, got \[\]"),
    ("a,b,a\n1,2,3\n", "", r"expected a first line of different column names, got \['a', 'b', 'a"),
    ("a,\n1,2\n", "", r"expected a first line of different column names"),
    ("1,2.5\n3,4\n", "", r"expected a first line of column names, got the numbers \['1', '2.5'\]"),
]


@pytest.mark.parametrize(("log", "options", "message"), REFUSED)
def test_nonsense_is_refused_in_a_line_and_nothing_is_left(run, tmp_path, log, options, message):
    code, rows, printed = run(log, options=options)
    assert (code, rows) == (2, [])
    assert printed.startswith("prepare csv: ")
    assert len(printed.splitlines()) == 1
    assert re.search(message, printed), printed
    assert [path.name for path in tmp_path.iterdir()] == ["log-0.csv"]


def test_other_refusals_name_the_file(run, tmp_path, capsys):
    assert "log-1.csv: expected the columns of" in run("a,b\n1,2\n", "a,c\n1,2\n")[2]
    assert f"{tmp_path / 'none'}: no such file or folder" in _error(tmp_path, capsys)
    (tmp_path / "none").mkdir()
    assert "expected .csv or .csv.gz files in it, found none" in _error(tmp_path, capsys)
    (tmp_path / "none/a.csv").write_bytes(b"a,b\n1,\xff\xfe\n")
    assert "a.csv: row 2, column b: " in _error(tmp_path, capsys)
    (tmp_path / "none/a.csv").unlink()
    whole = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (k, k * k) for k in range(5_000)))
    (tmp_path / "none/a.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "a.csv.gz: " in _error(tmp_path, capsys)
    (tmp_path / "none/a.csv.gz").write_bytes(b"a,b\n1,2\n")
    assert "a.csv.gz: " in _error(tmp_path, capsys)


def _error(tmp_path: Path, capsys: Any) -> str:
    assert main(["csv", str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    return printed


def test_an_existing_folder_is_replaced_only_on_request(run, tmp_path):
    assert run(LOG)[0] == 0
    code, rows, printed = run(LOG)
    assert (code, len(rows)) == (2, 5)
    assert "out exists already: remove it or pass --overwrite" in printed
    assert run("a,b\n1,2\n", options="--overwrite --test 0")[1] == [{"a": 1, "b": 2}]


@pytest.mark.parametrize(
    "options",
    [["--test", "x"], ["--what"], ["--duplicates", "few"]],
)
def test_nonsense_arguments_exit_with_2(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["csv", "log.csv", "out", *options])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_command_runs_from_anywhere(tmp_path):
    (tmp_path / "log.csv").write_text(LOG)
    command = [sys.executable, "-m", "mbrec", "prepare", "csv", "log.csv", "out", "--time", "time"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "written to out; next: mbrec describe out name=NAME" in done.stdout


def test_codes_keep_their_zeros(run: Any) -> None:
    _, rows, printed = run("zip,rate,clicked\n" + "00123,0.5,1\n" * 10)
    assert [(row["zip"], row["rate"]) for row in rows] == [("00123", 0.5)] * 10
    assert "column 'zip' holds strings because of '00123' (a number would lose the zeros" in printed


def log_of(rows: int, repeated: int) -> str:
    """Returns a log of different rows, the first of which come again at the end."""
    lines = [f"{k // 2},{k},{k % 2}\n" for k in range(rows)]
    return "time,item,clicked\n" + "".join(lines + lines[:repeated])


def test_a_log_without_times_keeps_its_rows_and_says_how_many_are_equal(run):
    cells = [("Oslo", "Lima")[k % 2] + f",{'abc'[k % 3]},{int(k % 5 == 0)}\n" for k in range(1_000)]
    code, rows, printed = run("city,device,clicked\n" + "".join(cells))
    assert (code, len(rows)) == (0, 1_000)
    assert "98.80% of the rows (988) equal an earlier row in every column and are kept" in printed
    assert "--duplicates drop keeps one of each" in printed


@pytest.mark.parametrize(
    ("repeated", "options", "kept", "said"),
    [
        (4, "--time time", 996, "duplicates dropped 4 (0.40%)"),
        (10, "--time time", 990, "duplicates dropped 10 (1.00%)"),
        (11, "--time time", 1_000, "1.10% of the rows (11) equal an earlier row"),
        (500, "--time time --duplicates drop", 500, "duplicates dropped 500 (50.00%)"),
        (4, "--time time --duplicates keep", 1_000, "duplicates dropped 0"),
        (4, "", 1_000, "are kept: no --time tells events"),
        (0, "", 1_000, "duplicates dropped 0"),
    ],
)
def test_more_than_one_percent_of_equal_rows_are_dropped_only_on_request(
    run, repeated, options, kept, said
):
    code, rows, printed = run(log_of(1_000 - repeated, repeated), options=options)
    assert (code, len(rows)) == (0, kept)
    assert said in " ".join(printed.split())


@pytest.mark.parametrize(
    ("repeated", "options", "kept", "said"),
    [
        (30, "--time time", 330, "9.09% of the rows (30) equal an earlier row in every column"),
        (3, "--time time", 300, "duplicates dropped 3 (0.99%)"),
        (30, "", 330, "9.09% of the rows (30) equal an earlier row in every column"),
        (30, "--time time --duplicates drop", 300, "duplicates dropped 30 (9.09%)"),
    ],
)
def test_rows_are_counted_as_equal_by_their_values_whatever_their_text(
    run, repeated, options, kept, said
):
    lines = [f"{k},{k % 7}.50,{k % 2},b|a\n" for k in range(300)]
    lines += [f"{k},{k % 7}.5,{k % 2},[b| a]\n" for k in range(repeated)]
    log = "time,price,clicked,tags\n" + "".join(lines)
    code, rows, printed = run(log, options=f"{options} --lists tags")
    assert (code, len(rows)) == (0, kept)
    assert said in " ".join(printed.split())


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ("--time time", 2),  # one counts, the other drops
        ("--time time --duplicates drop", 1),
        ("--time time --duplicates keep", 0),
        ("", 1),
    ],
)
def test_equal_rows_are_looked_for_where_that_decides_alone_and_in_memory_once(
    run, monkeypatch, options, times
):
    made: list[weakref.ref[Duplicates]] = []

    class Watched(Duplicates):
        def __init__(self) -> None:
            super().__init__()
            made.append(weakref.ref(self))

        def drop(self, table: pa.Table) -> pa.Table:
            assert [seen() for seen in made if seen() is not None] == [self]
            return super().drop(table)

    monkeypatch.setattr(csv, "Duplicates", Watched)
    monkeypatch.setattr(writer, "Duplicates", Watched)
    assert run(log_of(996, 4), options=options)[0] == 0
    assert len(made) == times


def test_numbers_that_only_names_tell_apart_are_pointed_out(run):
    _, _, printed = run("version,price\n5.1,5.10\n5.10,5.25\n5.2,12.50\n", options="--test 0")
    notes = [line for line in printed.splitlines() if "fewer decimals" in line]
    assert len(notes) == 1
    assert "column 'version' has 5.10" in notes[0] and "add --strings version" in notes[0]
