"""Which files a draft trains and evaluates on."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.data.describe.layout import find_layout
from mbrec.data.files import open_store

ROW = pa.table({"x": [1]})


@pytest.fixture
def layout(tmp_path):
    """Returns the layout of a folder with files of these names, which its patterns must find."""

    def find(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        store = open_store(str(tmp_path))
        found = find_layout(store, None)
        evaluated = found.splits[list(found.splits)[-1]]
        assert store.find(found.evaluation) == evaluated
        assert store.find(found.train)[: len(found.splits["train"])] == found.splits["train"]
        return found

    return find


def test_validation_is_trained_on_where_there_is_a_test(layout):
    found = layout("train/a.parquet", "validation/a.parquet", "test/a.parquet")
    assert found.train == ["train/*.parquet", "validation/*.parquet"]
    assert found.evaluation == ["test/*.parquet"]
    assert found.others == ["validation/a.parquet", "test/a.parquet"]


@pytest.mark.parametrize("name", ["validation", "val", "evaluation", "test"])
def test_what_is_held_out_is_evaluated_on(layout, name):
    found = layout("train/a.parquet", f"{name}/a.parquet", "day=1/a.parquet")
    assert found.train == ["train/*.parquet"]
    assert found.evaluation == [f"{name}/*.parquet"]
    assert found.notes == ["not used: day=1"]


def test_folders_within_a_split_are_searched(layout):
    found = layout("train/day=1/a.parquet", "train/b.parquet", "test/a.parquet")
    assert found.train == ["train/**/*.parquet"]
    assert found.splits["train"] == ["train/b.parquet", "train/day=1/a.parquet"]


def test_without_splits_the_last_files_are_evaluated_on(layout):
    found = layout(*(f"part-{k}.parquet" for k in range(12)))
    assert found.train == [f"part-{k}.parquet" for k in range(11)]
    assert found.evaluation == ["part-11.parquet"]
    assert "all files are taken for one data set" in found.notes[0]


def test_without_splits_folders_are_kept_together(layout):
    found = layout(*(f"day={k}/{part}.parquet" for k in range(1, 21) for part in "ab"))
    assert found.evaluation == ["day=19/*.parquet", "day=20/*.parquet"]
    assert len(found.splits["train"]) == 36


def test_one_file_is_trained_and_evaluated_on_and_that_is_said(layout):
    found = layout("log.parquet")
    assert found.train == found.evaluation == ["log.parquet"]
    assert "evaluated on the rows that it was trained on" in found.notes[0]
    assert found.others == []


def test_patterns_of_strange_names_find_the_files(layout):
    found = layout("[a].parquet", "b*.parquet", "c?.parquet")
    assert found.evaluation == ["c[?].parquet"]


def test_vocabularies_logs_and_hidden_files_are_no_rows(layout):
    names = (
        "vocabulary/city.parquet",
        "_delta_log/1.parquet",
        ".tmp/a.parquet",
        "train/.a.parquet",
    )
    found = layout("train/a.parquet", "test/a.parquet", *names)
    assert found.splits == {"train": ["train/a.parquet"], "test": ["test/a.parquet"]}


def test_a_folder_without_rows_is_refused(layout):
    with pytest.raises(ValueError, match=r"expected Parquet files at .*, found none"):
        layout("vocabulary/city.parquet", "readme.txt")


def test_a_folder_of_data_sets_is_no_data_set(tmp_path):
    for name in ("one/train/a", "one/evaluation/a", "two/train/a"):
        (tmp_path / f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1]}), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"got one of data sets: .*/one, .*/two$"):
        find_layout(open_store(str(tmp_path)), None)
