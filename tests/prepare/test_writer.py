"""Data sets are written whole or not at all, as the manifest says, and damage shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.columns.manifest import load_folder
from mbrec.prepare.writer import DatasetWriter, summary

SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("tags", pa.list_(pa.int32())),
        ("city", pa.string()),
        ("price", pa.float32()),
        ("click", pa.int8()),
        ("__p", pa.float64()),
    ]
)
SMALL: dict[str, Any] = {"labels": ["click"], "row_group_rows": 4}


def rows(n: int, first: int = 0) -> pa.Table:
    """Different rows; `user` counts from `first`."""
    k = np.arange(first, first + n)
    return pa.table(
        {
            "user": k,
            "tags": [[i % 3] * (i % 4) for i in k.tolist()],
            "city": [f"c{i % 5}" if i % 7 else None for i in k.tolist()],
            "price": k / 4,
            "click": k % 2,
            "__p": k / 1e6,
        },
        schema=SCHEMA,
    )


def read(folder: Path, split: str) -> pa.Table:
    files = load_folder(folder).files_of(split)
    return pa.concat_tables(
        pq.read_table(folder / name, page_checksum_verification=True) for name in files
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


def write(out: Path, train: pa.Table, test: pa.Table, **options: Any) -> dict[str, Any]:
    with DatasetWriter(out, SCHEMA, **{**SMALL, **options}) as writer:
        writer.add("train", train)
        writer.add("test", test)
        return writer.finish({"source": "made up"})


def left_over(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir()] if out.parent.exists() else []


@pytest.mark.parametrize("piece", [1, 5, 1_000])
def test_rows_come_back_in_their_order_wherever_the_tables_are_cut(out, piece):
    table = rows(300)
    with DatasetWriter(out, SCHEMA, **SMALL) as writer:
        for start in range(0, 300, piece):
            writer.add("train", table.slice(start, piece))
        writer.add("test", rows(3, first=500))
        writer.finish()
    assert read(out, "train").equals(table)
    assert read(out, "test").equals(rows(3, first=500))
    assert pq.read_schema(out / "train/part-00000.parquet").equals(SCHEMA)


def test_files_have_64_row_groups_of_the_size_asked_for_and_checksums(out):
    write(out, rows(4 * 64 + 6), rows(1, first=999))
    first, second = (pq.ParquetFile(out / f"train/part-0000{k}.parquet") for k in range(2))
    with first, second:
        sizes = [
            [f.metadata.row_group(i).num_rows for i in range(f.num_row_groups)]
            for f in (first, second)
        ]
        assert sizes == [[4] * 64, [4, 2]]
        assert first.metadata.row_group(0).column(0).compression == "ZSTD"


def test_the_manifest_says_what_is_in_the_files(out):
    given = write(out, rows(260), rows(10, first=300), cardinality={"user": 1_000})
    found = load_folder(out)
    saved = json.loads((out / "manifest.json").read_text())
    assert given | {"digest": saved["digest"]} == saved
    assert given == found.to_dict()
    there = {p.relative_to(out).as_posix(): p for p in out.rglob("*.parquet")}
    assert set(found.files) == set(there)
    for name, path in there.items():
        assert found.files[name].bytes == path.stat().st_size
        assert found.files[name].rows == pq.read_metadata(path).num_rows
    assert {name: split.rows for name, split in found.splits.items()} == {"train": 260, "test": 10}
    assert found.splits["train"].label_rates == {"click": 0.5}
    assert found.columns["user"].cardinality == 1_000
    assert found.columns["user"].max == 259  # of the training rows alone
    assert found.columns["tags"].max_length == 3
    assert found.columns["city"].nulls == len(range(0, 260, 7))
    assert "__p" not in found.columns
    assert found.notes == {"source": "made up"}


def test_vocabularies_are_files_of_the_data_set(out):
    write(out, rows(10), rows(5, first=100))
    name = load_folder(out).columns["city"].vocabulary
    assert name == "vocabulary/city.parquet"
    values = pq.read_table(out / name)
    # Rows 0 and 7 have none; of the eight others c1, c3 and c4 have two each.
    assert values.to_pydict()["value"] == ["c1", "c3", "c4", "c0", "c2"]


def test_columns_of_any_name_have_vocabularies_inside_the_folder(out):
    names = ["../x", "..", ".", "a/b", "a b", "A B", "a:b", "größe", "/etc", "x" * 300]
    schema = pa.schema([(name, pa.string()) for name in names])
    with DatasetWriter(out, schema) as writer:
        writer.add("train", pa.table({name: [name] for name in names}))
        writer.finish()
    found = load_folder(out)
    files = [found.columns[name].vocabulary for name in names]
    assert len({str(file).lower() for file in files}) == len(names)
    for name, file in zip(names, files, strict=True):
        assert pq.read_table(out / str(file))["value"].to_pylist() == [name]
    assert left_over(out) == ["out"]


def test_duplicates_are_dropped_over_all_splits_and_counted(out):
    train, test = pa.concat_tables([rows(20), rows(5, first=3)]), rows(9, first=15)
    given = write(out, train, test, duplicates="drop")
    assert given["duplicates_dropped"] == 5 + 5
    assert read(out, "train").equals(rows(20))
    assert read(out, "test").equals(rows(4, first=20))
    kept = write(out, rows(20), rows(9, first=15), overwrite=True)
    assert kept["duplicates_dropped"] == 0
    assert read(out, "test").equals(rows(9, first=15))


def test_a_few_duplicates_are_dropped_and_many_are_refused(out):
    twice = [rows(3)] * 2
    given = write(out, pa.concat_tables([rows(300), *twice[:1]]), rows(1, 900), duplicates="few")
    assert given["duplicates_dropped"] == 3
    many, message = pa.concat_tables([rows(300), *twice]), r"at most 1% .* got 1.95% \(6 of 307\)"
    with pytest.raises(ValueError, match=message):
        write(out, many, rows(1, 900), duplicates="few", overwrite=True)
    assert load_folder(out).splits["train"].rows == 300


def test_statistics_and_label_rates_leave_dropped_rows_out(out):
    table = pa.concat_tables([rows(4), *[rows(1, first=1)] * 50])
    given = write(out, table, rows(1, first=9), duplicates="drop")
    assert given["splits"]["train"] == {"rows": 4, "label_rates": {"click": 0.5}}
    assert given["columns"]["user"]["mean"] == 1.5


@pytest.mark.parametrize("of_test", [rows(0), rows(2)], ids=["none", "duplicates"])
def test_splits_without_rows_are_not_there(out, of_test):
    given = write(out, rows(5), of_test, duplicates="drop")
    assert [path.name for path in sorted(out.iterdir())] == ["manifest.json", "train", "vocabulary"]
    assert list(given["splits"]) == ["train"]


def test_columns_are_put_in_order_and_cast_without_loss(out):
    table = rows(6).select(list(reversed(SCHEMA.names)))
    table = table.set_column(0, "__p", pa.array(np.arange(6), pa.int64()))
    with DatasetWriter(out, SCHEMA) as writer:
        writer.add("train", table)
        writer.finish()
    assert read(out, "train")["__p"].to_pylist() == [0, 1, 2, 3, 4, 5]


def bad_rows(name: str, values: list[Any]) -> pa.Table:
    return rows(2).set_column(SCHEMA.names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows(2).drop_columns(["user"]), r"expected the columns user, .*, got tags, "),
        (rows(2).append_column("more", pa.array([1, 2])), "got .*more"),
        (bad_rows("click", [1, 300]), r"column 'click': expected int8: .*300"),
        (bad_rows("user", ["1", "x"]), r"column 'user': expected int64: .*x"),
        (bad_rows("user", [1.0, 1.5]), r"column 'user': expected int64"),
    ],
)
def test_tables_that_do_not_fit_the_schema_are_refused(out, table, message):
    with pytest.raises(ValueError, match=message), DatasetWriter(out, SCHEMA) as writer:
        writer.add("train", table)
    assert left_over(out) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "vocabulary", "manifest.json", ".x"])
def test_splits_need_names_that_are_fit_for_folders(out, name):
    with pytest.raises(ValueError, match="expected a"), DatasetWriter(out, SCHEMA) as writer:
        writer.add(name, rows(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["klick"]}, "expected labels and ids of user, .*, got klick"),
        ({"labels": ["city"]}, "label 'city': expected a column of numbers, got type string"),
        ({"cardinality": {"item": 3}}, "expected labels and ids of user, .*, got item"),
        ({"row_group_rows": 0}, "expected at least 1 row per row group, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(out, options, message):
    with pytest.raises(ValueError, match=message):
        DatasetWriter(out, SCHEMA, **options)
    with pytest.raises(ValueError, match="expected columns of different names"):
        DatasetWriter(out, pa.schema([("a", pa.int8()), ("a", pa.int8())]))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, MemoryError])
def test_nothing_is_left_after_an_error_or_interrupt(out, kind):
    with pytest.raises(kind), DatasetWriter(out, SCHEMA, **SMALL) as writer:
        writer.add("train", rows(300))
        assert len(left_over(out)) == 1
        assert left_over(out)[0].startswith(".")  # hidden until it is complete
        raise kind
    assert left_over(out) == []


def test_nothing_is_left_if_a_file_cannot_be_closed(out, monkeypatch):
    close = pq.ParquetWriter.close

    def full(self: pq.ParquetWriter) -> None:
        monkeypatch.setattr(pq.ParquetWriter, "close", close)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"), DatasetWriter(out, SCHEMA, **SMALL) as writer:
        writer.add("train", rows(5))
        monkeypatch.setattr(pq.ParquetWriter, "close", full)
        writer.finish()
    assert left_over(out) == []


def test_leaving_without_finish_is_an_error(out):
    with pytest.raises(RuntimeError, match="finish"), DatasetWriter(out, SCHEMA) as writer:
        writer.add("train", rows(3))
    with pytest.raises(ValueError, match="expected rows"), DatasetWriter(out, SCHEMA) as writer:
        writer.finish()
    assert left_over(out) == []


def test_a_folder_is_replaced_only_on_request_and_only_if_it_is_a_data_set(out):
    write(out, rows(5), rows(1, first=9))
    with pytest.raises(ValueError, match=r"out exists already: remove it or pass --overwrite"):
        write(out, rows(6), rows(1, first=9))
    assert len(read(out, "train")) == 5
    write(out, rows(6), rows(1, first=9), overwrite=True)
    assert len(read(out, "train")) == 6
    assert left_over(out) == ["out"]
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"out holds no manifest\.json, so it is not overwritten"):
        write(out, rows(7), rows(1, first=9), overwrite=True)
    assert len(list(out.rglob("*.parquet"))) == 3


def test_an_error_leaves_the_folder_that_was_to_be_replaced(out, monkeypatch):
    write(out, rows(5), rows(1, first=9))
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "out" and target == out and self.parent.name != "deep":
            raise OSError("cannot be renamed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="cannot be renamed"):
        write(out, rows(6), rows(1, first=9), overwrite=True)
    assert len(read(out, "train")) == 5
    assert left_over(out) == ["out"]


def test_a_folder_that_appears_meanwhile_is_left_alone(out):
    with pytest.raises(ValueError, match="exists already"), DatasetWriter(out, SCHEMA) as writer:
        writer.add("train", rows(3))
        out.mkdir()
        (out / "precious").write_text("data")
        writer.finish()
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_ids_beyond_the_cardinality_given_are_refused(out):
    with pytest.raises(ValueError, match=r"column 'user': expected ids in \[0, 3\)"):
        write(out, rows(5), rows(1, first=9), cardinality={"user": 3})
    assert left_over(out) == []


def test_the_summary_has_the_rows_and_rates_of_every_split(out):
    given = write(out, rows(1_000), rows(1, first=1_001), row_group_rows=512)
    lines = [line.split() for line in summary(given).splitlines()]
    assert lines == [
        ["train", "test"],
        ["rows", "1,000", "1"],
        ["click", "0.5000", "1.0000"],
        ["duplicates", "dropped", "0"],
    ]
    assert len({len(line) for line in summary(given).splitlines()[:3]}) == 1


def test_the_same_rows_give_the_same_bytes(out, tmp_path):
    one = write(out, rows(100), rows(3, first=200))
    assert write(tmp_path / "again", rows(100), rows(3, first=200)) == one
