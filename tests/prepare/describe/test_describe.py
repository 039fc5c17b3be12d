"""The command `mbrec describe`, from a folder to the command that trains."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from shop_logs import make_log, prepare, write

from mbrec.config import settings as configuration
from mbrec.prepare.describe.command import PICTURE, Options, describe, find_tasks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("shop") / "data")


@pytest.fixture
def configs(tmp_path):
    return Path(shutil.copytree(ROOT / "configs", tmp_path / "configs"))


@pytest.fixture
def named(configs, capsys):
    """Describes a folder under a name; returns the printed lines."""

    def run(folder, *options, name="shop"):
        options = [f"name={name}", f"configs={configs}", "plot=none", *options]
        describe(str(folder), Options.parse(options))
        return capsys.readouterr().out.splitlines()

    return run


def composed(configs, line):
    """Return the configuration that a printed command trains with."""
    script, flag, folder, *overrides = shlex.split(line)
    assert (script, flag, folder) == ("scripts/train.sh", "--config-dir", str(configs))
    with initialize_config_dir(str(configs), version_base="1.3"):
        return configuration.parse(compose("train", overrides=overrides))


def test_a_click_and_a_purchase_are_trained_with_the_existing_tasks(named, shop, configs):
    before = set((configs / "tasks").iterdir())
    lines = named(shop)
    assert lines[-1].endswith("data=shop 'tasks=[ctr,cvr,conv_imp]'")
    assert set((configs / "tasks").iterdir()) == before
    found = composed(configs, lines[-1])
    assert found.data.path == str(shop)
    assert {task.label for task in found.tasks.values()} == set(found.data.columns.labels)


def test_the_report_says_what_is_suspected_and_what_is_read_as_a_label(named, tmp_path, configs):
    table = make_log(2_000)
    clicked = pa.array(["ny"[one] for one in table["clicked"].to_pylist()])
    table = table.set_column(table.column_names.index("clicked"), "clicked", clicked)
    lines = named(write(tmp_path / "log", {"train/a.parquet": table, "test/a.parquet": table}))
    said = [line for line in lines if line.startswith(("label ", "left out ", "check "))]
    assert said[0].startswith("label click: clicked == 'y' ('y' or not, and its name)")
    assert said[1].startswith("label conversion: (clicked == 'y') * bought (")
    assert said[2].startswith("left out paid_cents: filled in only where bought is 1")
    assert lines.index(said[2]) < len(lines) - 1
    found = composed(configs, lines[-1])
    assert found.data.columns.labels["conversion"] == "(clicked == 'y') * bought"


def test_labels_without_a_task_get_one(named, shop, configs):
    lines = named(shop, "labels=[is_member,clicked]")
    assert lines[-1].endswith("'tasks=[member,clicked]'")
    found = composed(configs, lines[-1])
    assert [task.label for task in found.tasks.values()] == ["member", "clicked"]
    text = (configs / "tasks/clicked.yaml").read_text()
    assert text.startswith("# @package tasks.clicked\n")


def test_a_draft_is_not_overwritten_unless_asked_to(named, shop, configs):
    named(shop)
    target = configs / "data/shop.yaml"
    draft = target.read_text()
    target.write_text("edited by hand")
    with pytest.raises(ValueError, match=r"shop\.yaml already exists; overwrite=true"):
        named(shop)
    assert target.read_text() == "edited by hand"
    named(shop, "overwrite=true")
    assert target.read_text() == draft


def test_tasks_need_their_labels_and_names_stay_apart(tmp_path):
    tasks = {
        "ctr": "label: click",
        "cvr": "label: conversion\ngiven: click",
        "conv_imp": "label: conversion",
        "like": "label: liked",
        "empty": "",
    }
    for name, text in tasks.items():
        (tmp_path / f"{name}.yaml").write_text(f"# @package tasks.{name}\n{text}\n")
    assert find_tasks([tmp_path], ["conversion"])[0] == ["conv_imp"]
    assert find_tasks([tmp_path], ["click", "conversion"])[0] == ["ctr", "cvr", "conv_imp"]
    names, new = find_tasks([tmp_path], ["like", "click"])
    assert names == ["like_2", "ctr"]
    assert list(new) == ["like_2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nme=shop"], "with a key of name, labels, plot, configs, overwrite, got nme=shop"),
        (["shop"], "expected key=value with a key of .*, got shop"),
        (["overwrite=yes"], "expected overwrite=true or overwrite=false, got overwrite=yes"),
        (["name=my/shop"], "expected a name of letters, digits and underscores, got my/shop"),
        (["name=shop", "configs=nowhere"], "folders data and tasks in nowhere, found none: run"),
        (["labels=[click]"], "expected columns of time, .* in labels, got click"),
    ],
)
def test_wrong_arguments_fail_with_one_line(shop, options, message):
    with pytest.raises(ValueError, match=message) as error:
        describe(str(shop), Options.parse(options))
    assert "\n" not in str(error.value)


def test_a_folder_without_a_data_set_fails_with_one_line(tmp_path):
    file = write(tmp_path, {"a.parquet": make_log(20)}) / "a.parquet"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text/train").mkdir(parents=True)
    (tmp_path / "text/train/a.parquet").write_text("no Parquet")
    no_rows = write(tmp_path / "no_rows", {"train/a.parquet": make_log(20).slice(0, 0)})
    for folder, message in (
        (tmp_path / "missing", "missing, which does not exist"),
        (file, "which is a file"),
        (tmp_path / "empty", r"expected Parquet files at .*, found none"),
        (tmp_path / "text", r"train/a\.parquet: expected a Parquet file: "),
        (no_rows, "expected rows to train on"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            describe(str(folder), Options.parse(["plot=none"]))
        assert "\n" not in str(error.value)


def test_training_files_with_other_columns_or_types_are_named(tmp_path):
    table = make_log(60)
    files = {"train/a.parquet": table, "test/a.parquet": table}
    write(tmp_path / "a", {**files, "train/b.parquet": table.drop(["price"])})
    with pytest.raises(ValueError, match=r"b\.parquet: expected the columns price, got time"):
        describe(str(tmp_path / "a"), Options())
    text = table.set_column(3, "item_id", pa.array(["x"] * 60))
    write(tmp_path / "b", {**files, "train/b.parquet": text})
    with pytest.raises(ValueError, match=r"b\.parquet: rows cannot be read: .*int64"):
        describe(str(tmp_path / "b"), Options())


def test_files_and_row_groups_without_rows_are_no_obstacle(tmp_path, capsys):
    table = make_log(60)
    files = {"train/a.parquet": table, "train/b.parquet": table.slice(0, 0)}
    folder = write(tmp_path, {**files, "test/a.parquet": table.slice(0, 0)})
    with pq.ParquetWriter(folder / "train/c.parquet", table.schema) as writer:
        for part in (table.slice(0, 0), table, table.slice(0, 0)):
            writer.write_table(part)
    describe(str(folder), Options(plot="none"))
    assert "# Rows: train 120, test 0" in capsys.readouterr().out


def test_a_column_that_test_files_lack_is_not_used(tmp_path, capsys):
    table = make_log(60)
    files = {"train/a.parquet": table, "test/a.parquet": table.drop(["price"])}
    describe(str(write(tmp_path, files)), Options(plot="none"))
    assert "#   price: not in all files" in capsys.readouterr().out


def test_the_draft_alone_is_on_the_standard_output(shop, capsys):
    describe(f"file://{shop}", Options())
    streams = capsys.readouterr()
    assert streams.out.startswith("# Drafted by: mbrec describe file://")
    assert re.search(r"path: \"?file://", streams.out)
    assert "name=NAME" in streams.err
    assert not (shop / PICTURE).exists(), "no picture goes to a URI"


def test_the_command_starts_without_torch_and_ends_with_one_line(shop):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'matplotlib']));"
        "from mbrec.prepare.describe.command import main; main(sys.argv[1:])"
    )
    run = [sys.executable, "-c", code, str(shop)]
    result = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert "columns:" in result.stdout
    assert "install it with" in result.stderr
    wrong = subprocess.run([*run, "nme=x"], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: expected key=value")
    assert "Traceback" not in wrong.stderr
