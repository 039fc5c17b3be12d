"""Training that explodes is stopped or rolled back, and normal training is left alone (R12)."""

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jobs import compose
from ranks import run_ranks

from mbrec.checkpoint import folder
from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.config.settings import Data

STEPS = 110
JOB = ["trainer.global_batch_size=64", f"trainer.steps={STEPS}", "trainer.epochs=9"]
JOB += ["checkpoint.every=10", "checkpoint.keep=99", "data.shuffle_rows=2000"]


def explode(trainer: Any, sharded: Any, kind: str, at: int) -> None:
    """From step `at` on, multiply the learning rates by 1e4; or, then, a head's weights."""
    warm_up, heads = trainer.warmup.step, sharded.model.module.heads

    @torch.no_grad()
    def changed(step: int) -> None:
        warm_up(step)
        if step == at and kind == "weights":
            for parameter in heads.mlps["ctr"].parameters():
                parameter.mul_(100)
        if step >= at and kind == "rates":
            for group in trainer.optimizer.param_groups:
                group["lr"] *= 1e4

    trainer.warmup.step = changed


def attempt(data: str, run: str, seed: int, kind: str | None, options: list[str]) -> dict[str, Any]:
    from mbrec.distributed import process
    from mbrec.job import build

    config = compose(Path(data), *JOB, f"trainer.seed={seed}", *options)
    trainer, sharded = build.trainer(config, process.start(), Path(run))
    at, rolled_back = random.Random(seed).randint(40, 90), []
    if kind is not None:
        explode(trainer, sharded, kind, at)
    warm_up, calm = trainer.warmup.step, trainer.max_rollbacks

    def ending(step: int) -> None:
        # What made it explode is over once it was rolled back.
        if kind is not None and trainer.max_rollbacks < calm:
            if not rolled_back:
                rolled_back.append(step - 1)
            trainer.warmup.step = type(trainer.warmup).step.__get__(trainer.warmup)
        warm_up(step)

    trainer.warmup.step = ending
    message, losses, record = "", [], trainer.monitor.record

    def traced(step: int, outputs: Any, rates: Any) -> None:
        losses.append(float(outputs.losses_K.sum()))
        record(step, outputs, rates)

    trainer.monitor.record = traced
    try:
        trainer.fit()
    except FloatingPointError as error:
        message = str(error)
    names = sorted(path.name for path in (Path(run) / "checkpoint").glob("step_*"))
    found = {"at": at, "message": message, "step": trainer.step, "losses": losses, "names": names}
    return {**found, "rolled_back": rolled_back}


def attempts(data: str, run: str, cases: list[tuple[int, str | None, list[str]]]) -> list[Any]:
    return [attempt(data, f"{run}/{i}", *case) for i, case in enumerate(cases)]


def good(result: dict[str, Any]) -> list[int]:
    return [int(name[5:]) for name in result["names"] if "." not in name]


def test_every_explosion_is_caught_in_time_and_no_normal_run_is(
    tiny_data, tmp_path, nightly, fault_seed, figure
):
    count = 20 if nightly else 2
    seeds = [(fault_seed + i) % 2**31 for i in range(count)]
    kinds = [("rates", "weights")[i % 2] for i in range(count)]
    cases = [(seed, kind, []) for seed, kind in zip(seeds, kinds, strict=True)]
    cases += [(seed, None, []) for seed in seeds]
    (results,) = run_ranks(
        attempts, 1, tmp_path, str(tiny_data), str(tmp_path / "runs"), cases, timeout_s=280
    )
    latest = 0
    for case, result in zip(cases[:count], results[:count], strict=True):
        assert result["message"], case
        delay = result["step"] - result["at"] + 1
        assert 0 < delay <= 10, (case, delay)
        latest = max(latest, delay)
        # What was saved while it exploded is not what a restart would take.
        assert good(result), case
        assert max(good(result)) < result["at"], (case, result["names"])
    for case, result in zip(cases[count:], results[count:], strict=True):
        assert (result["message"], result["step"]) == ("", STEPS), case
    figure("R12", explosions=count, caught=count, latest_step=latest, normal=count, false_alarms=0)


def test_a_rolled_back_run_goes_on_from_before_with_later_rows(tiny_data, tmp_path):
    options = ["guard.explosion=rollback"]
    cases = [(7, "rates", options), (8, "weights", options)]
    for results in run_ranks(attempts, 2, tmp_path, str(tiny_data), str(tmp_path / "runs"), cases):
        for case, result in zip(cases, results, strict=True):
            assert (result["message"], result["step"]) == ("", STEPS), case
            before = result["losses"][20 : result["at"] - 1]
            assert max(result["losses"][-10:]) < 3 * max(before), case
            aside = [name for name in result["names"] if folder.EXPLODED in name]
            assert all(int(name[5:13]) >= result["at"] - 5 for name in aside), case
            assert STEPS in good(result)


def test_a_roll_back_without_a_sound_checkpoint_stops(tiny_data, tmp_path):
    options = ["guard.explosion=rollback", "checkpoint.every=null"]
    ((result,),) = run_ranks(
        attempts, 1, tmp_path, str(tiny_data), str(tmp_path / "runs"), [(7, "rates", options)]
    )
    assert "explodes" in result["message"] or "finite" in result["message"]


