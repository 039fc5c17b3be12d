"""Tests of `prepare census_income` on persons made up in the format of the data set."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from prepared import compose_data, encoded, features, manifest_of, read, unfit_columns

from mbrec.prepare.command import main
from mbrec.prepare.recipes.census_income import CATEGORICAL, COLUMNS, LABELS, NUMERICAL, RECIPE

# As in the files: values follow ", ", and a line ends with a stop.
ADULT = (
    "58, Self-employed-not incorporated, 4, 34, Some college but no degree, 0, Not in universe,"
    " Divorced, Construction, Precision production craft & repair, White, All other, Male,"
    " Not in universe, Not in universe, Children or Armed Forces, 0, 0, 0, Head of household,"
    " South, Arkansas, Householder, Householder, 1053.55, MSA to MSA, Same county, Same county,"
    " No, Yes, 1, Not in universe, United-States, United-States, United-States,"
    " Native- Born in the United States, 0, Not in universe, 2, 52, 94, - 50000."
)
DEFAULT = {
    "train": [
        {},
        {"education": "Children", "marital_stat": "Never married", "age": "9"},
        {"education": "Bachelors degree(BA AB BS)", "income_50k": "50000+.", "year": "95"},
        {"education": "High school graduate", "mig_chg_msa": "?", "capital_gains": "7298"},
        {"education": "Doctorate degree(PhD EdD)", "marital_stat": "Never married"},
    ],
    "test": [{"age": str(20 + i), "instance_weight": f"{i}.5"} for i in range(11)],
}


def command(*arguments: object) -> int:
    """Run the command; return its exit code."""
    return main(["census_income", *map(str, arguments)])


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes the files of the data set, of changes to the columns of one adult."""

    def run(**files: list[dict[str, str]]) -> Path:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for split, name in (("train", "census-income.data"), ("test", "census-income.test")):
            lines = [line(change) for change in files.get(split, DEFAULT[split])]
            (folder / name).write_text("\n".join(lines) + "\n")
        return folder

    return run


def line(change: dict[str, str]) -> str:
    row = dict(zip(COLUMNS, ADULT.split(", "), strict=True))
    return ", ".join((row | change).values())


def test_a_person_becomes_a_row_of_trimmed_texts_numbers_and_labels(write, tmp_path):
    RECIPE.prepare(write(), tmp_path / "out")
    first = read(tmp_path / "out", "train").to_pylist()[0]
    assert first["class_worker"] == "Self-employed-not incorporated"
    assert first["det_ind_code"] == "4"
    assert first["hs_college"] == "Not in universe"
    assert first["citizenship"] == "Native- Born in the United States"
    assert first["instance_weight"] == pytest.approx(1053.55)
    numbers = {name: first[name] for name in NUMERICAL}
    assert numbers == {
        **dict.fromkeys(numbers, 0),
        "age": 58,
        "num_emp": 1,
        "weeks_worked": 52,
    }


def test_labels_are_income_above_50000_never_married_and_at_least_college(write, tmp_path):
    manifest = RECIPE.prepare(write(), tmp_path / "out")
    rows = read(tmp_path / "out", "train").to_pylist()
    assert [row["income"] for row in rows] == [0, 0, 1, 0, 0]
    assert [row["never_married"] for row in rows] == [0, 1, 0, 0, 1]
    assert [row["college"] for row in rows] == [1, 0, 1, 0, 1]
    rates = manifest["splits"]["train"]["label_rates"]
    assert rates == {"income": 0.2, "never_married": 0.4, "college": 0.6}


def test_a_question_mark_is_missing_and_not_in_universe_is_a_value(write, tmp_path):
    RECIPE.prepare(write(), tmp_path / "out")
    train = read(tmp_path / "out", "train")
    assert train["mig_chg_msa"].to_pylist() == ["MSA to MSA"] * 3 + [None, "MSA to MSA"]
    assert sum(train[name].null_count for name in train.column_names) == 1
    columns = manifest_of(tmp_path / "out")["columns"]
    assert columns["mig_chg_msa"]["nulls"] == 1
    assert columns["year"]["cardinality"] == 2


def test_what_the_labels_are_made_of_is_not_written(write, tmp_path):
    RECIPE.prepare(write(), tmp_path / "out")
    names = set(read(tmp_path / "out", "train").column_names)
    assert names == {*COLUMNS, *LABELS} - {"education", "marital_stat", "income_50k"}


