"""W ranks train the model that one rank trains, whatever its features are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jobs import compose, gather, parameters
from ranks import run_ranks

from mbrec.columns.schema import (
    Categorical,
    Columns,
    MissingId,
    MissingNumber,
    Numerical,
    Order,
    OutOfVocabulary,
    Transform,
)
from mbrec.config.settings import Config, Data
from mbrec.prepare.writer import DatasetWriter

STEPS, BATCH, ROWS = 30, 64, 2_100
OOV, ROW = OutOfVocabulary.oov, MissingId.row
WORDS = ["lima", "oslo", "rome", "bonn"]
UNKNOWN = ["pune", "kyiv"]
COLUMNS = Columns(
    {
        "item": Categorical(60),
        "history": Categorical(table="item", multi_hot=True, weights="history_weights"),
        "query": Categorical(hash_size=40, salt=3),
        "city": Categorical(4, vocabulary="few.parquet", out_of_vocabulary=OOV, missing=ROW),
        "age": Categorical(num_buckets=5, column="years", missing=ROW),
    },
    {
        "visits": Numerical(standardise=True, missing=MissingNumber.mean),
        "price": Numerical(
            Transform.log1p, standardise=True, missing=MissingNumber.indicator, clip=[0.0, 50.0]
        ),
    },
    {"click": "is_click", "conversion": "is_click * (purchases > 0)"},
    weight="weight",
)


def make_rows(n: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    # Items from 30 on are met in histories alone, those from 50 on nowhere.
    lengths = random.integers(0, 4, n)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    total = int(lengths.sum())
    item = random.integers(0, 30, n)
    click = random.random(n) < 0.2 + 0.02 * item

    def with_nulls(values: np.ndarray) -> pa.Array:
        return pa.array(values, mask=random.random(n) < 0.1)

    return pa.table(
        {
            "item": item,
            "history": pa.ListArray.from_arrays(offsets, pa.array(random.integers(20, 50, total))),
            "history_weights": pa.ListArray.from_arrays(
                offsets, pa.array(random.random(total, dtype=np.float32) + 0.5)
            ),
            "query": random.choice([f"word {i}" for i in range(99)], n),
            "city": with_nulls(random.choice([*WORDS, *UNKNOWN], n)),
            "years": with_nulls(random.integers(10, 90, n).astype(float)),
            "visits": with_nulls(random.normal(5, 2, n)),
            "price": with_nulls(random.exponential(20, n)),
            "is_click": click,
            "purchases": random.integers(0, 3, n),
            "weight": random.random(n) + 0.5,
        }
    )


def configure(folder: Path) -> Config:
    config = compose(folder, "model.embedding_dim=8", "optimizer.dense_lr=0.001")
    config.data = Data(str(folder / "set"), ["train/*.parquet"], ["test/*.parquet"], COLUMNS)
    config.data.order, config.data.shuffle_rows = Order.exact, 500
    config.trainer = replace(config.trainer, global_batch_size=BATCH, steps=STEPS)
    return config


def train(folder: str, run: str) -> dict[str, Any]:
    from mbrec.distributed import process
    from mbrec.job import build

    trainer, sharded = build.trainer(configure(Path(folder)), process.start(), Path(run))
    record, hook, weights = trainer.monitor.record, sharded.hook, []
    assert hook is not None

    def traced(step: int, outputs: Any, rates: Any) -> None:
        weights.append(hook.weights.tolist())
        record(step, outputs, rates)

    trainer.monitor.record = traced
    first = parameters(sharded.model)
    report = trainer.fit()
    return {
        "first": first,
        "last": parameters(sharded.model),
        "weights": weights,
        "report": report,
        "lost": trainer.evaluator.lost,
    }


@pytest.fixture(scope="module")
def rows() -> dict[str, pa.Table]:
    return {"train": make_rows(ROWS, 0), "test": make_rows(300, 1)}


@pytest.fixture(scope="module")
def runs(rows, tmp_path_factory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("tables")
    with DatasetWriter(folder / "set", rows["train"].schema, row_group_rows=256) as writer:
        for split, table in rows.items():
            writer.add(split, table)
        writer.finish()
    pq.write_table(pa.table({"value": WORDS}), folder / "set" / "few.parquet")
    results = {}
    for world_size in (1, 2):
        ranks = folder / f"ranks_{world_size}"
        ranks.mkdir()
        results[world_size] = run_ranks(train, world_size, ranks, str(folder), str(ranks / "run"))
    return results


def tables(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.split(".")[-2]: value for key, value in state.items() if ".embedding_bags." in key}


def whole(runs: dict[int, Any], world_size: int, when: str) -> dict[str, torch.Tensor]:
    return gather([run[when] for run in runs[world_size]])


@pytest.mark.slow
def test_parameters_of_two_ranks_equal_those_of_one(runs):
    one, two = (whole(runs, n, "last") for n in (1, 2))
    assert one.keys() == two.keys()
    sizes = {name: len(table) for name, table in tables(one).items()}
    # 4 words and 5 buckets, and rows for unknown and missing ones.
    assert sizes == {"item": 60, "query": 40, "city": 6, "age": 7}
    for key, value in one.items():
        assert not value.isnan().any(), key
        assert float((value - two[key]).abs().max()) < 1e-5, key


@pytest.mark.slow
def test_task_weights_of_two_ranks_equal_those_of_one(runs):
    first, second = (run["weights"] for run in runs[2])
    assert first == second
    one, two = torch.tensor(runs[1][0]["weights"]), torch.tensor(first)
    assert len(one) == STEPS
    assert float((one - two).abs().max()) < 1e-6
    assert float((one - one[0]).abs().max()) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_tables_begin_as_their_name_says_and_rows_move_that_any_feature_meets(runs, world_size):
    from mbrec.distributed.table_init import _table_rows

    first, last = (tables(whole(runs, world_size, when)) for when in ("first", "last"))
    for name, table in first.items():
        made = _table_rows(name, 0, len(table), 8, len(table) ** -0.5, seed=0)
        assert torch.equal(made.double(), table), name
    moved = {name: (last[name] != table).any(1) for name, table in first.items()}
    assert moved["item"].tolist() == [True] * 50 + [False] * 10
    # The rows of unknown and missing cities, and of missing ages, are trained; of unknown ages
    # there are none.
    assert moved["city"].tolist() == [True] * 6
    assert moved["age"].tolist() == [True] * 5 + [False, True]


@pytest.mark.slow
def test_evaluations_of_two_ranks_equal_those_of_one(runs, rows):
    one, two = runs[1][0]["report"], runs[2][0]["report"]
    assert one.keys() == {"ctr", "cvr", "conv_imp"}
    for task, figures in one.items():
        for name, value in figures.items():
            assert two[task][name] == pytest.approx(value, abs=2e-5), (task, name)
    cities = rows["test"]["city"].to_pylist()
    share = sum(city in UNKNOWN for city in cities) / len(cities)
    assert share > 0.1
    for run in (*runs[1], *runs[2]):
        assert run["lost"] == {"out_of_vocabulary/city": pytest.approx(share)}