@pytest.mark.parametrize(
    "options",
    [["balancer=equal", "monitor.balance=false"], ["balancer=multibalance", "hook.lag=1"]],
    ids=["without statistics", "lag"],
)
def test_an_explosion_is_seen_where_each_rank_has_its_own_losses_alone(
    tiny_data, tmp_path, options
):
    case = (3, "weights", [*options, "guard.explosion=rollback"])
    one, two = run_ranks(attempts, 2, tmp_path, str(tiny_data), str(tmp_path / "runs"), [case])
    assert [one[0][key] for key in ("message", "step", "names")] == ["", STEPS, two[0]["names"]]
    aside = [int(name[5:13]) for name in one[0]["names"] if folder.EXPLODED in name]
    assert all(step >= one[0]["at"] - 5 for step in aside)
    assert len(one[0]["rolled_back"]) == 1
    assert one[0]["rolled_back"] == two[0]["rolled_back"]
    assert 0 <= one[0]["rolled_back"][0] - one[0]["at"] < 10


def resumed(data: str, run: str) -> dict[str, Any]:
    """Train and save, resume, and explode two steps later."""
    from mbrec.distributed import process
    from mbrec.job import build, resume

    runtime = process.start()
    found: dict[str, Any] = {}
    for steps in (60, 110):
        config = compose(Path(data), *JOB, f"trainer.steps={steps}", "checkpoint.every=null")
        source = resume.source(config, Path(run))
        trainer, sharded = build.trainer(config, runtime, Path(run), source=source)
        if source is not None:
            explode(trainer, sharded, "rates", 62)
            with pytest.raises(FloatingPointError) as error:
                trainer.fit()
            found = {"message": str(error.value)}
        else:
            trainer.fit()
    found["names"] = sorted(path.name for path in (Path(run) / "checkpoint").glob("step_*"))
    return found


def test_the_checkpoint_that_a_run_was_resumed_from_is_not_put_aside(tiny_data, tmp_path):
    (result,) = run_ranks(resumed, 1, tmp_path, str(tiny_data), str(tmp_path / "run"))
    assert result["names"] == ["step_00000060"]


def write_rows(folder: Path, labels: np.ndarray, split: str) -> None:
    rng = np.random.default_rng(len(labels))
    columns = {
        "user": rng.integers(100, size=len(labels)),
        # Nothing that a label could be learned from.
        "x": np.full(len(labels), 0.5, np.float32),
        "click": labels.astype(np.float32),
    }
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


def rare_negatives(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.random(size) < 0.9985


def returning_gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft labels that hardly differ, until they become ordinary ones of the same rate."""
    soft = 0.547 + 0.003 * rng.normal(size=size)
    return np.where(np.arange(size) < size // 2, soft, rng.random(size) < 0.547)


def note_norm(hook: Any, norms: list[float]) -> None:
    norms.append(float(hook.grad_norms[0]))


def real_runs(data: str, folder: str, made: str, default: list[str]) -> list[dict[str, Any]]:
    """Train five jobs as `mbrec.train` does; return what came of each."""
    from mbrec.distributed import process
    from mbrec.job import build

    own = Columns(
        categorical={"user": Categorical(cardinality=100)},
        numerical={"x": Numerical()},
        labels={"click": "click"},
    )
    small = ["tasks=[ctr]", "balancer=equal", "trainer.global_batch_size=64", "data.order=exact"]
    jobs: list[tuple[str, list[str]]] = [
        ("", default),
        ("rare negatives", small),
        ("returning gradient", [*small, "data.shuffle_rows=0"]),
        ("", [*default, "optimizer.table_lr=100"]),
        ("", [*default, "optimizer.dense_lr=1"]),
    ]
    found = []
    for number, (name, options) in enumerate(jobs):
        config = compose(Path(data), *options)
        if name:
            config.data = Data(
                f"{made}/{name}",
                ["train.parquet"],
                ["evaluation.parquet"],
                own,
                order=config.data.order,
                shuffle_rows=config.data.shuffle_rows,
            )
        trainer, sharded = build.trainer(config, process.start(), Path(folder) / str(number))
        norms, message = [], ""
        trainer.monitor.flushed = partial(note_norm, sharded.hook, norms)
        try:
            trainer.fit()
        except FloatingPointError as error:
            message = str(error)
        found.append({"step": trainer.step, "message": message, "norms": norms})
    return found


def test_five_real_runs_are_told_apart(tiny_data, tmp_path):
    made, rng = tmp_path / "made", np.random.default_rng(0)
    for name, labels in (
        ("rare negatives", rare_negatives),
        ("returning gradient", returning_gradient),
    ):
        (made / name).mkdir(parents=True)
        write_rows(made / name, labels(rng, 64 * 400), "train")
        write_rows(made / name, labels(rng, 64 * 400)[-2000:], "evaluation")
    default = ["trainer.epochs=3", "tasks=[ctr]"]
    (runs,) = run_ranks(
        real_runs, 1, tmp_path, str(tiny_data), str(tmp_path / "runs"), str(made), default
    )
    healthy, rare, returning, tables, dense = runs
    assert [run["message"] for run in (healthy, rare, returning)] == ["", "", ""]
    assert (rare["step"], returning["step"]) == (400, 400)
    # The gradient has been as small, and has come back, as it did where a guard ended the run.
    assert min(returning["norms"]) < 1e-4 < 3e-3 < returning["norms"][-1]
    for run in (tables, dense):
        assert "the loss of task 'ctr' has grown since step 2" in run["message"]
        assert run["step"] <= 10
