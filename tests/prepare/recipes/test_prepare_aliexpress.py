"""Tests of `prepare aliexpress` on searches made up in both forms of the data set."""

import gzip
from pathlib import Path

import pytest
from prepared import compose_data, encoded, features, manifest_of, read, unfit_columns

from mbrec.prepare.command import main
from mbrec.prepare.recipes.aliexpress import CATEGORICAL, NUMERICAL, RECIPE

# Page 7 shows three products, page 3 two.
TRAIN = [(7, 0), (7, 2), (7, 1), (3, 0), (3, 0)]
TEST = [(3, 0), (4, 2)]


def user_row(page: int) -> list[object]:
    """33 values: the page's number, 7 ids, 23 numbers, 2 ids."""
    return [page, *(10 + i for i in range(7)), *(i / 100 for i in range(23)), 20, page]


def item_row(page: int, place: int, label: int) -> list[object]:
    """49 values: the page's number, 47 ids (at places 19, 34 and so on) and numbers, the label."""
    ids = (19, 34, 35, 36, 40, 41, 42)
    values = [i if i in ids else f"{i + place}.5" for i in range(2, 49)]
    return [page, *values, label]


def joined_row(page: int, place: int, label: int) -> dict[str, object]:
    """The row that both forms stand for, by the names of the output."""
    ids = [*(10 + i for i in range(7)), 20, page, 19, 34, 35, 36, 40, 41, 42]
    numbers = [i / 100 for i in range(23)]
    numbers += [i + place + 0.5 for i in range(2, 49) if i not in (19, 34, 35, 36, 40, 41, 42)]
    row: dict[str, object] = {"search_id": page}
    row |= {f"categorical_{i}": value for i, value in enumerate(ids, 1)}
    row |= {f"numerical_{i}": value for i, value in enumerate(numbers, 1)}
    return row | {"click": int(label >= 1), "conversion": int(label == 2)}


