"""A run goes on from the newest checkpoint that is whole, and says so if that is not the newest."""

import logging
import os
import shutil
from pathlib import Path

import pytest
from saving import alone, save

from mbrec.checkpoint import folder, restore


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with alone():
        run = tmp_path_factory.mktemp("three")
        save(run, 10, 20, 30, keep=3)
        yield run


@pytest.fixture
def run(three, tmp_path) -> Path:
    return shutil.copytree(three, tmp_path / "run")


def at(run: Path, step: int) -> Path:
    return folder.step_folder(run / "checkpoint", step)


def damage(source: Path, name: str = folder.STATE) -> None:
    os.truncate(source / name, 5)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoint").iterdir())


def test_the_newest_is_chosen_without_a_word(run, caplog):
    assert restore.newest(run) == restore.choose("auto", run) == at(run, 30)
    assert restore.choose(str(run), run / "another") == at(run, 30)
    assert caplog.text == ""


@pytest.mark.parametrize("name", [folder.MANIFEST, folder.STATE, folder.METADATA, "__0_0.distcp"])
def test_a_damaged_one_is_passed_over_loudly_and_put_aside(run, caplog, name):
    damage(at(run, 30), name)
    assert restore.choose("auto", run) == at(run, 20)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "FELL BACK" in record.message
    assert str(at(run, 30) / name) in record.message
    assert f"resuming from {at(run, 20)}" in record.message
    assert names(run) == ["step_00000010", "step_00000020", "step_00000030.damaged"]


def test_two_damaged_ones_are_passed_over(run):
    damage(at(run, 30))
    damage(at(run, 20))
    assert restore.newest(run) == at(run, 10)
    assert names(run) == ["step_00000010", "step_00000020", "step_00000030"]
    assert restore.newest(run, quarantine=True) == at(run, 10)
    assert names(run) == ["step_00000010", "step_00000020.damaged", "step_00000030.damaged"]


def test_without_one_that_is_whole_nothing_is_renamed(run):
    before = names(run)
    for step in (10, 20, 30):
        damage(at(run, step))
    for path in ("auto", str(run)):
        with pytest.raises(ValueError, match="expected a checkpoint that is whole") as error:
            restore.choose(path, run)
        for step in (10, 20, 30):
            assert str(at(run, step)) in str(error.value)
    assert names(run) == before


def test_one_that_was_named_is_taken_or_refused(run, tmp_path):
    assert restore.choose(str(at(run, 20)), tmp_path) == at(run, 20)
    damage(at(run, 20))
    with pytest.raises(ValueError, match="step_00000020"):
        restore.choose(str(at(run, 20)), tmp_path)
    assert names(run) == ["step_00000010", "step_00000020", "step_00000030"]


def test_without_any_a_run_starts_anew_unless_one_was_asked_for(tmp_path):
    assert restore.choose("auto", tmp_path) is None
    assert restore.choose("none", tmp_path) is None
    with pytest.raises(ValueError, match="found none"):
        restore.choose(str(tmp_path), tmp_path)
    with pytest.raises(ValueError, match=r"resume\.path"):
        restore.choose(str(tmp_path / "nothing"), tmp_path)


def test_after_an_explosion_what_came_late_is_put_aside(run):
    assert restore.roll_back(run, 25) == at(run, 20)
    assert names(run) == ["step_00000010", "step_00000020", "step_00000030.exploded"]
    damage(at(run, 20))
    assert restore.roll_back(run, 25) == at(run, 10)
    assert restore.roll_back(run, 5) is None


@pytest.mark.parametrize("why", [folder.EXPLODED, folder.DAMAGED])
def test_a_run_whose_checkpoints_were_all_put_aside_does_not_begin_anew(three, tmp_path, why):
    assert restore.choose("auto", tmp_path) is None
    (tmp_path / "checkpoint" / f"step_00000030{why}").mkdir(parents=True)
    with pytest.raises(ValueError, match="rename it to step_00000030"):
        restore.choose("auto", tmp_path)
