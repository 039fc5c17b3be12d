"""A save that fails is told, counted and lived through; one that is done is whole."""

import errno
import shutil
import threading
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from saving import Plain, alone, run_state, save, saver

from mbrec.checkpoint import folder, state, tensors
from mbrec.config.checkpoints import Best

Usage = namedtuple("Usage", "total used free")
BOTH = pytest.mark.parametrize("background", [False, True])


@pytest.fixture(scope="module", autouse=True)
def group():
    with alone():
        yield


@contextmanager
def no_room():
    """Fail as a disk does that is full, while tensors are written."""
    with pytest.MonkeyPatch.context() as patch:

        def fail(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(tensors.FileSystemWriter, "write_data", fail)
        yield


def steps(run: Path) -> list[int]:
    return [folder.step_of(path) for path in folder.finished(run / "checkpoint")]


def only_whole(run: Path) -> bool:
    """Return whether there is nothing but checkpoints that verify."""
    present = sorted((run / "checkpoint").iterdir())
    return present == folder.finished(run / "checkpoint") and not any(map(folder.verify, present))


@BOTH
def test_steps_are_saved_and_the_newest_are_kept(tmp_path, background):
    with saver(tmp_path, background=background, keep=2) as target:
        for step in range(1, 6):
            target.save(run_state(step))
        target.wait()
    assert steps(tmp_path) == [4, 5]
    assert only_whole(tmp_path)
    assert target.last_step == 5
    saved = state.read(tmp_path / "checkpoint/step_00000005")
    assert saved == run_state(5)


def test_what_is_saved_in_the_background_is_the_model_of_that_step(tmp_path, monkeypatch):
    model, started, go_on = Plain(), threading.Event(), threading.Event()
    write = tensors.write

    def late(*args):
        started.set()
        assert go_on.wait(60)
        write(*args)

    monkeypatch.setattr(tensors, "write", late)
    with saver(tmp_path, model, background=True) as target:
        target.save(run_state(1))
        assert started.wait(60)
        before = {name: value.clone() for name, value in model.tensors.items()}
        for value in model.tensors.values():
            value.zero_()
        go_on.set()
        target.wait()
    tensors.read(tmp_path / "checkpoint/step_00000001", tensors.collect(model, None))
    for name, value in before.items():
        assert torch.equal(model.tensors[name], value)


@BOTH
def test_a_failed_save_is_survived_and_the_last_one_is_intact(tmp_path, background, caplog):
    with saver(tmp_path, background=background) as target:
        target.save_now(run_state(1))
        with no_room():
            target.save(run_state(2))
            target.wait()
        assert (target.last_step, target.failures) == (1, 1)
        assert steps(tmp_path) == [1]
        assert only_whole(tmp_path)
        assert "checkpoint of step 2 could not be written" in caplog.text
        assert str(tmp_path / "checkpoint/step_00000002.tmp") in caplog.text
        assert "No space left on device" in caplog.text
        target.save_now(run_state(2))
        assert (target.last_step, target.failures) == (2, 0)
    assert steps(tmp_path) == [1, 2]


@BOTH
def test_three_failures_in_a_row_stop_the_job(tmp_path, background):
    reasons = []
    with saver(tmp_path, background=background, failed=reasons.append) as target:
        for step in (1, 2, 4, 5):
            with no_room():
                target.save(run_state(step))
                target.wait()
            if step == 2:
                target.save_now(run_state(3))
        assert reasons == []
        with no_room(), pytest.raises(OSError, match="3 checkpoints in a row") as failure:
            target.save(run_state(6))
            target.wait()
    assert "No space left" in str(failure.value)
    assert len(reasons) == 1
    assert steps(tmp_path) == [3]


@BOTH
def test_a_failure_of_the_last_save_is_an_error(tmp_path, background):
    with saver(tmp_path, background=background) as target:
        target.save_now(run_state(1))
        with no_room(), pytest.raises(OSError, match="step 2 could not be saved"):
            target.save_now(run_state(2))
        assert steps(tmp_path) == [1]
        target.save_now(run_state(1))


def test_a_disk_with_little_room_is_not_written_to(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 0, 1_000_000))
    monkeypatch.setattr(tensors, "write", None)
    with saver(tmp_path) as target:
        target.save(run_state(1))
    needed = 1_048_576 + (12 + 5) * 4 + 8
    expected = f"{tmp_path / 'checkpoint'}: expected {needed:,} free bytes, got 1,000,000"
    assert expected in caplog.text
    assert steps(tmp_path) == []


