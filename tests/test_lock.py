"""The lock: what `scripts/setup.sh` installs, pinned with the hashes of its files."""

import re
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LEVELS = ("train", "test", "dev")
VARIANTS = ("build", "cpu", "cuda")
# torch and the CUDA libraries that it brings, and the project: no hash is asked of them.
UNLOCKED = re.compile(r"torch|triton|nvidia-.+|cuda-.+")


def requirements(name: str) -> list[Requirement]:
    text = re.sub(r" *\\\n *", " ", (ROOT / name).read_text())
    return [Requirement(line.partition(" --hash")[0]) for line in text.splitlines()]


def pins(name: str) -> set[str]:
    return {str(requirement) for requirement in requirements(name)}


def test_the_locks_hold_every_pin_once_and_no_other():
    locked = [pin for n in (*LEVELS, *VARIANTS) for pin in pins(f"requirements/{n}.txt")]
    assert len(locked) == len(set(locked)) > 80
    rest = {str(r) for r in requirements("constraints.txt") if not UNLOCKED.fullmatch(r.name)}
    assert set(locked) == rest


@pytest.mark.parametrize("name", [*LEVELS, *VARIANTS])
def test_every_pin_has_a_version_and_a_hash(name):
    text = re.sub(r" *\\\n *", " ", (ROOT / f"requirements/{name}.txt").read_text())
    for line in text.splitlines():
        assert re.match(r"[\w.-]+==[\w.]+( ; .+?)?( --hash=sha256:[0-9a-f]{64})+$", line), line


@pytest.mark.parametrize("level", LEVELS)
def test_what_pyproject_asks_for_is_locked_in_a_version_that_it_admits(level):
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    wanted = [Requirement(line) for line in extras[level] if not line.startswith("mbrec")]
    pinned = {r.name: r.specifier for r in requirements("constraints.txt")}
    assert len(wanted) >= 5
    for requirement in wanted:
        (version,) = pinned[requirement.name]
        assert requirement.specifier.contains(version.version), requirement


def test_what_is_installed_is_what_is_pinned():
    # Not all of sys.path: setuptools adds the packages that it carries.
    installed = distributions(path=[sysconfig.get_path("purelib")])
    found = {canonicalize_name(d.name): d.version.partition("+")[0] for d in installed}
    checked = 0
    # A package of no lock, such as a debugger, is its owner's business.
    for name in ("build", "train", "test"):
        for requirement in requirements(f"requirements/{name}.txt"):
            if requirement.marker is None or requirement.marker.evaluate():
                (version,) = requirement.specifier
                assert found.get(canonicalize_name(requirement.name)) == version.version
                checked += 1
    assert checked > 50
