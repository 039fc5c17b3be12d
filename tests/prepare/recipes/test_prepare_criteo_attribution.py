"""Tests of `prepare criteo_attribution` on impressions made up in its format."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from prepared import compose_data, encoded, features, manifest_of, read, unfit_columns

from mbrec.prepare.command import main
from mbrec.prepare.recipes.criteo_attribution import CATEGORICAL, LABELS, RECIPE

NAME = "criteo_attribution_dataset.tsv"
DAY = 86_400
SHOWN = {
    "timestamp": 0,
    "uid": 20073966,
    "campaign": 22589171,
    "conversion": 0,
    "conversion_timestamp": -1,
    "conversion_id": -1,
    "attribution": 0,
    "click": 0,
    "click_pos": -1,
    "click_nb": -1,
    "cost": 1e-05,
    "cpo": 0.390794,
    "time_since_last_click": -1,
    **{f"cat{i}": 5824230 + i for i in range(1, 10)},
}
CLICKED = {"click": 1, "time_since_last_click": 423858}
CONVERTED = {"click": 1, "conversion": 1, "conversion_timestamp": 1449193, "conversion_id": 3063962}
CONVERTED |= {"click_pos": 0, "click_nb": 7}
ROWS = [
    {},
    {"timestamp": 3 * 3600 + 2, **CLICKED},
    {"timestamp": 20 * DAY + DAY - 1, "cat7": 99, **CONVERTED, "attribution": 1},
    {"timestamp": 21 * DAY, "uid": 5, **CONVERTED},
    {"timestamp": 22 * DAY, "cost": 0.5},
    {"timestamp": 30 * DAY + 7, "campaign": 1, **CLICKED},
]
AFTERWARDS = {"conversion_timestamp", "conversion_id", "click_pos", "click_nb", "cpo"}


def command(*arguments: object) -> int:
    """Run the command; return its exit code."""
    return main(["criteo_attribution", *map(str, arguments)])


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes the file, of changes to one impression."""

    def run(rows: list[dict[str, object]]) -> Path:
        path = tmp_path / NAME
        lines = [list(SHOWN), *([*(SHOWN | row).values()] for row in rows)]
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
        return path

    return run


def days(out: Path) -> dict[str, list[int]]:
    splits = manifest_of(out)["splits"]
    return {split: read(out, split)["day"].to_pylist() for split in splits}


def test_an_impression_becomes_a_row_with_its_time_and_labels(write, tmp_path):
    RECIPE.prepare(write(ROWS), tmp_path / "out")
    first, second, third = read(tmp_path / "out", "train").to_pylist()
    categories = {f"cat{i}": str(5824230 + i) for i in range(1, 10)}
    expected = {"timestamp": 0, "day": 0, "hour": 0, "uid": 20073966, "campaign": "22589171"}
    labels = {"click": 0, "conversion": 0, "attribution": 0}
    assert first == expected | categories | labels | {
        "time_since_last_click": None,
        "cost": pytest.approx(1e-5),
    }
    assert (second["hour"], second["click"], second["time_since_last_click"]) == (3, 1, 423858)
    assert (third["day"], third["hour"], third["cat7"]) == (20, 23, "99")
    assert [third[name] for name in labels] == [1, 1, 1]


def test_the_first_21_days_are_train_the_next_validation_and_later_ones_test(write, tmp_path):
    manifest = RECIPE.prepare(write(ROWS), tmp_path / "out")
    assert days(tmp_path / "out") == {"train": [0, 0, 20], "validation": [21], "test": [22, 30]}
    rates = manifest["splits"]["validation"]["label_rates"]
    assert rates == {"click": 1, "conversion": 1, "attribution": 0}
    assert manifest["notes"]["days"] == 31


def test_the_days_of_the_splits_can_be_chosen(write, tmp_path):
    path = write(ROWS)
    RECIPE.prepare(path, tmp_path / "a", train_days=1, validation_days=21)
    assert days(tmp_path / "a") == {"train": [0, 0], "validation": [20, 21], "test": [22, 30]}
    RECIPE.prepare(path, tmp_path / "b", train_days=22, validation_days=0)
    assert days(tmp_path / "b") == {"train": [0, 0, 20, 21], "test": [22, 30]}
    for options in ({"train_days": 0}, {"validation_days": -1}):
        with pytest.raises(ValueError, match="at least 1 day of train and 0 of validation"):
            RECIPE.prepare(path, tmp_path / "c", **options)


def test_what_came_of_an_impression_is_not_written(write, tmp_path):
    RECIPE.prepare(write(ROWS), tmp_path / "out")
    names = set(read(tmp_path / "out", "train").column_names)
    assert names == {*SHOWN, "day", "hour"} - AFTERWARDS


def test_rows_that_come_too_late_are_counted(write, tmp_path):
    times = [0, 5, 3, 4, 9, 8, 9]
    rows = [{"timestamp": time, "uid": i} for i, time in enumerate(times)]
    for block in (1 << 20, 300):
        RECIPE.prepare(write(rows), tmp_path / "out", block_bytes=block, overwrite=True)
        assert manifest_of(tmp_path / "out")["notes"]["rows_earlier_than_one_before"] == 3
        assert read(tmp_path / "out", "train")["timestamp"].to_pylist() == times


