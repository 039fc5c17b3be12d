"""Where a table is changes where it is trained, and not how."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jobs import compose, gather, parameters
from ranks import run_ranks

STEPS, WARMUP = 20, 10
JOB = [
    f"trainer.steps={STEPS}",
    "trainer.global_batch_size=64",
    "data.order=exact",
    "data.shuffle_rows=512",
    # Of the size of the denominators, so that an `eps` in another place is another model.
    "optimizer.table_eps=1e-4",
    f"optimizer.warmup_steps={WARMUP}",
]
WHOLE = "+model.sharding={user: table_wise, item: table_wise, tags: table_wise}"
MIXED = "+model.sharding={user: data_parallel, item: row_wise, tags: table_wise}"
TABLES = ["user", "item", "tags"]
COPIES = "+model.sharding={user: data_parallel, item: data_parallel, tags: data_parallel}"


def momentum(optimizer: Any) -> dict[str, Any]:
    """Return this rank's parts of the tables' momentum, under the names of a checkpoint."""
    state = optimizer.state_dict()["state"].items()
    found = {f"{key}/{name}": value for key, of in state for name, value in of.items()}
    tables = {key: value for key, value in found.items() if key.startswith("tables.")}
    return parameters(SimpleNamespace(state_dict=lambda: tables))  # pyright: ignore


def train(data: str, run: str, override: str) -> dict[str, Any]:
    from mbrec.distributed import process
    from mbrec.job import build

    config = compose(Path(data), *JOB, override)
    trainer, sharded = build.trainer(config, process.start(), Path(run))
    tables = dict(sharded.optimizer.optimizers)["tables"]
    record, trace = trainer.monitor.record, []

    def traced(step: int, outputs: Any, rates: dict[str, float]) -> None:
        assert sharded.hook is not None
        groups = [float(group["lr"]) for group in tables.param_groups]
        trace.append((sharded.hook.weights.tolist(), rates, groups))
        record(step, outputs, rates)

    trainer.monitor.record = traced
    first = parameters(sharded.model)
    trainer.fit()
    (plan,) = sharded.model.plan.plan.values()
    return {
        "kinds": {name: where.sharding_type for name, where in plan.items()},
        "first": first,
        "last": parameters(sharded.model),
        "momentum": momentum(sharded.optimizer),
        "trace": trace,
    }


@pytest.fixture(scope="module")
def runs(tiny_data, tmp_path_factory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("sharding")
    results = {}
    for name, override in {
        "whole": WHOLE,
        "mixed": MIXED,
        "copies": COPIES,
        "alone": MIXED,
    }.items():
        ranks = folder / name
        ranks.mkdir()
        args = (str(tiny_data), str(ranks / "run"), override)
        results[name] = run_ranks(train, 1 if name == "alone" else 2, ranks, *args)
    return results


def table_of(key: str) -> str:
    return key.split(".embedding_bags.")[1].split(".")[0]


@pytest.mark.slow
@pytest.mark.parametrize("other", ["mixed", "copies", "alone"])
def test_every_placement_trains_the_same_model(runs, other):
    kinds = {"user": "data_parallel", "item": "row_wise", "tags": "table_wise"}
    if other == "copies":
        kinds = dict.fromkeys(kinds, "data_parallel")
    assert [run["kinds"] for run in runs[other]] == [kinds] * len(runs[other])
    first, last = (gather([run[when] for run in runs["whole"]]) for when in ("first", "last"))
    found = gather([run["last"] for run in runs[other]])
    assert found.keys() == last.keys()
    for key, value in last.items():
        assert float((value - found[key]).abs().max()) < 1e-5, key
    moved = {table_of(k): v for k, v in last.items() if ".embedding_bags." in k}
    begun = {table_of(k): v for k, v in first.items() if ".embedding_bags." in k}
    assert all(float((moved[name] - begun[name]).abs().max()) > 0.01 for name in kinds)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["mixed", "copies"])
def test_copies_of_a_table_stay_equal_bit_for_bit(runs, other):
    one, two = (run["last"] for run in runs[other])
    copied = [name for name, kind in runs[other][0]["kinds"].items() if kind == "data_parallel"]
    keys = [k for k in one if ".embedding_bags." in k and table_of(k) in copied]
    assert len(keys) == len(copied) > 0
    assert all((one[key][0][1] == two[key][0][1]).all() for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["mixed", "copies", "alone"])
def test_momentum_has_one_name_and_value_under_every_placement(runs, other):
    whole, found = (gather_all([run["momentum"] for run in runs[n]]) for n in ("whole", other))
    assert {key.rsplit("/")[-1] for key in whole} == {f"{t}.momentum1" for t in TABLES}
    assert found.keys() == whole.keys()
    for key, value in whole.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-12)
        assert float(value.max()) > 0


def gather_all(ranks: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Gather what some ranks have no part of."""
    keys = sorted({key for rank in ranks for key in rank})
    return gather([{key: rank.get(key, []) for key in keys} for rank in ranks])


@pytest.mark.slow
@pytest.mark.parametrize("other", ["mixed", "copies", "alone"])
def test_task_weights_and_learning_rates_do_not_depend_on_the_placement(runs, other):
    whole, found = (runs[name][0]["trace"] for name in ("whole", other))
    assert len(whole) == len(found) == STEPS
    one, two = (torch.tensor([weights for weights, *_ in trace]) for trace in (whole, found))
    assert float((one - two).abs().max()) < 1e-6
    assert float((one - one[0]).abs().max()) > 0.01
    for step, (_, rates, groups) in enumerate(found, start=1):
        assert rates == pytest.approx(whole[step - 1][1])
        assert len(groups) == 1 if other == "copies" else len(groups) > 1  # fused ones and copies
        assert groups == pytest.approx([0.04 * min(1.0, step / WARMUP)] * len(groups))
