"""Values that are not finite, on one rank, in every place they can come from (R11)."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import compose
from ranks import run_ranks

NAN, INF = float("nan"), float("inf")
STEP, LAST, BAD_RANK = 6, 9, 1
# Place -> what the message has to name.
PLACES = {
    "dense": "numerical feature 'x3' on rank 1",
    "label": "labels of task 'cvr' on rank 1",
    "weight": "sample weights on rank 1",
    "loss": "of task 'cvr' on rank 1",
    "gradient": "gradient of task 'cvr' on rank 1",
    "activation": "loss nan of task 'ctr' on rank 1",
}


def poison(trainer: Any, sharded: Any, place: str, value: float) -> None:
    """Make batch STEP of this rank bad."""
    from mbrec.reader.loader import Loader

    heads, bottom = model_parts(sharded)

    class Poisoned(Loader):
        def __iter__(self) -> Any:
            for number, batch in enumerate(super().__iter__(), 1):
                if number == STEP and place in ("dense", "label", "weight"):
                    spoil(batch, place, value)
                yield batch

    trainer.loader = Poisoned(trainer.loader.reader)
    if place in ("loss", "gradient"):
        spoil_head(trainer, heads.mlps["cvr"], place, value)
    elif place == "activation":
        spoil_activation(trainer, bottom.interaction, value)
    elif place == "below":
        spoil_gradient_below(trainer, bottom, value)


def model_parts(sharded: Any) -> tuple[Any, Any]:
    ranker = sharded.model.module
    return ranker.heads, ranker.bottom


def spoil(batch: Any, place: str, value: float) -> None:
    if place == "dense":
        batch.dense_BN[0, 3] = value
    elif place == "label":
        batch.labels_BK[:, 1], batch.masks_BK[:, 1] = value, 1.0
    else:
        batch.weights_B[0] = value


def spoil_head(trainer: Any, head: Any, place: str, value: float) -> None:
    forward = head.forward

    def changed(view: torch.Tensor) -> torch.Tensor:
        if trainer.guard.step_number != STEP or not head.training:
            return forward(view)
        if place == "loss":
            return forward(view) * value
        seen = view.view_as(view)
        if seen.requires_grad:
            seen.register_hook(lambda grad: grad * value)
        return forward(seen)

    head.forward = changed


def spoil_activation(trainer: Any, interaction: Any, value: float) -> None:
    forward = interaction.forward

    def changed(features: torch.Tensor) -> torch.Tensor:
        out = forward(features)
        return out * value if trainer.guard.step_number == STEP and interaction.training else out

    interaction.forward = changed


def spoil_gradient_below(trainer: Any, bottom: Any, value: float) -> None:
    forward = bottom.interaction.forward

    def changed(features: torch.Tensor) -> torch.Tensor:
        if trainer.guard.step_number == STEP and features.requires_grad:
            features = features.view_as(features)
            features.register_hook(lambda grad: grad * value)
        return forward(features)

    bottom.interaction.forward = changed


def values(sharded: Any) -> dict[str, bytes]:
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

    from mbrec.checkpoint import tensors

    found = {}
    for name, value in tensors.collect(sharded.model, sharded.optimizer).items():
        shards = value.local_shards() if isinstance(value, ShardedTensor) else None
        parts = [value] if shards is None else [shard.tensor for shard in shards]
        assert all(bool(torch.isfinite(part).all()) for part in parts), name
        found[name] = b"".join(part.detach().numpy().tobytes() for part in parts)
    return found


def attempt(data: str, run: str, place: str, value: float, options: list[str]) -> dict[str, Any]:
    """Train over a bad batch; tell what happened, and what it changed."""
    from mbrec.distributed import process
    from mbrec.job import build

    job = ["trainer.global_batch_size=128", f"trainer.steps={LAST}", "checkpoint.enabled=false"]
    config = compose(Path(data), *job, *options)
    runtime = process.start()
    trainer, sharded = build.trainer(config, runtime, Path(run))
    if runtime.rank == BAD_RANK or runtime.world_size == 1:
        poison(trainer, sharded, place, value)
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.disable(logging.NOTSET)
    logging.getLogger("mbrec.training.finite_guard").addHandler(handler)
    warm_up, before = trainer.warmup.step, {}

    def remembering(step: int) -> None:
        if step in (STEP, STEP + 1):
            before[step] = values(sharded)
        warm_up(step)

    trainer.warmup.step = remembering
    message = kind = ""
    try:
        trainer.fit()
    except FloatingPointError as error:
        message, kind = str(error), type(error).__name__
    logging.getLogger("mbrec.training.finite_guard").removeHandler(handler)
    return {
        "message": message,
        "kind": kind,
        "warnings": warnings,
        "step": trainer.step,
        "skipped": trainer.guard.skipped,
        "unchanged": (before.get(STEP + 1) or values(sharded)) == before[STEP],
        "moved_after": values(sharded) != before[STEP],
    }


def attempts(data: str, run: str, cases: list[tuple[str, float, list[str]]]) -> list[Any]:
    results = []
    for number, (place, value, options) in enumerate(cases):
        results.append(attempt(data, f"{run}/{number}", place, value, options))
    return results


SKIP = ["guard.max_skipped=2"]
# Tables are placed in every way, since each has an optimizer of its own.
PLACED = ["+model.sharding={user: table_wise, item: row_wise, tags: data_parallel}"]


def test_nothing_that_is_not_finite_reaches_a_parameter_and_all_ranks_decide_the_same(
    tiny_data, tmp_path, nightly, figure
):
    numbers = [NAN, INF] if nightly else [NAN]
    cases = [
        (place, value, [*PLACED, *options])
        for place in PLACES
        for value in numbers
        for options in ([], SKIP)
    ]
    cases += [("dense", INF, SKIP), ("gradient", INF, [])]
    ranks = run_ranks(attempts, 2, tmp_path, str(tiny_data), str(tmp_path / "runs"), cases)
    for case, *results in zip(cases, *ranks, strict=True):
        place, _, options = case
        for rank, result in enumerate(results):
            assert result["unchanged"], case
            told = result["message"] or (result["warnings"] or [""])[0]
            if SKIP[0] in options:
                assert not result["message"], case
                assert (result["step"], result["skipped"]) == (LAST, 1), case
                assert result["moved_after"], case
            else:
                assert result["step"] == STEP, case
                # A study takes the one for a result, and not the other.
                at_fault = place in ("dense", "label", "weight")
                assert result["kind"] == ("NotFiniteInputs" if at_fault else "FloatingPointError")
            if rank == 0 or SKIP[0] not in options:
                assert f"step {STEP}:" in told, case
                assert PLACES[place] in told, (case, told)
    figure("R11", places=len(PLACES), cases=len(cases), ranks=2, reached_a_parameter=0)


@pytest.mark.parametrize(
    "balancer", [pytest.param("equal", marks=pytest.mark.sentinel), "graddrop", "mgda"]
)
def test_methods_without_statistics_or_with_others_stop_as_well(tiny_data, tmp_path, balancer):
    options = [f"balancer={balancer}", "monitor.balance=false"]
    cases = [("dense", NAN, options), ("loss", INF, options)]
    for results in run_ranks(attempts, 2, tmp_path, str(tiny_data), str(tmp_path / "r"), cases):
        for case, result in zip(cases, results, strict=True):
            assert f"step {STEP}:" in result["message"], case
            assert result["step"] == STEP


def test_a_gradient_that_overflows_below_the_hook_reaches_no_table(tiny_data, tmp_path):
    # Of the second the square overflows, which is what the tables add up.
    cases = [("below", INF, SKIP), ("below", 1e25, SKIP)]
    (results,) = run_ranks(attempts, 1, tmp_path, str(tiny_data), str(tmp_path / "r"), cases)
    for result in results:
        assert "a gradient below the representation" in result["message"]
        assert "max_skipped" in result["message"]


def test_batches_are_left_out_only_as_often_as_was_said(tiny_data, tmp_path):
    options = ["guard.max_skipped=1", "trainer.global_batch_size=32"]
    (results,) = run_ranks(many, 1, tmp_path, str(tiny_data), str(tmp_path / "r"), options)
    assert results["skipped"] == 1
    assert "1 were left out" in results["message"]


def many(data: str, run: str, options: list[str]) -> dict[str, Any]:
    from mbrec.distributed import process
    from mbrec.job import build

    config = compose(Path(data), "trainer.steps=9", "checkpoint.enabled=false", *options)
    trainer, _ = build.trainer(config, process.start(), Path(run))
    read = type(trainer.loader).__iter__

    class Poisoned(type(trainer.loader)):
        def __iter__(self) -> Any:
            for number, batch in enumerate(read(self), 1):
                if number in (3, 5):
                    spoil(batch, "dense", NAN)
                yield batch

    trainer.loader = Poisoned(trainer.loader.reader)
    with pytest.raises(FloatingPointError) as error:
        trainer.fit()
    return {"message": str(error.value), "skipped": trainer.guard.skipped}
