"""The command line names what it can do, and refuses the rest in a line."""

import subprocess
import sys

import pytest

from research.paper.__main__ import EXTRA, PARTS, arguments, parts_of, runs_of
from research.paper.page import Part


def test_every_word_has_a_part_that_trains_and_writes():
    parts = [part for word in (*PARTS, *EXTRA) for part in parts_of(word)]
    assert all(isinstance(part, Part) for part in parts)
    assert len({part.write for part in parts}) == len(PARTS) + len(EXTRA)
    assert parts_of("all") == parts[: len(PARTS)]


@pytest.mark.parametrize(
    "words",
    [[], ["size=tiny"], ["table5"], ["table1", "tiny"], ["table1", "sise=tiny"]],
)
def test_a_wrong_word_is_refused(words):
    with pytest.raises(ValueError, match="expected"):
        arguments(words)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": "huge"},
        {"data": "criteo"},
        {"seeds": "0"},
        {"processes": "two"},
        {"data": "kuairand_pure", "path": "nowhere"},
    ],
)
def test_a_wrong_value_is_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        runs_of(settings)


def test_help_does_not_wait_for_torch():
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'matplotlib', 'scipy']));"
    code += "sys.argv[1:] = ['--help']; from research.paper.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "size=tiny" in done.stdout