def test_a_step_that_is_there_is_not_written_over(tmp_path, caplog):
    (source,) = save(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with saver(tmp_path) as target, pytest.raises(OSError, match="step 1 could not be saved"):
        target.save_now(run_state(1))
    assert f"{source}: expected a new folder, got one that is there" in caplog.text
    assert before == {path.name: path.read_bytes() for path in source.iterdir()}
    assert only_whole(tmp_path)


def test_a_step_that_was_just_saved_is_not_saved_again(tmp_path, monkeypatch):
    with saver(tmp_path) as target:
        target.save_now(run_state(1))
        monkeypatch.setattr(tensors, "write", None)
        target.save_now(run_state(1))


def test_a_file_in_the_place_of_the_folder_is_a_failure_that_names_it(tmp_path, caplog):
    (tmp_path / "checkpoint").write_text("mine")
    with saver(tmp_path) as target:
        target.save(run_state(1))
        assert target.failures == 1
    assert str(tmp_path / "checkpoint") in caplog.text
    assert (tmp_path / "checkpoint").read_text() == "mine"


def test_what_was_left_is_cleaned_up_whatever_it_is(tmp_path):
    checkpoints = tmp_path / "checkpoint"
    (checkpoints / "step_00000001.tmp/inner").mkdir(parents=True)
    (checkpoints / "step_00000002.tmp").write_text("a file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine").touch()
    (checkpoints / "step_00000003.tmp").symlink_to(tmp_path / "elsewhere")
    save(tmp_path, 3)
    assert steps(tmp_path) == [3]
    assert only_whole(tmp_path)
    assert (tmp_path / "elsewhere/mine").exists()


def test_a_state_that_json_has_no_text_for_is_a_failed_save(tmp_path, caplog):
    with saver(tmp_path) as target:
        target.save(run_state(1, balancer={"weight": float("nan")}))
        assert target.failures == 1
    assert "not JSON compliant" in caplog.text
    assert steps(tmp_path) == []


def test_a_checkpoint_is_saved_though_older_ones_cannot_be_deleted(tmp_path, monkeypatch, caplog):
    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    save(tmp_path, 1)
    monkeypatch.setattr(shutil, "rmtree", fail)
    with saver(tmp_path, keep=1) as target:
        target.save_now(run_state(2))
    assert (target.last_step, target.failures) == (2, 0)
    assert "older checkpoints could not be deleted" in caplog.text
    assert folder.verify(tmp_path / "checkpoint/step_00000002") == []


@pytest.mark.parametrize("text", ["[]", "[" * 60_000])
def test_with_a_mark_of_the_best_that_is_none_nothing_is_deleted(tmp_path, caplog, text):
    save(tmp_path, 1)
    (tmp_path / "checkpoint" / folder.BEST).write_text(text)
    with saver(tmp_path, keep=1) as target:
        target.save_now(run_state(2))
        target.save_now(run_state(3))
    assert steps(tmp_path) == [1, 2, 3]
    assert "best.json" in caplog.text


def test_the_best_checkpoint_is_kept(tmp_path):
    with saver(tmp_path, keep=1) as target:
        for step in range(1, 5):
            target.save_now(run_state(step))
            if step == 2:
                target.mark_best(Best(step=2, value=0.5, since=0), "ctr.ne")
    assert folder.read_best(tmp_path / "checkpoint") == 2
    assert steps(tmp_path) == [2, 4]
