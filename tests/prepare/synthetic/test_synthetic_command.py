"""`mbrec synthetic`: writes the data set that training looks for, and prints a summary."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf.errors import OmegaConfBaseException

from mbrec.columns.schema import HIDDEN_PREFIX
from mbrec.config import settings as config
from mbrec.config.synthetic import Conflict, Synthetic
from mbrec.prepare.synthetic import command
from mbrec.prepare.synthetic.optimum import auc_optimum, normalized_entropy_optimum
from mbrec.prepare.synthetic.world import World

CONFIGS = Path(__file__).parents[3] / "configs" / "data"
TINY = ["preset=tiny", "rows=1000", "conflict=conflict", "shares=[.45,.2,.2,.15,0]"]


def trained_on(*overrides: str) -> config.Config:
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        return config.parse(compose("train", list(overrides)))


def test_every_preset_is_the_one_that_training_takes() -> None:
    assert command.presets() == sorted(path.stem for path in (CONFIGS / "preset").glob("*.yaml"))
    for name in command.presets():
        settings, _ = command.parse([f"preset={name}"])
        assert settings == trained_on(f"data/preset={name}").data.synthetic, name
    assert command.parse([])[0] == trained_on().data.synthetic
    assert command.parse(["preset=bench"])[0].num_users == 5_000_000


def test_settings_are_typed_and_override_the_preset_in_any_order() -> None:
    settings, processes = command.parse([*TINY[1:], "preset=tiny", "drift=1", "processes=2"])
    assert processes == 2
    assert settings == Synthetic(
        rows=1_000,
        num_users=500,
        num_items=200,
        num_tags=50,
        conflict=Conflict.conflict,
        shares=[0.45, 0.2, 0.2, 0.15, 0.0],
        drift=1.0,
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("preset=huge", r"data/preset has no option 'huge'\n.*bench, medium, small, tiny"),
        (
            "row=3",
            r"data.synthetic.row: .*'row'.*\nDid you mean data.synthetic.rows\?\n.*num_users",
        ),
        ("data.rows=3", "expected key=value, got 'data.rows=3'"),
        ("rows", "expected key=value, got 'rows'"),
        ("rows=[1", r"no viable alternative at input '\[1'"),
        ("rows=1,2", "expected one value of data.synthetic.rows, got 1,2"),
        ("rows=many", "data.synthetic.rows: .*'many'"),
        ("rows=1", "expected rows to train on and rows to hold out, got 1"),
        ("conflict=quarrel", r"data.synthetic.conflict: .*quarrel.*expected one of \[aligned"),
        ("processes=0", "expected processes >= 1, got 0"),
        ("processes=many", "expected processes >= 1, got many"),
        ("rows=${rows}", "Interpolation key 'rows' not found"),
    ],
)
def test_wrong_arguments_are_refused_by_name(argument: str, message: str) -> None:
    with pytest.raises((ValueError, OmegaConfBaseException), match=f"^{message}"):
        command.parse([argument])


def test_training_finds_what_was_written(tmp_path: Path) -> None:
    printed = command.run(tmp_path / "it's odd, (very)=odd", [*TINY, "processes=1"])
    program, command_name, *overrides = shlex.split(printed.splitlines()[-1])
    assert (program, command_name) == ("mbrec", "train")
    data = trained_on(*overrides).data
    assert data.synthetic is not None
    folder = Path(data.path) / data.synthetic.fingerprint
    assert list((tmp_path / "it's odd, (very)=odd").iterdir()) == [folder]
    assert len(list(folder.glob(data.train[0]))) == 1
    assert printed.startswith("800 rows to train on, then 200 held out, in ")


def test_summary_shows_rates_and_the_optimum(tmp_path: Path) -> None:
    lines = command.run(tmp_path, ["preset=tiny", "processes=1", "delay=1"]).splitlines()
    table = {line[:24].strip(): line[24:].split() for line in lines[3:9]}
    settings, _ = command.parse(["preset=tiny", "delay=1"])
    rates = World(settings).shard(0, settings.train_rows).labels.mean(axis=0)
    assert table["click"][0] == f"{rates[0]:.4f}"
    assert table["conversion"][0] == f"{rates[1]:.4f}"
    assert table["conversion, of clicks"][0] == f"{rates[1] / rates[0]:.4f}"
    held_out = World(settings).shard(settings.train_shards, settings.evaluation_rows)
    click, given_click, like, share, comment = held_out.probabilities.T
    tasks = {"click": (click,), "like": (like,), "share": (share,), "comment": (comment,)}
    tasks |= {"conversion": (click * given_click,), "conversion, of clicks": (given_click, click)}
    assert tasks.keys() == table.keys()
    for name, p_and_weight in tasks.items():
        optimum = normalized_entropy_optimum(*p_and_weight), auc_optimum(*p_and_weight)
        assert table[name][2:] == [f"{value:.4f}" for value in optimum]
    assert lines[10] == "rate: without the conversions that were not known yet"


def test_help_names_every_setting_at_once() -> None:
    program = (
        "import sys; from mbrec.prepare.synthetic.command import main; main(['--help'])\n"
        "print({'torch', 'pyarrow', 'omegaconf'} & set(sys.modules) or 'light')"
    )
    arguments = [sys.executable, "-W", "error", "-c", program]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert shown.endswith("light\n")
    for name in (*Synthetic.__dataclass_fields__, "preset=bench|medium|small|tiny", "processes=N"):
        assert name in shown


def test_module_runs_as_a_command(tmp_path: Path) -> None:
    arguments = [sys.executable, "-W", "error", "-m", "mbrec", "synthetic", str(tmp_path)]
    done = subprocess.run([*arguments, *TINY, "processes=2"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "800 rows" in done.stdout
    failed = subprocess.run([*arguments, "row=3"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: data.synthetic.row: ")
    assert "Traceback" not in failed.stderr


# The configurations of the data set


@pytest.mark.parametrize("name", ["synthetic", "synthetic_untidy"])
def test_configurations_name_columns_of_the_files_and_no_hidden_feature(
    name: str, tmp_path: Path
) -> None:
    data = trained_on(f"data={name}", "data/preset=tiny").data
    assert data.synthetic is not None
    table = World(data.synthetic).shard(0, 500).table()
    columns = data.columns
    features = columns.categorical | columns.numerical
    named = {feature.column or key for key, feature in features.items()}
    assert not {column for column in named if column.startswith(HIDDEN_PREFIX)}
    assert named | {*columns.labels.values(), *columns.oracle.values()} <= set(table.column_names)
    nulls = {column for column in named if table[column].null_count}
    assert nulls == ({"x0_raw", "x1_raw", "x2_raw"} if name == "synthetic_untidy" else set())


def test_every_data_configuration_hides_the_oracle() -> None:
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert {"synthetic", "synthetic_untidy"} <= set(names)
    for name in names:
        columns = trained_on(f"data={name}", "data.path=somewhere").data.columns
        features = columns.categorical | columns.numerical
        seen = [feature.column or key for key, feature in features.items()]
        assert not [column for column in seen if column.startswith(HIDDEN_PREFIX)], name