def lines(rows: list[list[object]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def command(*arguments: object) -> int:
    """Run the command; return its exit code."""
    return main(["aliexpress", *map(str, arguments)])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Files without names: one row a page, and one row an impression."""
    folder = tmp_path / "in"
    folder.mkdir()
    for split, shown in (("train", TRAIN), ("test", TEST)):
        pages = dict.fromkeys(page for page, _ in shown)
        items = [item_row(page, place, label) for place, (page, label) in enumerate(shown)]
        (folder / f"nl_user_{split}.csv").write_text(lines([user_row(page) for page in pages]))
        (folder / f"nl_item_{split}.csv").write_text(lines(items))
    return folder


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    """The same with names, each impression with its page."""
    folder = tmp_path / "joined"
    folder.mkdir()
    for split, shown in (("train", TRAIN), ("test", TEST)):
        rows = [joined_row(page, place, label) for place, (page, label) in enumerate(shown)]
        text = lines([[*rows[0]], *([*row.values()] for row in rows)])
        (folder / f"{split}.csv").write_text(text)
    return folder


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("form", ["raw", "joined"])
def test_both_forms_give_an_impression_with_its_page_and_its_labels(form, request, tmp_path):
    manifest = RECIPE.prepare(request.getfixturevalue(form), tmp_path / "out")
    for split, shown in (("train", TRAIN), ("test", TEST)):
        rows = read(tmp_path / "out", split).to_pylist()
        expected = [joined_row(page, place, label) for place, (page, label) in enumerate(shown)]
        assert rows == [pytest.approx(row) for row in expected]
    rates = manifest["splits"]["train"]["label_rates"]
    assert rates == pytest.approx({"click": 0.4, "conversion": 0.2})
    assert manifest["columns"]["categorical_9"]["cardinality"] == 8
    assert set(manifest["splits"]) == {"train", "test"}


def test_gz_files_folders_and_small_pieces_give_the_same_rows(raw, tmp_path):
    RECIPE.prepare(raw, tmp_path / "plain")
    inner = tmp_path / "NL" / "inner"
    inner.mkdir(parents=True)
    for path in raw.iterdir():
        (inner / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    RECIPE.prepare(inner, tmp_path / "gz", block_bytes=500)
    for split in ("train", "test"):
        assert read(tmp_path / "gz", split) == read(tmp_path / "plain", split)
    assert manifest_of(tmp_path / "gz")["notes"]["data_set"] == "AliExpress NL"


def test_an_impression_without_its_page_is_left_out_and_counted(raw, tmp_path, capsys):
    append(raw / "nl_item_train.csv", lines([item_row(99, 0, 1)]))
    assert command(str(raw), str(tmp_path / "out")) == 0
    assert len(read(tmp_path / "out", "train")) == len(TRAIN)
    assert "impressions without their page, left out: 1" in capsys.readouterr().out
    notes = manifest_of(tmp_path / "out")["notes"]
    assert notes["impressions_without_page"] == {"train": 1, "test": 0}


def test_equal_impressions_are_kept_unless_asked_for(raw, tmp_path):
    append(raw / "nl_item_train.csv", lines([item_row(3, 4, 0)]))
    manifest = RECIPE.prepare(raw, tmp_path / "all")
    assert manifest["splits"]["train"]["rows"] == 6
    manifest = RECIPE.prepare(raw, tmp_path / "few", duplicates="drop")
    assert (manifest["duplicates_dropped"], manifest["splits"]["train"]["rows"]) == (1, 5)


def test_validation_takes_whole_pages_of_train_alone(raw, tmp_path):
    pages = range(100, 300)
    append(raw / "nl_user_train.csv", lines([user_row(page) for page in pages]))
    append(raw / "nl_item_train.csv", lines([item_row(p, i, 0) for p in pages for i in (0, 1)]))
    RECIPE.prepare(raw, tmp_path / "out", validation=0.25)
    held_out, train = (set(read(tmp_path / "out", split)["search_id"].to_pylist())
                       for split in ("validation", "train"))  # fmt: skip
    assert not held_out & train
    assert held_out | train == {3, 7, *pages}
    assert 25 < len(held_out) < 80
    assert len(read(tmp_path / "out", "test")) == len(TEST)


def test_a_negative_id_and_an_empty_number_are_missing(joined, tmp_path):
    row = joined_row(3, 0, 0) | {"categorical_2": -1, "numerical_5": ""}
    append(joined / "train.csv", lines([[*row.values()]]))
    RECIPE.prepare(joined, tmp_path / "out")
    last = read(tmp_path / "out", "train").to_pylist()[-1]
    assert last["categorical_2"] is last["numerical_5"] is None
    assert manifest_of(tmp_path / "out")["columns"]["categorical_2"]["cardinality"] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"click": 2}, "train.csv: line 7, column click: expected 0 or 1, got 2"),
        ({"conversion": 1}, "line 7, column click: expected 1 where there is a conversion, got 0"),
        ({"categorical_4": "a"}, "line 7, column categorical_4: expected int64, got 'a'"),
        ({"categorical_4": ""}, "line 7, column categorical_4: expected a value, got none"),
        ({"numerical_63": "high"}, "line 7, column numerical_63: expected float, got 'high'"),
        ({"more": 1}, "line 7: expected 82 columns, got 83"),
    ],
)
def test_a_wrong_value_of_the_joined_form_is_named(change, message, joined, tmp_path, capsys):
    append(joined / "train.csv", lines([[*(joined_row(3, 0, 0) | change).values()]]))
    assert command(str(joined), str(tmp_path / "out")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        RECIPE.prepare(joined, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"joined"}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("nl_item_train.csv", item_row(3, 0, 3), "line 6, column label: expected 0 or 1 or 2, got"),
        ("nl_item_train.csv", item_row(3, 0, 0)[1:], "line 6: expected 49 columns, got 48"),
        ("nl_user_train.csv", user_row(3)[1:], "user_train.csv: line 3: expected 33 columns"),
        ("nl_user_train.csv", user_row(3), "one row for each search_id, got two of 3"),
    ],
)
def test_a_wrong_row_of_the_raw_form_is_named(name, row, message, raw, tmp_path):
    append(raw / name, lines([row]))
    with pytest.raises(ValueError, match=message):
        RECIPE.prepare(raw, tmp_path / "out")


def test_missing_files_two_countries_and_a_missing_column_are_named(raw, joined, tmp_path, capsys):
    text = (joined / "test.csv").read_text()
    (joined / "test.csv").write_text(text.replace("numerical_9,", "renamed,", 1))
    assert command(str(joined), str(tmp_path / "out")) == 2
    assert "test.csv: expected the columns numerical_9, got a file with" in capsys.readouterr().err
    (raw / "nl_user_test.csv").unlink()
    assert command(str(raw), str(tmp_path / "out")) == 2
    assert "expected nl_user_test.csv (plain or .gz)" in capsys.readouterr().err
    (raw / "es_item_train.csv").touch()
    assert command(str(raw), str(tmp_path / "out")) == 2
    assert "expected the files of one country, got those of es, nl" in capsys.readouterr().err


def test_the_command_tells_rows_rates_and_what_to_hold_them_against(joined, tmp_path, capsys):
    assert command(str(joined), str(tmp_path / "out")) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in ("conversion", "0.4000", "12,157,895", "5,559,302"))


def test_the_yaml_names_columns_of_the_files_and_no_label_is_a_feature(raw, tmp_path):
    RECIPE.prepare(raw, tmp_path / "out")
    columns = compose_data("aliexpress", tmp_path / "out").data.columns
    assert unfit_columns(columns, read(tmp_path / "out", "train")) == []
    assert features(columns) == {*CATEGORICAL, *NUMERICAL}
    assert not features(columns) & {"search_id", "click", "conversion"}


def test_every_split_is_read_as_the_yaml_says(raw, tmp_path):
    RECIPE.prepare(raw, tmp_path / "out")
    job = compose_data("aliexpress", tmp_path / "out")
    (train,) = encoded(job, tmp_path / "out", "train")
    assert train.labels_BK[:5].tolist() == [[0] * 3, [1] * 3, [1, 0, 0], [0] * 3, [0] * 3]
    assert train.dense_BN.shape[1] == 63
    assert train.dense_BN[:5].sum(0).abs().max() < 1e-4
    (test,) = encoded(job, tmp_path / "out", "test")
    assert (test.rows_B >= 0).sum() == len(TEST)
