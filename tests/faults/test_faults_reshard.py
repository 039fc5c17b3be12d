"""A checkpoint loads under any plan and number of ranks: to the last bit, or not at all (R5)."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import compose, gather
from ranks import run_ranks

PLANS = ["table_wise", "row_wise", "column_wise", "data_parallel"]
# Wide enough for two shards of columns; what stands on the tables is small.
DIM, SHARD_DIM = 256, 128
SMALL = [f"model.embedding_dim={DIM}", "model.numerical=[8]", "model.interaction.low_rank=2"]
SMALL += ["model.interaction.hidden=[16]", "trainer.global_batch_size=64", "trainer.steps=3"]
TABLES = ["user", "item", "tags"]
Case = tuple[int, str]


def build_under(data: str, run: Path, plan: str) -> tuple[Any, Any, Any]:
    """Return a trainer whose tables are all placed in one way, its model and its layout."""
    from mbrec.config.model import Sharding
    from mbrec.distributed import process
    from mbrec.job import build, resume

    config, runtime = compose(Path(data), *SMALL), process.start()
    # Not by an override: the configuration refuses to train column-wise tables.
    config.model.sharding = dict.fromkeys(TABLES, Sharding[plan])
    trainer, sharded = build.trainer(config, runtime, run)
    return trainer, sharded, resume.layout(config, sharded)


def unscored(trainer: Any) -> Any:
    """Leave out the evaluation at the end, which takes longer than the steps."""
    trainer.evaluator.evaluate = lambda model: {}
    return trainer


def local_parts(state: dict[str, Any]) -> dict[str, list[tuple[list[int], torch.Tensor]]]:
    """Return this rank's parts of each tensor: offsets, and the values themselves."""
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

    found = {}
    for name, value in state.items():
        if isinstance(value, ShardedTensor):
            shards = value.local_shards()
            found[name] = [(list(s.metadata.shard_offsets), s.tensor.detach()) for s in shards]
        else:
            found[name] = [([0] * value.dim(), value.detach())]
    return found


def copies(parts: dict[str, list[tuple[list[int], torch.Tensor]]]) -> dict[str, Any]:
    return {name: [(o, t.clone().numpy()) for o, t in shards] for name, shards in parts.items()}


def check_column_shards(parts: dict[str, Any]) -> None:
    """Each shard of columns has its own momentum, whose place follows from that of its columns."""
    momenta = {name.split(".")[-2]: name for name in parts if name.endswith(".momentum1")}
    assert momenta
    for table, name in momenta.items():
        weight = f"model.{name.removeprefix('optimizer.').rpartition(f'.{table}.momentum1')[0]}"
        assert len(parts[weight]) == len(parts[name]) > 0
        for ((row, column), values), ((start,), momentum) in zip(
            parts[weight], parts[name], strict=True
        ):
            assert values.shape == (len(momentum), SHARD_DIM)
            assert (row, start) == (0, column // SHARD_DIM * len(momentum))


def save(data: str, folder: str) -> dict[str, Any]:
    """Train a few steps under each plan and save, as a run does; return what was saved."""
    import torch.distributed as dist

    from mbrec.checkpoint import tensors

    saved = {}
    for plan in PLANS:
        trainer, sharded, _ = build_under(data, run_of(folder, (dist.get_world_size(), plan)), plan)
        unscored(trainer).fit()
        saved[plan] = copies(local_parts(tensors.collect(sharded.model, sharded.optimizer)))
        if plan == "column_wise":
            check_column_shards(saved[plan])
    return saved


def load(data: str, folder: str, cases: list[Case]) -> dict[tuple[str, Case], dict[str, Any]]:
    """Load each checkpoint under each plan; return what became of it on this rank."""
    from mbrec.checkpoint import restore, tensors

    found = {}
    for plan in PLANS:
        _, sharded, layout = build_under(data, Path(folder) / "unused", plan)
        tensors.start_state(sharded.optimizer)
        for case in cases:
            parts = local_parts(tensors.collect(sharded.model, sharded.optimizer))
            # What no training gives: a tensor that is left out of a load cannot pass.
            with torch.no_grad():
                marks = [t.fill_(77) for shards in parts.values() for _, t in shards]
            source, refusal = run_of(folder, case) / "checkpoint" / "step_00000003", None
            try:
                restore.load(source, sharded.model, sharded.hook, sharded.optimizer, layout)
            except ValueError as error:
                refusal = str(error)
            parts = local_parts(tensors.collect(sharded.model, sharded.optimizer))
            if plan == "column_wise" and refusal is None:
                check_column_shards(parts)
            whole = np.load(Path(folder) / f"whole_{case[0]}_{case[1]}.npz")
            found[plan, case] = {
                "refusal": refusal,
                "untouched": all(bool((mark == 77).all()) for mark in marks),
                "wrong": differing(parts, whole),
                "elements": {name: sum(t.numel() for _, t in s) for name, s in parts.items()},
                "plan": layout.describe_plan(),
            }
    return found


def differing(parts: dict[str, Any], whole: Any) -> list[str]:
    """Return the names whose parts are not, bit for bit, those of the whole tensors."""
    wrong = sorted(parts.keys() - set(whole.files))
    for name in parts.keys() & set(whole.files):
        for offsets, part in parts[name]:
            region = tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))
            if whole[name][region].tobytes() != part.numpy().tobytes():
                wrong.append(name)
    return wrong