def test_a_gz_file_a_folder_and_small_pieces_give_the_same_rows(write, tmp_path):
    path = write(ROWS)
    RECIPE.prepare(path, tmp_path / "plain")
    inner = tmp_path / "other" / "dataset"
    inner.mkdir(parents=True)
    (inner / f"{NAME}.gz").write_bytes(gzip.compress(path.read_bytes()))
    RECIPE.prepare(tmp_path / "other", tmp_path / "gz", block_bytes=400)
    for split in ("train", "validation", "test"):
        assert read(tmp_path / "gz", split) == read(tmp_path / "plain", split)


def test_equal_rows_are_dropped_if_they_are_few_or_asked_for(write, tmp_path):
    path = write([{}, {}, {"cost": 2}])
    with pytest.raises(ValueError, match=r"at most 1% .* got 33.33% \(1 of 3\).*--duplicates drop"):
        RECIPE.prepare(path, tmp_path / "few")
    manifest = RECIPE.prepare(path, tmp_path / "few", duplicates="drop")
    assert (manifest["duplicates_dropped"], manifest["splits"]["train"]["rows"]) == (1, 2)
    manifest = RECIPE.prepare(path, tmp_path / "all", duplicates="keep")
    assert manifest["splits"]["train"]["rows"] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"click": 3}, rf"{NAME}: line 3, column click: expected 0 or 1, got 3"),
        ({"conversion": "yes"}, "line 3, column conversion: expected int8, got 'yes'"),
        (
            {"attribution": 1},
            "line 3, column attribution: expected 0 where there is no conv.*got 1",
        ),
        ({"timestamp": -5}, "line 3, column timestamp: expected seconds of at least 0, got -5"),
        ({"time_since_last_click": -2}, "column time_since_last_click: expected .*got -2"),
        ({"uid": ""}, "line 3, column uid: expected a value, got none"),
        ({"cat3": "1\t2"}, "line 3: expected 22 columns, got 23"),
    ],
)
def test_a_wrong_value_is_named_with_file_line_and_column(change, message, write, tmp_path, capsys):
    path = write([{}, change])
    assert command(str(path), str(tmp_path / "out")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        RECIPE.prepare(path, tmp_path / "out")
    assert {found.name for found in tmp_path.iterdir()} == {NAME}


def test_a_missing_column_a_missing_file_and_a_cut_off_one_are_named(write, tmp_path, capsys):
    path = write(ROWS)
    out = str(tmp_path / "out")
    path.write_text(path.read_text().replace("campaign", "renamed"))
    assert command(str(path), out) == 2
    assert f"{NAME}: expected the columns campaign, got a file with" in capsys.readouterr().err
    cut = tmp_path / f"{NAME}.gz"
    cut.write_bytes(gzip.compress(path.read_bytes())[:-20])
    assert command(str(cut), out) == 2
    assert f"{NAME}.gz: Truncated" in capsys.readouterr().err
    assert command(str(tmp_path / "nothing.tsv"), out) == 2
    assert "nothing.tsv" in capsys.readouterr().err


def test_the_command_tells_rows_rates_and_what_to_hold_them_against(write, tmp_path, capsys):
    args = [str(write(ROWS)), str(tmp_path / "out"), "--train-days=20", "--validation-days=2"]
    assert command(*args) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in ("attribution", "0.5000", "16,468,027", "0.3612"))
    assert days(tmp_path / "out") == {"train": [0, 0], "validation": [20, 21], "test": [22, 30]}


def test_the_yaml_names_columns_of_the_files_and_no_label_is_a_feature(write, tmp_path):
    RECIPE.prepare(write(ROWS), tmp_path / "out")
    tasks = "tasks=[ctr,cvr,conv_imp,attribution]"
    job = compose_data("criteo_attribution", tmp_path / "out", tasks)
    columns = job.data.columns
    assert unfit_columns(columns, read(tmp_path / "out", "train")) == []
    assert {task.label for task in job.tasks.values()} == set(columns.labels)
    assert features(columns) == {*CATEGORICAL, "hour", "time_since_last_click"}
    assert not features(columns) & {*LABELS, *AFTERWARDS, "cost"}


def test_every_split_is_read_as_the_yaml_says(write, tmp_path):
    RECIPE.prepare(write(ROWS), tmp_path / "out")
    job = compose_data("criteo_attribution", tmp_path / "out")
    (train,) = encoded(job, tmp_path / "out", "train")
    assert train.labels_BK[:3].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]
    # The number, and whether it is missing.
    assert train.dense_BN[:3, 1].tolist() == [1, 0, 1]
    assert train.dense_BN[[0, 2], 0].tolist() == [0, 0]
    for split, rows in (("validation", 1), ("test", 2)):
        (batch,) = encoded(job, tmp_path / "out", split)
        assert (batch.rows_B >= 0).sum() == rows
