"""A kill at any moment loses no checkpoint that was there, and blocks none that comes (R2)."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from jobs import compose
from ranks import run_ranks
from saving import run_state, saver

from mbrec.checkpoint import folder, state, tensors

SAVED = "saved"


def note(run: Path, step: int) -> None:
    """Note that a step was saved; survives the kill of who notes it."""
    with (run / SAVED).open("a") as file:
        file.write(f"{step}\n")


def noted(run: Path) -> int:
    lines = (run / SAVED).read_text().splitlines() if (run / SAVED).exists() else []
    return max(map(int, lines), default=0)


def kill_after(seconds: float) -> None:
    """Have another process kill this one."""
    victim = os.getpid()
    if os.fork() == 0:
        time.sleep(seconds)
        if os.getppid() == victim:
            os.kill(victim, signal.SIGKILL)
        os._exit(0)


def save_until_killed(config: Any, run: str, background: bool, victim: int, after_s: float) -> None:
    """Go on from the newest checkpoint, and save step after step of a real model."""
    from mbrec import build, distributed, resume
    from mbrec.checkpoint import restore
    from mbrec.interrupt import Interrupt
    from mbrec.trainer import Progress

    runtime = distributed.start()
    build.open_data(config, runtime)
    sharded = build.shard(config, runtime)
    config.checkpoint.background = background
    keeper = resume.keeper(config, sharded, Path(run), Interrupt(), None)
    assert keeper is not None
    layout, step = resume.layout(config, sharded), 0
    if (newest := restore.newest(Path(run), needed=False)) is not None:
        step = folder.step_of(newest)
        loaded = restore.load(newest, sharded.model, sharded.hook, sharded.optimizer, layout)
        assert loaded.step == step
    if runtime.rank == victim:
        kill_after(after_s)
    for later in range(step + 1, step + 10_000):
        progress = Progress(later, {}, {"dense": 0.1}, [], 0)
        # The first is the step that the last kill has perhaps left unfinished.
        keeper.save(progress, now=later == step + 1)
        if runtime.rank == 0 and keeper.saver.last_step is not None:
            note(Path(run), keeper.saver.last_step)


def check(run: Path) -> None:
    """Fail if what was saved last is not there, whole, and known by its step."""
    newest, problems = folder.newest_verified(run / "checkpoint")
    if noted(run) == 0 and newest is None:
        return
    assert newest is not None, problems
    assert problems == []
    step = folder.step_of(newest)
    # The kill may have come between the save and the note of it; in the background, a save later.
    assert noted(run) <= step <= noted(run) + 2
    assert state.read(newest).step == step
    assert len(tensors.inspect(newest).sizes) > 20


@pytest.mark.parametrize(("world_size", "kills"), [(1, 14), (2, 6)])
def test_a_kill_at_any_moment_leaves_the_last_checkpoint_whole(
    tiny_data, tmp_path, fault_seed, nightly, figure, world_size, kills
):
    kills, draw = kills * 10 if nightly else kills, random.Random(fault_seed)
    config, run = compose(tiny_data), tmp_path / "run"
    run.mkdir()
    steps, cut = 0, 0
    for n in range(kills):
        ranks = tmp_path / f"ranks_{n}"
        ranks.mkdir()
        args = (config, str(run), draw.random() < 0.5, draw.randrange(world_size))
        with pytest.raises(RuntimeError, match="died"):
            run_ranks(
                save_until_killed, world_size, ranks, *args, draw.uniform(0, 0.3), timeout_s=60
            )
        check(run)
        cut += bool(folder.leftovers(run / "checkpoint"))
        steps += 1
    figure("R2", **{f"kills_{world_size}_ranks": steps, f"amid_a_save_{world_size}_ranks": cut})
    figure("R2", lost=0)


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

    return {
        "before the tensors": (tensors, "write", die, False),
        "amid the tensors": (filesystem, "_write_item", dying_at(filesystem._write_item, 2), False),
        "before the index": (writer, "finish", die, False),
        "after the tensors": (tensors, "write", dying_after(tensors.write), False),
        "before the manifest": (folder, "write_manifest", die, False),
        "amid the manifest": renaming("json.tmp", after=False),
        "after the manifest": (
            folder,
            "write_manifest",
            dying_after(folder.write_manifest),
            False,
        ),
        "before the rename": (
            Path,
            "rename",
            dying_on(rename, f"0{unfinished}", after=False),
            False,
        ),
        "after the rename": renaming("0.tmp", after=True),
        "before a deletion": (folder, "prune", die, True),
        "amid a deletion, its name gone": (shutil, "rmtree", die, True),
        "amid a deletion, some files gone": (shutil, "rmtree", half_deleted, True),
    }


def save_and_die(run: str, step: int, point: str) -> None:
    """Save a step, which must clean up; then die in the save of the next one, at a named point."""
    from saving import Plain

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
        newest, problems = folder.newest_verified(checkpoints)
        assert problems == [], point
        assert newest == folder.step_folder(checkpoints, step + 10 if there else step), point
        assert state.read(newest).step == folder.step_of(newest)
        left = [path.name for path in folder.leftovers(checkpoints)]
        assert len(left) == (0 if point in ("after the rename", "before a deletion") else 1), point
        # The next save is of the step that was cut, or the one after that.
        step = folder.step_of(newest) + 10
    figure("R2", points=list(points()), lost=0)


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