def test_halves_of_the_test_file_are_validation_and_test_in_its_order(write, tmp_path):
    halves = {}
    for seed in (0, 0, 1):
        out = tmp_path / f"out{len(halves)}"
        RECIPE.prepare(write(), out, seed=seed)
        halves[out] = [read(out, split)["age"].to_pylist() for split in ("validation", "test")]
    first, second, other = halves.values()
    assert [len(ages) for ages in first] == [5, 6]
    assert sorted(first[0] + first[1]) == list(range(20, 31))
    assert all(ages == sorted(ages) for ages in first)
    assert first == second != other


def test_equal_persons_are_kept_unless_asked_for(write, tmp_path):
    folder = write(train=[{}, {}, {"age": "3"}], test=[{}, {"age": "4"}])
    manifest = RECIPE.prepare(folder, tmp_path / "all")
    assert [split["rows"] for split in manifest["splits"].values()] == [3, 1, 1]
    manifest = RECIPE.prepare(folder, tmp_path / "few", duplicates="drop")
    assert manifest["duplicates_dropped"] == 2
    assert sum(split["rows"] for split in manifest["splits"].values()) == 3


def test_gz_files_and_small_pieces_give_the_same_rows(write, tmp_path):
    folder = write()
    RECIPE.prepare(folder, tmp_path / "plain")
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    RECIPE.prepare(folder, tmp_path / "gz", block_bytes=700)
    for split in ("train", "validation", "test"):
        assert read(tmp_path / "gz", split) == read(tmp_path / "plain", split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": "old"}, r"data: line 2, column age: expected float, got '? ?old'"),
        ({"age": ""}, r"data: line 2, column age: expected a value, got none"),
        ({"income_50k": "60000+."}, r"line 2, column income_50k: expected '- 50000\.'.*60000"),
        ({"education": "?"}, r"line 2, column education: expected 'Children'.*got ' \?'"),
        ({"marital_stat": "single"}, "line 2, column marital_stat: expected 'Never married'"),
        ({"instance_weight": "-1"}, "line 2, column instance_weight: expected a weight.*-1"),
        ({"sex": "Male, x"}, r"data: line 2: expected 42 columns, got 43"),
    ],
)
def test_a_wrong_value_is_named_with_file_line_and_column(change, message, write, tmp_path, capsys):
    folder = write(train=[{}, change])
    assert command(str(folder), str(tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        RECIPE.prepare(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_missing_file_is_named(write, tmp_path, capsys):
    (write() / "census-income.test").unlink()
    assert command(str(tmp_path / "in"), str(tmp_path / "out")) == 2
    assert "expected census-income.test (plain or .gz)" in capsys.readouterr().err


def test_the_command_tells_rows_rates_and_what_to_hold_them_against(write, tmp_path, capsys):
    args = [str(write()), str(tmp_path / "out")]
    assert command(*args) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in ("never_married", "0.4000", "199,523", "99,762"))
    assert command(*args) == 2
    assert "exists already: remove it or pass --overwrite" in capsys.readouterr().err
    assert command(*args, "--overwrite") == 0


def test_the_yaml_names_columns_of_the_files_and_no_label_is_a_feature(write, tmp_path):
    RECIPE.prepare(write(), tmp_path / "out")
    for group in ("income", "college"):
        job = compose_data("census_income", tmp_path / "out", f"tasks=[{group},never_married]")
        columns = job.data.columns
        assert unfit_columns(columns, read(tmp_path / "out", "train")) == []
        assert {task.label for task in job.tasks.values()} <= set(columns.labels)
    assert features(columns) == {*CATEGORICAL, *NUMERICAL}
    assert not features(columns) & {*LABELS, "education", "marital_stat", "income_50k"}


def test_every_split_is_read_as_the_yaml_says(write, tmp_path):
    RECIPE.prepare(write(), tmp_path / "out")
    job = compose_data("census_income", tmp_path / "out", "tasks=[income,never_married,college]")
    (train,) = encoded(job, tmp_path / "out", "train")
    assert train.labels_BK[:5].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 1]]
    assert train.dense_BN[:5].sum(0).abs().max() < 1e-4
    for split, rows in (("validation", 5), ("test", 6)):
        (batch,) = encoded(job, tmp_path / "out", split)
        assert (batch.rows_B >= 0).sum() == rows