def run_of(folder: str, case: Case) -> Path:
    return Path(folder) / f"{case[1]}_on_{case[0]}"


def gather_all(ranks: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the whole tensors, in their types, from the parts of all ranks."""
    names = sorted({name for rank in ranks for name in rank})
    whole = gather([{name: rank.get(name, []) for name in names} for rank in ranks])
    types = {n: part.dtype for rank in ranks for n, shards in rank.items() for _, part in shards}
    return {name: tensor.numpy().astype(types[name]) for name, tensor in whole.items()}


@pytest.fixture(scope="module")
def worlds(request) -> list[int]:
    return [1, 2, 4] if request.config.option.nightly else [1, 2]


@pytest.fixture(scope="module")
def saved(worlds, tiny_data, tmp_path_factory) -> tuple[Path, dict[Case, dict[str, int]]]:
    """The folder of all runs, and of each run the size of each tensor."""
    folder, sizes = tmp_path_factory.mktemp("reshard"), {}
    for world in worlds:
        ranks = run_ranks(save, world, folder, str(tiny_data), str(folder))
        for plan in PLANS:
            whole = gather_all([rank[plan] for rank in ranks])
            np.savez(folder / f"whole_{world}_{plan}.npz", **whole)  # pyright: ignore
            sizes[world, plan] = {name: array.size for name, array in whole.items()}
    return folder, sizes


def outcome(ranks: list[dict[str, Any]], sizes: dict[str, int]) -> str:
    """Return what all ranks say of one load."""
    if all(rank["refusal"] and rank["untouched"] for rank in ranks):
        return "refused"
    held = {n: sum(rank["elements"].get(n, 0) for rank in ranks) for n in sizes}
    # In one place, or copied to each rank.
    complete = all(held[name] in (size, size * len(ranks)) for name, size in sizes.items())
    sound = complete and not any(rank["refusal"] or rank["wrong"] for rank in ranks)
    return "exact" if sound else "wrong"


def test_each_plan_and_world_loads_each_other_exactly_or_refuses_before_a_change(
    saved, worlds, tiny_data, figure
):
    folder, sizes = saved
    found, refusals = {}, {}
    plans: dict[Case, str] = {}
    for world in worlds:
        ranks = run_ranks(load, world, folder, str(tiny_data), str(folder), list(sizes))
        for plan, case in product(PLANS, sizes):
            results = [rank[plan, case] for rank in ranks]
            plans[world, plan] = results[0]["plan"]
            found[case, (world, plan)] = outcome(results, sizes[case])
            refusals[case, (world, plan)] = {result["refusal"] for result in results}
    counts = {kind: list(found.values()).count(kind) for kind in ("exact", "refused", "wrong")}
    figure("R5", pairs=len(found), **counts)
    # Row-wise Adagrad keeps a momentum a row, and column-wise tables one for each of their shards.
    expected = {
        (a, b): "refused" if (a[1] == "column_wise") != (b[1] == "column_wise") else "exact"
        for a, b in product(sizes, sizes)
    }
    assert found == expected
    for (before, now), said in refusals.items():
        if found[before, now] == "refused":
            (message,) = said
            assert f"the plan was: {plans[before]}; it is now: {plans[now]}" in message
            assert "momentum1" in message


CUT, STEPS = 20, 70
EXACT = ["data.order=exact", "trainer.global_batch_size=64", f"trainer.steps={STEPS}"]
EXACT += ["data.shuffle_rows=1000", f"checkpoint.every={CUT}", "checkpoint.keep=9"]
DEALT_CUT = 11
DEALT = ["data.shuffle_rows=1000", "data.synthetic.rows_per_shard=1024"]
PLAN_ON = {
    1: "+model.sharding={user: data_parallel, item: table_wise, tags: row_wise}",
    2: "+model.sharding={user: row_wise, item: data_parallel, tags: table_wise}",
}


def train_all(jobs: dict[str, list[str]], data: str, folder: str) -> dict[str, Any]:
    """Train some jobs one after another; return what each did at each step."""
    from mbrec.distributed import process
    from mbrec.job import build, resume

    found = {}
    for name, overrides in jobs.items():
        config, runtime = compose(Path(data), *overrides), process.start()
        run = Path(folder) / name
        source = resume.source(config, run)
        trainer, sharded = build.trainer(config, runtime, run, source=source)
        steps = trace(trainer, sharded.hook)
        unscored(trainer).fit()
        found[name] = {"steps": steps, "num_rows": trainer.loader.reader.num_rows}
    return found


def trace(trainer: Any, hook: Any) -> list[dict[str, Any]]:
    record, steps = trainer.monitor.record, []

    def traced(step: int, outputs: Any, rates: Any) -> None:
        rows = outputs.rows_B[outputs.rows_B >= 0].tolist()
        seen = {"losses": hook.losses.tolist(), "weights": hook.weights.tolist()}
        steps.append({"step": step, "rows": rows, **seen})
        record(step, outputs, rates)

    trainer.monitor.record = traced
    return steps


@pytest.fixture(scope="module")
def moved(tiny_data, tmp_path_factory) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """(job, ranks that it began on) -> what each rank did; jobs that go on do so on the others."""
    folder = tmp_path_factory.mktemp("moved")
    found = {}

    def run(world: int, jobs: dict[str, list[str]]) -> None:
        jobs = {name: [*overrides, PLAN_ON[world]] for name, overrides in jobs.items()}
        ranks = run_ranks(train_all, world, folder, jobs, str(tiny_data), str(folder))
        for name in jobs:
            found[name] = [rank[name] for rank in ranks]

    def begin(world: int) -> dict[str, list[str]]:
        cut = [*DEALT, f"trainer.steps={DEALT_CUT}"]
        return {f"whole_{world}": EXACT, f"begun_{world}": cut}

    def go_on(world: int) -> dict[str, list[str]]:
        whole = folder / f"whole_{world}" / "checkpoint" / f"step_{CUT:08d}"
        return {
            f"resumed_{world}": [*EXACT, f"resume.path={whole}"],
            f"rest_{world}": [*DEALT, f"resume.path={folder / f'begun_{world}'}"],
        }

    run(2, begin(2))
    run(1, go_on(2) | begin(1))
    run(2, go_on(1))
    return found


@pytest.mark.parametrize("begun_on", [1, 2])
def test_the_loss_curve_goes_on_under_another_number_of_ranks_and_plan(moved, begun_on, figure):
    whole, resumed = moved[f"whole_{begun_on}"], moved[f"resumed_{begun_on}"]
    assert len(whole) == begun_on and len(resumed) == 3 - begun_on
    steps, again = whole[0]["steps"][CUT:], resumed[0]["steps"]
    assert [s["step"] for s in again] == [s["step"] for s in steps] == list(range(CUT + 1, 71))
    apart = {}
    for kind in ("losses", "weights"):
        one, two = (
            torch.tensor([s[kind] for s in run], dtype=torch.float64) for run in (steps, again)
        )
        assert float((one - one[0]).abs().max()) > 0.005  # they move
        apart[kind] = float((one - two).abs().max())
    figure("R5", **{f"{kind}_from_{begun_on}": value for kind, value in apart.items()})
    assert max(apart.values()) < 1e-6, apart


@pytest.mark.parametrize("begun_on", [1, 2])
def test_each_row_that_was_unread_is_trained_on_once_after_a_change_of_ranks(moved, begun_on):
    begun, rest = moved[f"begun_{begun_on}"], moved[f"rest_{begun_on}"]
    assert (len(begun), len(rest)) == (begun_on, 3 - begun_on)
    assert {len(rank["steps"]) for rank in begun} == {DEALT_CUT}
    assert rest[0]["steps"][0]["step"] == DEALT_CUT + 1

    def rows(ranks: list[dict[str, Any]]) -> list[int]:
        return [row for rank in ranks for step in rank["steps"] for row in step["rows"]]

    assert len(rows(begun)) == DEALT_CUT * 256
    assert all(len(rank["steps"]) > 10 for rank in rest)
    assert sorted(rows(begun) + rows(rest)) == list(range(begun[0]["num_rows"]))
