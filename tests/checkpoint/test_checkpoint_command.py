"""A person can look into checkpoints without loading one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import run_ranks

from mbrec.checkpoint import folder


def make(data: str, run: str) -> None:
    from jobs import compose

    from mbrec.distributed import process
    from mbrec.job import build

    options = ["trainer.global_batch_size=64", "trainer.steps=8", "trainer.evaluate_every=4"]
    options += ["checkpoint.every=4", "checkpoint.best=ctr.log_loss", "checkpoint.keep=1"]
    config = compose(Path(data), *options)
    trainer, _ = build.trainer(config, process.start(), Path(run))
    trainer.fit()


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory) -> Path:
    """The folder of a run with a damaged copy of its newest checkpoint, and an unfinished one."""
    place = tmp_path_factory.mktemp("command")
    run_ranks(make, 1, place, str(tiny_data), str(place / "run"))
    checkpoints = place / "run" / "checkpoint"
    (checkpoints / "step_00000099.tmp").mkdir()
    (checkpoints / "step_00000009.exploded").mkdir()
    return place / "run"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mbrec", "checkpoint", *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k not in ("RANK", "HYDRA_FULL_ERROR")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_ls_lists_each_checkpoint_the_best_and_those_put_aside(run):
    done = command("ls", run)
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split()[:4] == ["step", "saved", "size", "ranks"]
    steps = [folder.step_of(path) for path in folder.finished(run / "checkpoint")]
    assert [int(row.split()[0]) for row in rows[: len(steps)]] == steps
    assert sum("best" in row for row in rows) == 1
    assert any("ctr ne" in row for row in rows)
    assert any(".tmp" in row and "unfinished" in row for row in rows)
    assert any(".exploded" in row for row in rows)


@pytest.mark.slow
def test_verify_names_the_damaged_file_and_returns_1(run):
    assert command("verify", run).returncode == 0
    newest = folder.finished(run / "checkpoint")[-1]
    assert command("verify", newest).stdout == f"{newest}: whole\n"
    path = newest / folder.STATE
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"step"', b'"Step"', 1))
    done = command("verify", run)
    path.write_bytes(content)
    assert done.returncode == 1
    assert f"{path}: expected SHA-256" in done.stderr


@pytest.mark.slow
def test_show_tells_step_data_plan_tasks_and_weights(run):
    done = command("show", run)
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    for part in (
        "step            8",
        "epoch 0",
        "user: table_wise on 0; 500 x 16",
        "cvr, conv_imp",
    ):
        assert part in text
    assert "MultiBalance" in text
    assert "norm_average" in text
    assert "torch 2." in text


@pytest.mark.parametrize(
    "arguments", [["ls", "nowhere"], ["verify", "."], ["show"], ["remove", "x"], ["ls", "a", "b"]]
)
def test_nonsense_is_refused_in_a_few_lines(arguments, tmp_path):
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected ")
    assert "Traceback" not in done.stderr


def test_help_is_there():
    assert "verify DIR" in command("--help").stdout
