"""A command line is composed once: the processes of its job read what the first one composed."""

import json
import os
from pathlib import Path

import pytest

from mbrec import UserError
from mbrec.config.composer import Composed
from mbrec.config.settings import Config
from mbrec.study import handover
from mbrec.study.jobs import Job
from mbrec.study.sweep import Plan

WORDS = ["trainer.seed=3", "tasks=[like,ctr]", "hydra.verbose=false", "run.name=a"]
SWEEP = ["-m", "trainer.seed=3,4", "run.name=b", "tasks=[like,ctr]"]


@pytest.fixture
def compose_once(monkeypatch, tmp_path):
    """Composes a command line and hands it over; composing again fails."""
    monkeypatch.chdir(tmp_path)

    def compose(words: list[str]) -> Composed | Plan:
        found = handover.compose(words)
        monkeypatch.setattr(handover, "compose", lambda words: pytest.fail("composed again"))
        return found

    return compose


def content(found: Composed | Plan) -> tuple[list[Config], list[str] | list[Job]]:
    """The configurations, and what made them."""
    if isinstance(found, Plan):
        return found.configs, found.jobs
    return [found.config], found.overrides


@pytest.mark.parametrize("words", [WORDS, SWEEP])
def test_the_processes_of_a_job_read_what_was_composed(words, compose_once, monkeypatch):
    found = compose_once(words)
    with handover.handed_over(words, found) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        again = handover.taken_over(words)
    assert content(again) == content(found)
    assert all(list(config.tasks) == ["like", "ctr"] for config in content(again)[0])
    # Each rank resolves for itself what depends on its number.
    assert again.hydra.job_logging.loggers.mbrec.level == "INFO"
    monkeypatch.setenv("RANK", "1")
    assert again.hydra.job_logging.loggers.mbrec.level == "WARNING"
    # It lasts as long as the process that has composed it.
    assert not any(Path(value).exists() for value in variables.values())


def test_a_job_that_another_job_starts_is_composed_by_itself(compose_once, monkeypatch):
    found, others = handover.compose(WORDS), [*WORDS, "trainer.epochs=2"]
    with handover.handed_over(WORDS, found) as variables:
        monkeypatch.setenv(handover.VARIABLE, variables[handover.VARIABLE])
        assert handover.taken_over(others).config.trainer.epochs == 2


@pytest.mark.parametrize("value", ["", "nowhere/composed.json"])
def test_a_process_that_was_started_directly_composes_by_itself(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(handover.VARIABLE, value)
    assert content(handover.taken_over(WORDS)) == content(handover.compose(WORDS))


def test_what_was_composed_is_only_read_as_it_was_written(compose_once, monkeypatch):
    found = compose_once(WORDS)
    with handover.handed_over(WORDS, found) as variables:
        path = Path(variables[handover.VARIABLE])
        assert os.stat(path.parent).st_mode & 0o077 == 0
        content = json.loads(path.read_text())
        content["configs"][0]["trainer"]["seed"] = 4
        path.write_text(json.dumps(content))
        monkeypatch.setenv(handover.VARIABLE, str(path))
        with pytest.raises(UserError, match="damaged, or was edited"):
            handover.taken_over(WORDS)
