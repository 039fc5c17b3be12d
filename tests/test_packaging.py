"""The wheel works by itself, and what claims to import little does."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mbrec.config.settings import TrainerSettings

ROOT = Path(__file__).parents[1]
# Python runs it at each start of a process that has its folder on the path.
BLOCK = """
import os, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["BLOCKED"].split():
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
"""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def succeed(*command: str | Path, cwd: Path, **variables: str) -> str:
    result = run(*command, cwd=cwd, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the sources, so that no build folder is left among them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("mbrec", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    succeed(*PIP, *build, source, cwd=folder)
    (path,) = folder.glob("mbrec-*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel):
    """A folder with the installed wheel, to be put on the path."""
    folder = wheel.parent / "site"
    install = ["install", "--no-deps", "--no-index", "--target", folder, wheel]
    succeed(*PIP, *install, cwd=wheel.parent)
    return folder


@pytest.fixture
def blocked(tmp_path):
    """Runs a command in a process that can not import some packages."""
    (tmp_path / "sitecustomize.py").write_text(BLOCK)

    def command(packages, *arguments, path=()):
        found = os.pathsep.join(map(str, [tmp_path, *path]))
        python = [sys.executable, *arguments]
        return run(*python, cwd=tmp_path, PYTHONPATH=found, BLOCKED=" ".join(packages))

    return command


def test_the_wheel_holds_every_source_and_yaml(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    yamls = {f"mbrec/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "configs").rglob("*.yaml")}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "mbrec").rglob("*.py")}
    assert len(yamls) > 10
    assert yamls | modules | {"mbrec/py.typed"} <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mbrec"}


def test_the_wheel_carries_the_licence(wheel):
    assert any(name.endswith("/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_the_installed_wheel_answers_help_with_its_own_configuration(site, tmp_path):
    here = {"cwd": tmp_path, "PYTHONPATH": str(site)}
    code = "import mbrec, mbrec.train, mbrec.configs as c; print(mbrec.__file__, c.__path__[0])"
    origin = succeed(sys.executable, "-c", code, **here).split()
    assert origin == [str(site / "mbrec/__init__.py"), str(site / "mbrec/configs")]
    text = succeed(sys.executable, "-m", "mbrec.train", "--help", **here)
    for group in (
        "balancer: alignedmtl, cagrad",
        "data/preset: bench, medium, small, tiny",
        "tasks: ",
    ):
        assert group in text
    assert f"global_batch_size: {TrainerSettings().global_batch_size}" in text
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_installed_commands_start(site, tmp_path):
    here = {"cwd": tmp_path, "PYTHONPATH": str(site)}
    command = site / "bin/mbrec"
    assert "usage: mbrec COMMAND" in succeed(command, "--help", **here)
    assert "Usage: scripts/train.sh" in succeed(command, "train", "--help", **here)
    assert "usage: mbrec evaluate" in succeed(command, "evaluate", **here)


def test_the_balance_library_runs_where_only_torch_is_installed(site, blocked):
    packages = ["torchrec", "fbgemm_gpu", "hydra", "omegaconf", "pyarrow", "tensorboard", "tqdm"]
    packages += ["numpy", "torchmetrics", "yaml", "tensordict", "pandas", "scipy"]
    for name in packages:
        assert f"{name} is blocked" in blocked(packages, "-c", f"import {name}").stderr
    code = (
        "import doctest, mbrec, mbrec.balance; print(mbrec.__file__);"
        "result = doctest.testmod(mbrec.balance);"
        "assert result.attempted > 5 and result.failed == 0, result"
    )
    result = blocked(packages, "-W", "ignore", "-c", code, path=[site])
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(site / "mbrec/__init__.py")]


@pytest.mark.parametrize("module", ["mbrec.train", "mbrec.evaluate", "research.bench"])
def test_help_does_not_load_torch(module, site, blocked):
    packages = ["torch", "torchrec", "fbgemm_gpu", "pyarrow", "tensorboard"]
    assert "torch is blocked" in blocked(packages, "-c", "import torch").stderr
    # research is beside the wheel, not in it.
    result = blocked(packages, "-m", module, "--help", path=[site, ROOT])
    assert result.returncode == 0, result.stderr
    assert "usage: " in result.stdout.lower()
