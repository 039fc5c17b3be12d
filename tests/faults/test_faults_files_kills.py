"""A kill at any moment loses no checkpoint that was there, and blocks none that comes (R2)."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from jobs import compose
from ranks import run_ranks
from saving import Plain, run_state, saver

from mbrec.checkpoint import folder, state, tensors
from mbrec.checkpoint.saver import Saver

SAVED = "saved"


def note(run: Path, step: int) -> None:
    """Note that a step was saved; survives the kill of who notes it."""
    with (run / SAVED).open("a") as file:
        file.write(f"{step}\n")


def noted(run: Path) -> int:
    lines = (run / SAVED).read_text().splitlines() if (run / SAVED).exists() else []
    return max(map(int, lines), default=0)


def kill_after(seconds: float) -> None:
    """Have another process kill this one. A fork of a process with threads may never wake up."""
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -9 {os.getpid()}"])


def save_until_killed(config: Any, run: str, background: bool, victim: int, after_s: float) -> None:
    """Go on from the newest checkpoint, and save step after step of a model."""
    from mbrec.checkpoint import restore

    newest = restore.newest(Path(run), needed=False)
    step = 0 if newest is None else folder.step_of(newest)
    target = real(config, run, background, newest) if config else plain(run, background, newest)
    if dist.get_rank() == victim:
        kill_after(after_s)
    for later in range(step + 1, step + 10_000):
        # The first is the step that the last kill has perhaps left unfinished.
        save = target.save_now if later == step + 1 else target.save
        save(run_state(later))
        if dist.get_rank() == 0 and target.last_step is not None:
            note(Path(run), target.last_step)


def plain(run: str, background: bool, newest: Path | None) -> Saver:
    """Return what saves a model of three tensors, loaded."""
    model = Plain()
    if newest is not None:
        tensors.read(newest, tensors.collect(model, None))  # type: ignore
    return Saver(Path(run) / "checkpoint", model, None, background=background)  # type: ignore


def real(config: Any, run: str, background: bool, newest: Path | None) -> Saver:
    """Return what saves the model of a job and its optimizers, loaded."""
    from mbrec.distributed import process
    from mbrec.job import build

    runtime = process.start()
    build.open_data(config, runtime)
    built = build.shard(config, runtime)
    if newest is not None:
        tensors.read(newest, tensors.collect(built.model, built.optimizer))
    return Saver(Path(run) / "checkpoint", built.model, built.optimizer, background=background)


def check(run: Path) -> None:
    """Fail if what was saved last is not there, whole, and known by its step."""
    newest, problems = folder.newest_verified(folder.finished(run / "checkpoint"))
    if noted(run) == 0 and newest is None:
        return
    assert newest is not None, problems
    assert problems == []
    step = folder.step_of(newest)
    # The kill may have come between the save and the note of it; in the background, a save later.
    assert noted(run) <= step <= noted(run) + 2
    assert state.read(newest).step == step
    assert len(tensors.inspect(newest).sizes) >= 3
    note(run, step)


def test_a_kill_at_any_moment_leaves_the_last_checkpoint_whole(
    tiny_data, tmp_path, fault_seed, nightly, figure
):
    kills, draw, cut = 200 if nightly else 20, random.Random(fault_seed), 0
    config = compose(tiny_data)
    runs = {False: tmp_path / "plain", True: tmp_path / "real"}
    for n in range(kills):
        (ranks := tmp_path / f"ranks_{n}").mkdir()
        (run := runs[n % 2 == 1]).mkdir(exist_ok=True)
        # The same run goes on, on one rank and on two.
        world_size = 1 + n // 2 % 2
        args = (draw.random() < 0.5, draw.randrange(world_size), draw.uniform(0, 0.3))
        model = config if n % 2 else None
        # A rank whose peer was killed fails in a collective, or is killed as well.
        with pytest.raises(RuntimeError, match=r"died|gloo"):
            run_ranks(save_until_killed, world_size, ranks, model, str(run), *args, timeout_s=60)
        check(run)
        cut += bool(folder.leftovers(run / "checkpoint"))
    assert min(noted(run) for run in runs.values()) > 0
    figure("R2", kills=kills, amid_a_save=cut, lost=0)


# Where a process kills itself: what is replaced, and by what.


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_after(target: Callable[..., Any]) -> Callable[..., Any]:
    def done(*args: object, **kwargs: object) -> None:
        target(*args, **kwargs)
        die()

    return done


def dying_at(target: Callable[..., Any], call: int) -> Callable[..., Any]:
    calls = []

    def counted(*args: object, **kwargs: object) -> Any:
        calls.append(1)
        return die() if len(calls) == call else target(*args, **kwargs)

    return counted


def dying_on(target: Callable[..., Any], end: str, *, after: bool) -> Callable[..., Any]:
    """Die at the renaming of a file or folder whose name ends so."""

    def renamed(path: Path, new: Any) -> Any:
        if not path.name.endswith(end):
            return target(path, new)
        if after:
            target(path, new)
        return die()

    return renamed


def half_deleted(path: Path) -> None:
    (path / folder.MANIFEST).unlink()
    die()


def points() -> dict[str, tuple[Any, str, Any, bool]]:
    """Return each named point: the owner, the name and the replacement of a function, and whether
    the checkpoint that was being written is there in the end."""
    from torch.distributed.checkpoint import filesystem

    rename, writer = Path.rename, filesystem.FileSystemWriter

    def renaming(end: str, *, after: bool) -> tuple[Any, str, Any, bool]:
        return Path, "rename", dying_on(rename, end, after=after), after

    written, listed = dying_after(tensors.write), dying_after(folder.write_manifest)
    return {
        "before the tensors": (tensors, "write", die, False),
        "amid the tensors": (filesystem, "_write_item", dying_at(filesystem._write_item, 2), False),
        "before the index": (writer, "finish", die, False),
        "after the tensors": (tensors, "write", written, False),
        "before the manifest": (folder, "write_manifest", die, False),
        "amid the manifest": renaming("json.tmp", after=False),
        "after the manifest": (folder, "write_manifest", listed, False),
        "before the rename": renaming("0.tmp", after=False),
        "after the rename": renaming("0.tmp", after=True),
        "before a deletion": (folder, "prune", die, True),
        "amid a deletion, its name gone": (shutil, "rmtree", die, True),
        "amid a deletion, some files gone": (shutil, "rmtree", half_deleted, True),
    }


def save_and_die(run: str, step: int, point: str) -> None:
    """Save a step, which must clean up; then die in the save of the next one, at a named point."""
    checkpoints = Path(run) / "checkpoint"
    with saver(Path(run), Plain(), keep=1) as target:
        target.save_now(run_state(step))
        assert folder.leftovers(checkpoints) == []
        assert [folder.step_of(path) for path in folder.finished(checkpoints)] == [step]
        owner, name, replacement, _ = points()[point]
        setattr(owner, name, replacement)
        target.save_now(run_state(step + 10))


def test_a_kill_at_each_named_point_leaves_a_whole_checkpoint(tmp_path, figure):
    run, step = tmp_path / "run", 10
    checkpoints = run / "checkpoint"
    for point, (*_, there) in points().items():
        ranks = tmp_path / point
        ranks.mkdir()
        with pytest.raises(RuntimeError, match="died"):
            run_ranks(save_and_die, 1, ranks, str(run), step, point, timeout_s=60)
        newest, problems = folder.newest_verified(folder.finished(checkpoints))
        assert problems == [], point
        assert newest == folder.step_folder(checkpoints, step + 10 if there else step), point
        assert state.read(newest).step == folder.step_of(newest)
        left = [path.name for path in folder.leftovers(checkpoints)]
        assert len(left) == (0 if point in ("after the rename", "before a deletion") else 1), point
        # The next save is of the step that was cut, or the one after that.
        step = folder.step_of(newest) + 10
    figure("R2", points=list(points()))


def test_the_points_are_ones_that_a_save_passes(tmp_path):
    """Without a kill the same process goes on: what is replaced is what is called."""
    from saving import alone, save

    called = []
    with alone(), pytest.MonkeyPatch.context() as patch:
        save(tmp_path, 10)
        for owner, name in {(owner, name) for owner, name, *_ in points().values()}:
            original = getattr(owner, name)

            def passing(*args: Any, original: Any = original, name: str = name, **more: Any) -> Any:
                called.append(name)
                return original(*args, **more)

            patch.setattr(owner, name, passing)
        save(tmp_path, 20, keep=1)
    assert {name for _, name, *_ in points().values()} <= set(called)
    with suppress(FileNotFoundError):
        shutil.rmtree(tmp_path / "checkpoint")
