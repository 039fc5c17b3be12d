"""Tests of `prepare aliccp` on impressions written by hand in the Ali-CCP format."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prepared import compose_data, encoded, features, manifest_of, read, unfit_columns

from mbrec.prepare.command import main
from mbrec.prepare.recipes.aliccp import RECIPE

COMMON_TRAIN, COMMON_TEST = "common_features_train.csv", "common_features_test.csv"
TRAIN, TEST = "sample_skeleton_train.csv", "sample_skeleton_test.csv"
PROFILE = [("121", 3864885, 1), ("122", 3864889, 1), ("124", 3864900, 1), ("125", 3864903, 1)]
PROFILE += [("126", 3864906, 1), ("127", 3864910, 1), ("128", 3864911, 1), ("129", 3864914, 1)]
ITEM = [("205", 4129111, 1), ("206", 8315893, 1), ("207", 8360093, 1), ("216", 9102811, 1)]


def features_of(*triples: tuple[str, int, float]) -> str:
    return "\x01".join(f"{field}\x02{id}\x03{value}" for field, id, value in triples)


def line(*values: object, triples: list[tuple[str, int, float]]) -> str:
    return ",".join(map(str, [*values, len(triples), features_of(*triples)]))


def command(*arguments: object) -> int:
    """Run the command; return its exit code."""
    return main(["aliccp", *map(str, arguments)])


@pytest.fixture
def files() -> dict[str, list[str]]:
    """Lines of the files: two users, impressions of both, one dirty."""
    ann = [("101", 31319, 1.0), *PROFILE, ("109_14", 4501, 0.69315), ("109_14", 4502, 2.3979)]
    ann += [("109_14", 4503, 0.69315), ("110_14", 7001, 1.0)]
    bob = [("101", 31320, 1.0), ("124", 3864901, 1.0)]  # no age, no history
    context = [("301", 9351665, 1.0)]
    nodes = [("210", 9200, 1.0), ("210", 9100, 1.0), ("508", 9355082, 2.70805)]
    nodes += [("853", 9500, 0.5), ("853", 9400, 0.75)]
    return {
        COMMON_TRAIN: [
            line("bacff91692951881", triples=ann),
            line("00aa91692951881f", triples=bob),
        ],
        TRAIN: [
            line(1, 1, 1, "bacff91692951881", triples=ITEM + nodes + context),
            line(2, 0, 0, "00aa91692951881f", triples=[("205", 4129112, 1.0), *context]),
            line(3, 0, 1, "bacff91692951881", triples=ITEM + context),
            line(4, 1, 0, "bacff91692951881", triples=[*context, ("205", 5, 1), ("205", 6, 1)]),
        ],
        COMMON_TEST: [line("bacff91692951881", triples=bob)],
        TEST: [line(1, 0, 0, "bacff91692951881", triples=ITEM + context)],
    }


@pytest.fixture
def write(files: dict[str, list[str]], tmp_path: Path) -> Any:
    def run(**changes: list[str]) -> Path:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for name, lines in (files | changes).items():
            (folder / name).write_text("".join(f"{text}\n" for text in lines))
        return folder

    return run


def prepared(folder: Path, out: Path, **options: Any) -> dict[str, list[dict]]:
    RECIPE.prepare(folder, out, **({"validation": 0.0} | options))
    return {path.name: read(out, path.name).to_pylist() for path in out.iterdir() if path.is_dir()}


def test_an_impression_has_its_own_features_and_those_of_its_user(write, tmp_path):
    first = prepared(write(), tmp_path / "out")["train"][0]
    expected = {"sample_id": 1, "click": 1, "conversion": 1, "field_101": 31319}
    expected |= {f"field_{name}": id for name, id, _ in [*PROFILE, *ITEM]}
    expected |= {"field_301": 9351665, "field_210": [9200, 9100], "field_508": [9355082]}
    expected |= {"field_509": [], "field_702": [], "field_110_14": [7001], "field_150_14": []}
    assert {name: first[name] for name in expected} == expected
    assert first["field_508_weights"] == pytest.approx([2.70805])
    assert first["field_509_weights"] == []


def test_lists_have_the_largest_values_first_and_are_cut_there(write, tmp_path):
    first = prepared(write(), tmp_path / "all")["train"][0]
    assert first["field_109_14"] == [4502, 4501, 4503]
    assert first["field_109_14_weights"] == pytest.approx([2.3979, 0.69315, 0.69315])
    assert first["field_853"] == [9400, 9500]
    first = prepared(write(), tmp_path / "two", history=2)["train"][0]
    assert first["field_109_14"] == [4502, 4501]
    assert first["field_210"] == [9200, 9100]
    left_out = manifest_of(tmp_path / "two")["notes"]["left_out"]
    assert left_out["train"]["list_entries_cut"] == 1


def test_a_user_without_a_field_has_null_or_an_empty_list(write, tmp_path):
    second = prepared(write(), tmp_path / "out")["train"][1]
    assert (second["field_101"], second["field_124"]) == (31320, 3864901)
    assert second["field_125"] is second["field_206"] is None
    assert second["field_109_14"] == second["field_109_14_weights"] == second["field_210"] == []


def test_a_conversion_without_a_click_is_dropped_and_counted(write, tmp_path):
    rows = prepared(write(), tmp_path / "out")
    assert [row["sample_id"] for row in rows["train"]] == [1, 2, 4]
    notes = manifest_of(tmp_path / "out")["notes"]
    assert notes["left_out"]["train"]["conversions_without_click"] == 1
    assert notes["left_out"]["test"]["conversions_without_click"] == 0
    rates = manifest_of(tmp_path / "out")["splits"]["train"]["label_rates"]
    assert rates == pytest.approx({"click": 2 / 3, "conversion": 1 / 3})


def test_a_second_id_of_a_field_is_left_out_and_counted(write, tmp_path):
    rows = prepared(write(), tmp_path / "out")
    assert rows["train"][2]["field_205"] == 5
    left_out = manifest_of(tmp_path / "out")["notes"]["left_out"]
    assert left_out["train"]["ids_beyond_the_first"] == 1


def test_each_split_has_the_common_features_of_its_own_file(write, tmp_path):
    (row,) = prepared(write(), tmp_path / "out")["test"]
    assert (row["field_101"], row["field_205"], row["field_121"]) == (31320, 4129111, None)


def test_validation_is_a_share_of_train_chosen_by_the_number(files, write, tmp_path):
    more = [files[TRAIN][1].replace("2,0,0", f"{i},0,0", 1) for i in range(10, 410)]
    folder = write(**{TRAIN: more})
    rows = prepared(folder, tmp_path / "a", validation=0.25)
    numbers = {name: [row["sample_id"] for row in split] for name, split in rows.items()}
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(10, 410))
    assert 70 < len(numbers["validation"]) < 130
    assert numbers["train"] == sorted(numbers["train"])
    again = prepared(folder, tmp_path / "b", validation=0.25, seed=1)
    assert [row["sample_id"] for row in again["validation"]] != numbers["validation"]
    assert len(rows["test"]) == 1


def test_gz_files_folders_and_small_pieces_give_the_same_rows(write, tmp_path):
    plain = prepared(write(), tmp_path / "plain")
    for split in ("train", "test"):
        inner = tmp_path / "other" / f"sample_{split}"
        inner.mkdir(parents=True)
        for path in (tmp_path / "in").glob(f"*_{split}.csv"):
            (inner / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert prepared(tmp_path / "other", tmp_path / "gz", block_bytes=600) == plain


def test_rows_that_differ_in_their_number_alone_all_stay(files, write, tmp_path):
    twins = [files[TRAIN][0], files[TRAIN][0].replace("1,1,1", "9,1,1", 1)]
    assert len(prepared(write(**{TRAIN: twins}), tmp_path / "out")["train"]) == 2


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        (TRAIN, "5,2,0,bacff91692951881,1,301\x021\x031", "train.csv: line 5, column click.*got 2"),
        (TRAIN, "5,0,x,bacff91692951881,1,301\x021\x031", "line 5, column conversion: .*'x'"),
        (TRAIN, "5,0,0,cafe,1,301\x021\x031", "line 5, column common_feature_index: .*got 'cafe'"),
        (TRAIN, "5,0,0,bacff91692951881,1,301\x021", r"line 5, column feature_list: expected FIEL"),
        (
            TRAIN,
            "5,0,0,bacff91692951881,1,301\x021\x03x",
            "line 5, column feature_list: .*got '301",
        ),
        (
            TRAIN,
            "5,0,0,bacff91692951881,1,301\x021\x031e99",
            "line 5, column feature_list: .*finite",
        ),
        (TRAIN, "5,0,0,bacff91692951881,2,301\x021\x031\x01", "line 5, column feature_list"),
        (TRAIN, "5,0,0,bacff91692951881,1,999\x021\x031", "line 5, .* and not '999', got"),
        (TRAIN, "5,0,0,bacff91692951881,1", r"train.csv: line 5: expected 6 columns, got 5"),
        (COMMON_TRAIN, "00aa91692951881f,1,101\x021\x031", "one line for each.*00aa91692951881f"),
        (COMMON_TRAIN, "dd,1,205\x021\x031", "common_features_train.csv: line 3, .*and not '205'"),
    ],
)
def test_a_wrong_line_is_named_with_its_file(name, bad, message, files, write, tmp_path, capsys):
    folder = write(**{name: [*files[name], bad]})
    assert command(str(folder), str(tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert told.isprintable() or told.strip().isprintable()
    with pytest.raises(ValueError, match=message):
        RECIPE.prepare(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_missing_file_and_senseless_options_are_named(write, tmp_path, capsys):
    folder = write()
    for option, message in (("--validation=1", "[0, 1), got 1.0"), ("--history=0", "at least 1")):
        assert command(str(folder), str(tmp_path / "out"), option) == 2
        assert message in capsys.readouterr().err
    (folder / COMMON_TEST).unlink()
    assert command(str(folder), str(tmp_path / "out")) == 2
    assert f"expected {COMMON_TEST} (plain or .gz)" in capsys.readouterr().err


def test_the_command_tells_rows_rates_and_what_was_left_out(write, tmp_path, capsys):
    assert command(str(write()), str(tmp_path / "out"), "--validation=0") == 0
    told = capsys.readouterr().out
    assert "left out of train: 1 conversions without click, 1 ids beyond the first" in told
    assert "0.3333" in told
    assert "42,299,905" in told


def test_the_yaml_names_columns_of_the_files_and_no_label_is_a_feature(write, tmp_path):
    prepared(write(), tmp_path / "out")
    columns = compose_data("aliccp", tmp_path / "out").data.columns
    table = read(tmp_path / "out", "train")
    assert unfit_columns(columns, table) == []
    assert features(columns) == {*table.column_names} - {"sample_id", "click", "conversion"}
    assert table.schema.field("field_853").type == pa.list_(pa.int64())


def test_every_split_is_read_as_the_yaml_says(write, tmp_path):
    prepared(write(), tmp_path / "out")
    job = compose_data("aliccp", tmp_path / "out")
    (train,) = encoded(job, tmp_path / "out", "train")
    assert train.labels_BK[:3].tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert train.masks_BK[:3].tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    behaviour = train.sparse["field_109_14"]
    assert behaviour.lengths()[:3].tolist() == [3, 0, 3]
    assert behaviour.weights()[:3].tolist() == pytest.approx([2.3979, 0.69315, 0.69315])
    (test,) = encoded(job, tmp_path / "out", "test")
    assert (test.rows_B >= 0).sum() == 1
