"""What the options of the synthetic log plant: drift, scales, history, raw numbers and delay."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mbrec.columns import manifest
from mbrec.columns.schema import HIDDEN_PREFIX, Categorical, Columns, Numerical
from mbrec.config.synthetic import BASE_RATES, LABELS, ORACLE_PREFIX, SIGMAS, Conflict, Synthetic
from mbrec.prepare.synthetic.files import write
from mbrec.prepare.synthetic.shard import Shard
from mbrec.prepare.synthetic.world import World

IDS = ["user", "item", "tags", *(f"x{column}" for column in range(8))]
DENSE_ALONE = [1.0, 0.0, 0.0, 0.0, 0.0]


def tiny(**changes: Any) -> Synthetic:
    return replace(Synthetic(rows=8_192, num_users=500, num_items=200, num_tags=50), **changes)


@pytest.fixture(scope="module")
def default() -> pa.Table:
    """The tiny world without options."""
    return World(tiny()).shard(0, 6_554).table()


def logits(shard: Shard) -> np.ndarray:
    return np.log(shard.probabilities / (1 - shard.probabilities))


def effects(shard: Shard) -> np.ndarray:
    """The effects of the dense features, (9, 5), where nothing else has one; the last is 1's."""
    features = np.column_stack([shard.dense, np.ones(len(shard.dense))]).astype(np.float64)
    return np.linalg.lstsq(features, logits(shard), rcond=None)[0]


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=0)[:, None] * np.linalg.norm(second, axis=0)
    return first.T @ second / norms


def all_options() -> Synthetic:
    return tiny(drift=1.0, history_length=4, raw_dense=True, delay=2.0, horizon=1.0, days=5)


# Drift


