"""Which files a draft trains and evaluates on."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.prepare.describe.layout import find_layout
from mbrec.reader.source import open_store

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
    assert "all files are taken as one data set" in found.notes[0]


def test_without_splits_folders_are_kept_together(layout):
    found = layout(*(f"day={k}/{part}.parquet" for k in range(1, 21) for part in "ab"))
    assert found.evaluation == ["day=19/*.parquet", "day=20/*.parquet"]
    assert len(found.splits["train"]) == 36


DAYS = [f"2024-01-{day:02}" for day in range(1, 11)]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("region={r}/dt={d}", "region=[*]/dt={d}"),
        ("dt={d}/region={r}", "dt={d}/region=[*]"),
        ("a/_region={r}/x/event_date={d}/b", "a/_region=[*]/x/event_date={d}/b"),
        # By what the values are.
        ("region={r}/snapshot={d}", "region=[*]/snapshot={d}"),
        ("region={r}/snapshot={d} 23%3A00", "region=[*]/snapshot={d} 23%3A00"),
    ],
)
def test_partitions_are_split_by_the_one_that_is_a_date(layout, name, pattern):
    folders = [name.format(r=r, d=d) for r in ("west", "east") for d in DAYS]
    files = [f"{folder}/{k}.parquet" for folder in folders for k in "ab"]
    found = layout(*files)
    assert found.evaluation == [f"{pattern.replace('[*]', '*').format(d=DAYS[-1])}/*.parquet"]
    assert found.splits["evaluation"] == sorted(f for f in files if DAYS[-1] in f)
    assert found.splits["train"] and not any(DAYS[-1] in f for f in found.splits["train"])
    assert len(found.splits["train"]) == 36
    assert "evaluated on the last times: " in found.notes[0]


def test_year_month_and_day_are_one_time(layout):
    found = layout(
        *(
            f"month={m}/region={r}/year={y}/day={d}/a.parquet"
            for y, m, d in [(2023, 12, 31), (2023, 2, 1), (2024, 1, 2), (2024, 1, 10), (2024, 1, 9)]
            for r in "ab"
        )
    )
    assert found.evaluation == ["month=1/region=*/year=2024/day=10/*.parquet"]
    assert found.train[0] == "month=2/region=*/year=2023/day=1/*.parquet"


def test_partition_without_a_date_is_trained_on(layout):
    nothing = "__HIVE_DEFAULT_PARTITION__"
    found = layout(*(f"dt={d}/a.parquet" for d in (nothing, "2024-01-01", "2024-01-02")))
    assert found.train == [f"dt={nothing}/*.parquet", "dt=2024-01-01/*.parquet"]


def test_below_train_the_last_dates_stand_for_a_test(layout):
    found = layout(*(f"train/region={r}/dt={d}/a.parquet" for r in "ab" for d in DAYS))
    assert found.evaluation == [f"train/region=*/dt={DAYS[-1]}/*.parquet"]


def test_folders_without_a_time_are_noted(layout):
    found = layout("region=east/a.parquet", "region=west/a.parquet")
    assert found.evaluation == ["region=west/*.parquet"]
    assert "the last folders by name, which show no time" in found.notes[0]


def test_one_time_alone_splits_nothing(layout):
    found = layout(*(f"dt=2024-01-01/region={r}/a.parquet" for r in ("east", "west")))
    assert found.evaluation == ["dt=2024-01-01/region=west/*.parquet"]


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
        "train/_b.parquet",
        "train/_temporary/0/c.parquet",
    )
    found = layout("train/a.parquet", "test/a.parquet", *names)
    assert found.splits == {"train": ["train/a.parquet"], "test": ["test/a.parquet"]}


def test_a_folder_without_rows_is_refused(layout):
    with pytest.raises(ValueError, match=r"expected Parquet files at .*, found none"):
        layout("vocabulary/city.parquet", "readme.txt")


def test_a_folder_of_data_sets_is_refused(tmp_path):
    for name in ("one/train/a", "one/evaluation/a", "two/train/a"):
        (tmp_path / f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [1]}), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"got one of several: .*/one, .*/two$"):
        find_layout(open_store(str(tmp_path)), None)
