"""A run that was cut goes on as if it had not been: to the last bit."""

import contextlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import compose
from ranks import run_ranks

STEPS, STOPS_ASKED = 100, [28, 48]
# A request waits for two votes, while the pipeline has some batches in flight.
LATEST = 12
SHARDING = "{user: table_wise, item: row_wise, tags: data_parallel}"
JOB = [
    "trainer.global_batch_size=128",
    f"trainer.steps={STEPS}",
    "trainer.epochs=9",
    f"+model.sharding={SHARDING}",
    "checkpoint.every=7",
    "data.shuffle_rows=1000",
]


def run(data: str, run_folder: str, overrides: list[str], stop_at: int | None) -> dict[str, Any]:
    """Train until a step, then ask to stop as a signal would; return what training changed."""
    from mbrec.checkpoint import tensors
    from mbrec.distributed import process
    from mbrec.distributed.interrupt import Interrupt, Interrupted
    from mbrec.job import build, resume

    config = compose(Path(data), *overrides)
    runtime = process.start()
    # What a process that was just started would have.
    torch.manual_seed(runtime.rank)
    interrupt = Interrupt(runtime.store if runtime.world_size > 1 else None)
    source = resume.source(config, Path(run_folder))
    trainer, sharded = build.trainer(
        config, runtime, Path(run_folder), source=source, interrupt=interrupt
    )
    record, losses, rates = trainer.monitor.record, [], []

    def traced(step: int, outputs: Any, learning_rates: Any) -> None:
        losses.append(outputs.losses_K.tolist())
        rates.append(dict(learning_rates))
        # A module that draws random numbers would.
        torch.rand(3)
        record(step, outputs, learning_rates)
        if step == stop_at and runtime.rank == 0:
            interrupt.request("a test")

    trainer.monitor.record = traced
    first = trainer.step
    with contextlib.suppress(Interrupted):
        trainer.fit()
    state = tensors.collect(sharded.model, sharded.optimizer)
    return {
        "first": first,
        "step": trainer.step,
        "losses": losses,
        "rates": rates,
        "tensors": parts(state),
        "random": torch.get_rng_state().tolist(),
        "position": trainer.loader.state(trainer._taken),
        "levels": None if trainer.explosion is None else trainer.explosion.state(),
    }


def parts(state: dict[str, Any]) -> dict[str, Any]:
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

    found = {}
    for name, value in state.items():
        if isinstance(value, ShardedTensor):
            shards = [(s.metadata.shard_offsets, s.tensor) for s in value.local_shards()]
        else:
            shards = [([0] * value.dim(), value)]
        found[name] = [(list(o), t.detach().clone().numpy()) for o, t in shards]
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["tensors"].keys() == other["tensors"].keys()
    for name, shards in one["tensors"].items():
        for (offsets, value), (there, found) in zip(shards, other["tensors"][name], strict=True):
            assert offsets == there
            assert value.tobytes() == found.tobytes(), name
    assert one["random"] == other["random"]
    assert one["position"] == other["position"]
    assert one["levels"] == other["levels"]


@pytest.fixture(scope="module")
def undisturbed(tiny_data, tmp_path_factory):
    ranks = tmp_path_factory.mktemp("undisturbed")
    return run_ranks(run, 2, ranks, str(tiny_data), str(ranks / "run"), JOB, None)


@pytest.mark.slow
@pytest.mark.parametrize("background", [pytest.param(True, marks=pytest.mark.faults), False])
def test_three_pieces_of_a_run_are_the_run_to_the_last_bit(
    undisturbed, tiny_data, tmp_path, background, figure
):
    job = [*JOB, f"checkpoint.background={str(background).lower()}"]
    target = str(tmp_path / "run")
    pieces = []
    for end in (*STOPS_ASKED, None):
        ranks = tmp_path / f"piece_{end}"
        ranks.mkdir()
        pieces.append(run_ranks(run, 2, ranks, str(tiny_data), target, job, end))
    assert pieces[-1][0]["step"] == STEPS
    for asked, piece in zip(STOPS_ASKED, pieces, strict=False):
        assert asked < piece[0]["step"] < asked + LATEST
    for before, after in pairwise(pieces):
        assert after[0]["first"] == before[0]["step"] == before[1]["step"]
    for rank in range(2):
        whole = undisturbed[rank]
        losses = [loss for piece in pieces for loss in piece[rank]["losses"]]
        rates = [rate for piece in pieces for rate in piece[rank]["rates"]]
        assert len(losses) == STEPS
        assert losses == whole["losses"]
        assert rates == whole["rates"]
        assert_same(pieces[-1][rank], whole)
    figure("R4", steps=STEPS, pieces=len(pieces), ranks=2, bits_that_differ=0)


@pytest.mark.slow
def test_the_state_covers_tables_moments_and_the_balancer(undisturbed):
    names = set(undisturbed[0]["tensors"]) | set(undisturbed[1]["tensors"])
    for table in ("user", "item", "tags"):
        (momentum,) = [n for n in names if n.startswith("optimizer.") and f"{table}.momentum1" in n]
        assert f".{table}.weight." in momentum
    assert any(name.endswith("exp_avg_sq") for name in names)
    assert "model.heads.hook.balancer.weight.cvr" in names


SHORT = 12
# On two ranks sums do not depend on the order of the ranks; from three on they do.
MIXED = "{user: data_parallel, item: row_wise, tags: data_parallel}"
MORE_RANKS = [
    pytest.param(3, 0, MIXED, id="3-mixed-0"),
    pytest.param(3, 2, MIXED, marks=pytest.mark.nightly, id="3-mixed-2"),
    *(
        pytest.param(
            ranks,
            workers,
            f"{{user: {kind}, item: {kind}, tags: {kind}}}",
            marks=pytest.mark.nightly,
            id=f"{ranks}-{kind}-{workers}",
        )
        for ranks in (3, 4)
        for kind in ("row_wise", "data_parallel")
        for workers in (0, 2)
    ),
]


def saved_state(run_folder: Path) -> dict[str, Any]:
    """Return the last `state.json`, without the time of day."""
    state = json.loads((run_folder / f"checkpoint/step_{SHORT:08d}/state.json").read_text())
    del state["time"]
    return state


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "workers", "sharding"), MORE_RANKS)
def test_more_than_two_ranks_resume_to_the_last_bit(tiny_data, tmp_path, ranks, workers, sharding):
    job = [
        f"trainer.global_batch_size={48 * ranks}",
        f"trainer.steps={SHORT}",
        f"+model.sharding={sharding}",
        f"data.num_workers={workers}",
    ]
    found = {}
    for name, end in (("whole", None), ("cut", 1), ("cut", None)):
        folder = tmp_path / f"{name}_{end}"
        folder.mkdir()
        target = str(tmp_path / name)
        found[name] = run_ranks(run, ranks, folder, str(tiny_data), target, job, end)
    cut_at = found["cut"][0]["first"]
    assert 1 < cut_at < SHORT
    for whole, cut in zip(found["whole"], found["cut"], strict=True):
        assert_same(cut, whole)
        assert cut["losses"] == whole["losses"][cut_at:]
    assert saved_state(tmp_path / "cut") == saved_state(tmp_path / "whole")