@pytest.mark.parametrize("angle", [0.5, math.pi / 2])
def test_drift_turns_each_tasks_effects_by_its_angle(angle: float) -> None:
    rows = 100_000_000  # so that a shard is a moment
    world = World(tiny(rows=rows, drift=angle, shares=DENSE_ALONE, conflict=Conflict.conflict))
    shards = world.settings.train_shards + world.settings.evaluation_rows // 8_192
    moments = [effects(world.shard(shard, 200))[:-1] for shard in (0, shards // 2, shards)]
    start, middle, end = moments
    np.testing.assert_allclose(np.diag(cosines(start, middle)), math.cos(angle / 2), atol=1e-3)
    np.testing.assert_allclose(np.diag(cosines(start, end)), math.cos(angle), atol=1e-3)
    for moment in moments:
        np.testing.assert_allclose(cosines(moment, moment), cosines(start, start), atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(moment, axis=0), SIGMAS, rtol=0.02)


@pytest.mark.parametrize("conflict", list(Conflict), ids=lambda conflict: conflict.name)
def test_drift_keeps_rates_variances_and_correlations(conflict: Conflict) -> None:
    world = World(tiny(rows=10_000_000, drift=2.0, conflict=conflict))
    last = world.settings.train_shards + world.settings.evaluation_rows // 8_192
    shard = world.shard(last, 50_000)
    assert shard.days.min() == 9
    p = shard.probabilities
    weights = np.ones_like(p)
    weights[:, 1] = p[:, 0]
    for task, rate in enumerate(BASE_RATES):
        assert np.average(p[:, task], weights=weights[:, task]) == pytest.approx(rate, rel=0.06)
    np.testing.assert_allclose(np.corrcoef(logits(shard).T), conflict.correlation, atol=0.06)
    np.testing.assert_allclose(logits(shard).std(axis=0), SIGMAS, rtol=0.04)


def test_drift_changes_no_feature(default: pa.Table) -> None:
    drifted = World(tiny(drift=1.0)).shard(0, 6_554).table()
    assert drifted.select(IDS).equals(default.select(IDS))
    assert not drifted["click"].equals(default["click"])


def test_days_count_up_to_the_last_rows() -> None:
    settings = tiny(rows=1_000, days=7, rows_per_shard=64)
    world = World(settings)
    train = [world.shard(k, 64).days for k in range(settings.train_shards)]
    held_out = [world.shard(settings.train_shards + k, 64).days for k in range(4)]
    days = np.concatenate([*train[:-1], train[-1][: 800 - 12 * 64], *held_out])[:1_000]
    assert np.array_equal(days, np.arange(1_000) * 7 // 1_000)
    assert days.dtype == np.int32


# Scale


def test_scale_multiplies_a_tasks_deviation_and_gradient() -> None:
    plain, scaled = (
        World(tiny(scale=scale, shares=DENSE_ALONE)).shard(0, 100_000)
        for scale in ([1.0] * 5, [1.0, 1.0, 0.25, 1.0, 1.0])
    )
    ratio = logits(scaled).std(axis=0) / logits(plain).std(axis=0)
    np.testing.assert_allclose(ratio, [1, 1, 0.25, 1, 1], rtol=1e-2)
    for task, rate in enumerate(BASE_RATES):
        if task != 1:
            assert scaled.probabilities[:, task].mean() == pytest.approx(rate, rel=0.05)

    def gradient(shard: Shard) -> float:
        likes = shard.labels[:, 2] - shard.labels[:, 2].mean()
        return float(np.linalg.norm(likes @ shard.dense.astype(np.float64)))

    assert gradient(scaled) / gradient(plain) == pytest.approx(0.25, abs=0.05)


# History


def test_history_holds_up_to_l_popular_items_and_is_sometimes_empty() -> None:
    shard = World(tiny(history_length=6)).shard(0, 8_000)
    assert shard.history is not None
    offsets, values = shard.history.offsets.to_numpy(), shard.history.values.to_numpy()
    lengths = np.diff(offsets)
    assert set(lengths) == set(range(7))
    np.testing.assert_allclose(np.bincount(lengths) / 8_000, 1 / 7, atol=0.02)
    assert len(values) == offsets[-1] == lengths.sum()
    assert values.min() >= 0
    assert values.max() < 200
    shares = [np.bincount(ids, minlength=200) / len(ids) for ids in (values, shard.items)]
    np.testing.assert_allclose(*shares, atol=0.015)


def test_history_changes_no_other_column(default: pa.Table) -> None:
    world = World(tiny(history_length=6))
    table = world.shard(0, 6_554).table()
    assert table.column_names.index("history") == 4
    assert table.drop_columns("history").equals(default)
    assert not world.shard(1, 100).table()["history"].equals(table["history"][:100])


# Raw numbers


def test_raw_numbers_are_the_exponentials_with_one_in_twenty_missing(default: pa.Table) -> None:
    table = World(tiny(raw_dense=True)).shard(0, 6_554).table()
    raw = [f"x{column}_raw" for column in range(8)]
    assert table.drop_columns(raw).equals(default)
    for name in raw:
        assert table[name].null_count == pytest.approx(0.05 * 6_554, abs=75)
        values, there = table[name].to_numpy(), table[name].is_valid().to_numpy()
        x = table[name.removesuffix("_raw")].to_numpy()
        np.testing.assert_allclose(np.log(values[there]), x[there], rtol=1e-4, atol=1e-6)


# Delayed feedback


def test_share_of_missing_conversions_is_the_planted_one() -> None:
    settings = tiny(rows=400_000, delay=3.0, horizon=0.5)
    shard = World(settings).shard(0, settings.rows)
    assert shard.delays is not None
    assert shard.delays.mean() == pytest.approx(3.0, rel=0.02)
    truth = shard.labels[:, 0] * shard.conversion_label
    observed = shard.labels[:, 1]
    assert not (observed > truth).any()
    train, days = settings.train_rows, 8.0
    # The mean of exp(-(t + .5) / 3) over the t = 0 to 8 days that are left.
    expected = math.exp(-0.5 / 3) * 3 / days * (1 - math.exp(-days / 3))
    conversions = truth[:train].sum()
    missing = 1 - observed[:train].sum() / conversions
    assert missing == pytest.approx(
        expected, abs=4 * math.sqrt(expected * (1 - expected) / conversions)
    )
    late, early = slice(train // 2, train), slice(train // 2)
    assert observed[late].sum() / truth[late].sum() < observed[early].sum() / truth[early].sum()
    assert np.array_equal(observed[train:], truth[train:])


def test_delay_changes_conversions_alone(default: pa.Table) -> None:
    table = World(tiny(delay=2.0)).shard(0, 6_554).table()
    hidden = [ORACLE_PREFIX + name for name in ("eventual_conversion", "conversion_delay")]
    others = [name for name in default.column_names if name != "conversion"]
    assert table.column_names == default.column_names + hidden
    assert table.select(others).equals(default.select(others))
    eventual = table[hidden[0]].to_numpy()
    assert np.array_equal(eventual, default["conversion"].to_numpy())
    assert table["conversion"].to_numpy().sum() < eventual.sum()


def test_longer_wait_shows_more_conversions() -> None:
    sums = [
        World(tiny(delay=2.0, horizon=horizon)).shard(0, 6_554).labels[:, 1].sum()
        for horizon in (0.0, 2.0, 1e9)
    ]
    assert sums[0] < sums[1] < sums[2] == World(tiny()).shard(0, 6_554).labels[:, 1].sum()


# Files


def test_files_and_manifest_describe_the_options(tmp_path: Path) -> None:
    settings = all_options()
    write(settings, tmp_path / "log")
    world = json.loads((tmp_path / "log" / "world.json").read_text())
    assert world["settings"] == settings.plain()
    assert world["raw_dense"]["x3_raw"] == {"of": "x3", "transform": "exp", "nulls": 0.05}
    found = manifest.load_folder(tmp_path / "log")
    for split in ("train", "evaluation"):
        table = parquet.read_table(tmp_path / "log" / split)
        assert found.splits[split].rows == len(table)
        for label in LABELS:
            assert found.splits[split].label_rates[label] == table[label].to_numpy().mean()
    train = parquet.read_table(tmp_path / "log" / "train")
    columns = found.columns
    assert set(columns) == {name for name in train.column_names if name[:2] != HIDDEN_PREFIX}
    assert columns["x0_raw"].nulls == train["x0_raw"].null_count > 0
    assert columns["x1"].mean == pytest.approx(train["x1"].to_numpy().mean(), abs=1e-6)
    assert [columns[n].cardinality for n in ("user", "item", "tags", "history")] == [
        500,
        200,
        50,
        200,
    ]
    assert columns["history"].max_length == 4


def test_no_feature_label_or_weight_can_name_an_oracle_column() -> None:
    names = World(all_options()).shard(0, 10).table().column_names
    oracles = [name for name in names if name.startswith(ORACLE_PREFIX)]
    assert len(oracles) == 9
    user = {"user": Categorical(cardinality=500)}
    for name in oracles:
        assert name.startswith(HIDDEN_PREFIX)
        for refused in (
            {"categorical": {"leak": Categorical(cardinality=500, column=name)}},
            {"categorical": {name: Categorical(hash_size=500)}},
            {"categorical": user, "numerical": {"leak": Numerical(column=name)}},
            {"categorical": user, "labels": {"leak": name}},
            {"categorical": user, "weight": name},
        ):
            with pytest.raises(ValueError, match=name):
                Columns(**refused)
