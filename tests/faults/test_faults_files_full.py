"""A disk that is full or not to be written to costs a save, and no more (R16)."""

import ctypes
import errno
import logging
import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from saving import Plain, run_state
from torch.distributed.checkpoint import filesystem

from mbrec.checkpoint import folder, tensors
from mbrec.checkpoint.saver import Saver

Usage = namedtuple("Usage", "total used free")
FULL = "No space left on device"


def full(*args: object, **kwargs: object) -> Any:
    raise OSError(errno.ENOSPC, FULL)


def denied(*args: object, **kwargs: object) -> Any:
    raise PermissionError(errno.EACCES, "Permission denied")


def full_at(target: Callable[..., Any], call: int) -> Callable[..., Any]:
    calls = []

    def counted(*args: object, **kwargs: object) -> Any:
        calls.append(1)
        return full() if len(calls) == call else target(*args, **kwargs)

    return counted


@contextmanager
def patched(owner: Any, name: str, replacement: Any, rank: int) -> Iterator[None]:
    """Replace a function on one rank alone."""
    with pytest.MonkeyPatch.context() as patch:
        if dist.get_rank() == rank:
            patch.setattr(owner, name, replacement)
        yield


@contextmanager
def smallest_file(size: int) -> Iterator[None]:
    """Let no file of this process be larger, as a quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def ways() -> dict[str, Callable[[], Any]]:
    """Return each way in which a save fails: what breaks it for a while."""
    writer, write_item = filesystem.FileSystemWriter, filesystem._write_item
    return {
        "no room on rank 0": lambda: patched(writer, "write_data", full, 0),
        "no room on rank 1": lambda: patched(writer, "write_data", full, 1),
        "no room amid a file on rank 0": lambda: patched(
            filesystem, "_write_item", full_at(write_item, 2), 0
        ),
        "no room for the index": lambda: patched(writer, "finish", full, 0),
        "not readable on rank 1": lambda: patched(folder, "describe", denied, 1),
        "no room for the manifest": lambda: patched(folder, "write_manifest", full, 0),
        "not renamed": lambda: patched(folder, "publish", denied, 0),
        "little room": lambda: patched(shutil, "disk_usage", lambda p: Usage(9, 8, 1), 0),
        "no new folder": lambda: patched(Path, "mkdir", denied, 0),
        "files of 3,000 bytes at most": lambda: smallest_file(3000),
    }


class Told(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


Outcome = tuple[str, int | None, int, list[str]]


def outcome(part: Callable[[], None], target: Saver, broken: Any = None) -> Outcome:
    """Return what became of a save, the same on each rank: its error, and what is there."""
    error = ""
    with broken or nullcontext():
        try:
            part()
        except OSError as failure:
            error = str(failure)
    dist.barrier()
    names = sorted(path.name for path in target.checkpoints.iterdir())
    newest, problems = folder.newest_verified(folder.finished(target.checkpoints))
    assert newest is not None
    assert problems == []
    dist.barrier()
    return error, target.last_step, target.failures, names


def live_through(run: str) -> list[Any]:
    """Save while saving fails now and then; return what became of each save."""
    logger, told = logging.getLogger("mbrec.checkpoint.saver"), Told()
    logger.addHandler(told)
    logger.propagate = False
    # Different tensors on each rank are not needed: torch shares equal ones out among them.
    model = Plain(**{f"bottom.{n}": torch.full((40, 30), float(n)) for n in range(4)})
    found: list[Any] = []
    for name, broken in ways().items():
        for background in (False, True):
            reasons: list[str] = []
            target = Saver(
                Path(run) / f"{name} {background}/checkpoint",
                model,  # type: ignore
                None,  # type: ignore
                background=background,
                failed=reasons.append,
            )

            def save(step: int, target: Saver = target) -> None:
                target.save(run_state(step))
                target.wait()

            def now(step: int, target: Saver = target) -> None:
                target.save_now(run_state(step))

            told.texts.clear()
            trace = []
            for step in range(1, 7):
                works = step in (1, 4)
                part = partial(save, step)
                trace.append(outcome(part, target, None if works else broken()))
            early = list(reasons)
            trace.append(outcome(lambda: save(7), target, broken()))
            trace.append(outcome(lambda: now(8), target))
            trace.append(outcome(lambda: now(9), target, broken()))
            found.append((name, background, trace, early, reasons, list(told.texts)))
    return found


@pytest.mark.sentinel
def test_a_save_that_fails_is_counted_and_costs_nothing_else(tmp_path, figure):
    ranks = run_ranks(live_through, 2, tmp_path, str(tmp_path / "run"))
    for one, other in zip(*ranks, strict=True):
        assert one[:4] == other[:4]
        name, background, trace, early, reasons, told = one
        where = f"{name}, background={background}"
        errors = [error for error, *_ in trace]
        assert errors[:6] == [""] * 6, where
        assert "3 checkpoints in a row could not be written" in errors[6], where
        assert errors[7] == "", where
        assert "step 9 could not be saved" in errors[8], where
        assert [last for _, last, *_ in trace] == [1, 1, 1, 4, 4, 4, 4, 8, 8], where
        assert [failures for *_, failures, _ in trace] == [0, 1, 2, 0, 1, 2, 3, 0, 1], where
        steps = [[1]] * 3 + [[1, 4]] * 4 + [[4, 8]] * 2
        assert [names for *_, names in trace] == [
            [f"step_{step:08d}" for step in left] for left in steps
        ], where
        assert early == [], where
        assert len(reasons) == len(other[4]) == 1, where
        assert len(told) == 6, where
        assert all("could not be written" in text and "checkpoint" in text for text in told), where
        assert other[5] == [], where
    figure("R16", ways=len(ways()), saves_failed=12 * len(ways()), lost=0)


def fill_up(run: str) -> list[Any]:
    """Save to a small disk until it is full, make room, and save again."""
    from saving import saver

    logger, told = logging.getLogger("mbrec.checkpoint.saver"), Told()
    logger.addHandler(told)
    logger.propagate = False
    with saver(Path(run), Plain(**{"bottom.weight": torch.ones(200_000)}), keep=9) as target:
        for step in range(1, 6):
            target.save(run_state(step))
            if target.failures:
                break
        first = step
        # Past the look at the free bytes it is the disk that says no.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, 1 << 40))
            for step in range(first, first + 5):
                target.save(run_state(step))
                if target.failures:
                    break
        names = sorted(path.name for path in target.checkpoints.iterdir())
        whole = [folder.verify(path) for path in folder.finished(target.checkpoints)]
        for old in (1, 2, 3):
            shutil.rmtree(folder.step_folder(target.checkpoints, old))
        target.save_now(run_state(step))
    return [first, step, names, whole, told.texts]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MB, where this process may mount one."""
    libc, place = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    place.mkdir()
    if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, b"size=4m"):
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield place
    finally:
        libc.umount2(str(place).encode(), 2)


def test_a_disk_that_is_full_keeps_what_it_has(small_disk, tmp_path, figure):
    (ranks := tmp_path / "ranks").mkdir()
    (answer,) = run_ranks(fill_up, 1, ranks, str(small_disk / "run"))
    first, last, names, whole, told = answer
    assert 2 < first < last
    assert names == [f"step_{step:08d}" for step in range(1, last)]
    assert whole == [[]] * len(names)
    looked, wrote = told
    assert "expected 1,848,576 free bytes, got" in looked
    assert str(small_disk / "run/checkpoint") in looked
    assert f"step_{last:08d}.tmp" in wrote
    figure("R16", full_disk="survived")


def test_ways_that_break_nothing_would_be_noticed(tmp_path):
    """The ways above are what fails: without them each save succeeds."""
    from saving import alone, save

    with alone():
        save(tmp_path, *range(1, 10))
    assert tensors.inspect(tmp_path / "checkpoint/step_00000009").sizes
