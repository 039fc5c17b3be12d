"""The interval covers the true difference as often as it says; memory does not grow with rows."""

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mbrec.metrics.outputs import Outputs
from mbrec.study import intervals
from mbrec.study.intervals import Interval, Predictions, difference, group_sums, interval, ne_parts
from mbrec.training import predictions

PAIRS, CLUSTERS, ROWS_EACH = 5, 150, 10


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def draw(generator, clusters=CLUSTERS, rows_each=ROWS_EACH):
    """Draw the labels of all rows, and what both runs of each pair predict (2, S, rows).

    Clusters have something that no model sees, and the treatment raises the predictions of some
    and lowers others. A seed has an effect on each of its runs, and one on their clusters.
    """
    level_C = generator.normal(size=clusters)
    unseen_C = level_C - 1 + generator.normal(size=clusters)
    positive = generator.random((clusters, rows_each)) < sigmoid(unseen_C)[:, None]
    logits_2SC = np.tile(0.8 * level_C - 1, (2, PAIRS, 1))
    logits_2SC[1] += generator.normal(0.2, 0.8, clusters)
    logits_2SC += generator.normal(0, 0.45, (2, PAIRS, 1))
    logits_2SC += generator.normal(0, 0.2, (2, PAIRS, clusters))
    predictions_2SB = np.repeat(sigmoid(logits_2SC), rows_each, axis=2)
    return positive.flatten().astype(np.float64), predictions_2SB


def true_difference():
    """Return the difference of NE over all rows and seeds."""
    generator, means = np.random.default_rng(7), []
    for _ in range(4000):  # seeds; each on other rows
        labels_B, predictions_2SB = draw(generator, 20)
        means.append(ne_parts(predictions_2SB, np.broadcast_to(labels_B, predictions_2SB.shape)))
    loss, positives, rows = np.stack(means).sum((0, 3, 4))
    rate = positives / rows
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return float(np.diff(loss / rows / entropy)[0])


def interval_of(labels_B, predictions_2SB, cluster_B):
    runs = predictions_2SB.reshape(2 * PAIRS, -1)
    sums = [group_sums(cluster_B, ne_parts(run_B, labels_B)) for run_B in runs]
    return interval(np.stack(sums).reshape(2, PAIRS, *sums[0].shape), "ne", replicates=200)


@pytest.mark.parametrize("draws", [400, pytest.param(4000, marks=pytest.mark.nightly)])
def test_95_percent_of_the_intervals_cover_the_truth_and_fewer_of_rows_or_seeds_alone(draws):
    generator, truth = np.random.default_rng(draws), true_difference()
    covered = {"both": 0, "seeds alone": 0, "rows alone": 0}
    for _ in range(draws):
        found = interval_of(*draw(generator), np.repeat(np.arange(CLUSTERS), ROWS_EACH))
        away = abs(found.mean - truth)
        covered["both"] += away <= found.half
        covered["seeds alone"] += away <= 2.776 * found.seed_error  # t of four degrees
        covered["rows alone"] += away <= 1.96 * found.row_error
    shares = {name: count / draws for name, count in covered.items()}
    # Two percentage points, or three standard errors of so many draws.
    tolerance = max(0.02, 3 * math.sqrt(0.95 * 0.05 / draws))
    assert shares["both"] == pytest.approx(0.95, abs=tolerance), shares
    assert max(shares["seeds alone"], shares["rows alone"]) < 0.9, shares


def test_rows_of_a_cluster_are_no_independent_evidence():
    drawn = draw(np.random.default_rng(0))
    row = np.arange(CLUSTERS * ROWS_EACH)
    clustered, apart = interval_of(*drawn, row // ROWS_EACH), interval_of(*drawn, row)
    assert clustered.row_error > 1.3 * apart.row_error
    assert (clustered.mean, clustered.groups) == (pytest.approx(apart.mean), CLUSTERS)


@pytest.fixture
def write(tmp_path):
    """Write predictions as an evaluation does: `ranks` files of rows of one data set."""

    def written(name, predictions_B, labels_B, *, ranks=1, masks_B=None, file="rows.parquet"):
        def locate(rows):
            return [str(tmp_path / file)] * len(rows), rows

        for rank in range(ranks):
            rows_B = torch.arange(rank, len(labels_B), ranks)
            columns = (
                predictions_B,
                labels_B,
                np.ones(len(labels_B)) if masks_B is None else masks_B,
            )
            values = [torch.tensor(np.float64(column))[rows_B][:, None] for column in columns]
            path, reader = tmp_path / name / f"part-{rank}.parquet", SimpleNamespace(locate=locate)
            with predictions.writer(path, ["ctr"], cast(Any, reader)) as add:
                add(Outputs(torch.zeros(1), values[0], values[1], values[2], rows_B, None))
        return tmp_path / name

    return written


def runs(write, *, ranks=1):
    labels_B, predictions_2SB = draw(np.random.default_rng(3))
    baseline, treated = (
        [write(f"{ranks}-{k}-{s}", run_B, labels_B, ranks=ranks) for s, run_B in enumerate(side)]
        for k, side in enumerate(predictions_2SB)
    )
    return (baseline, treated), (labels_B, predictions_2SB)


def auc(labels_B, predictions_B):
    positives, negatives = predictions_B[labels_B == 1], predictions_B[labels_B == 0]
    above = positives[:, None] - negatives
    return float((above > 0).mean() + (above == 0).mean() / 2)


def ne(labels_B, predictions_B):
    loss, positives, rows = ne_parts(predictions_B, labels_B).sum(1)
    base, _, _ = ne_parts(np.full(len(labels_B), positives / rows), labels_B).sum(1)
    return loss / base


FIGURES = {"ne": ne, "auc": auc, "calibration": lambda y, p: p.sum() / y.sum()}


@pytest.mark.parametrize("figure", FIGURES)
def test_the_mean_is_the_difference_and_its_row_error_that_of_resampled_rows(write, figure):
    paths, (labels_B, predictions_2SB) = runs(write)
    found = difference(*paths, figure, task="ctr")
    of = FIGURES[figure]
    base_S, new_S = ([of(labels_B, run_B) for run_B in side] for side in predictions_2SB)
    assert found.mean == pytest.approx(np.mean(new_S) - np.mean(base_S), abs=1e-4)
    error = np.std(np.subtract(new_S, base_S), ddof=1) / PAIRS**0.5
    assert found.seed_error == pytest.approx(error, rel=0.03)
    one = difference(paths[0][:1], paths[1][:1], figure, task="ctr")
    generator, resampled = np.random.default_rng(0), []
    for _ in range(400):
        rows = generator.integers(0, len(labels_B), len(labels_B))
        new, base = (of(labels_B[rows], side[0][rows]) for side in reversed(predictions_2SB))
        resampled.append(new - base)
    assert one.row_error == pytest.approx(np.std(resampled), rel=0.15)


def test_one_pair_says_nothing_of_other_seeds(write):
    paths, _ = runs(write)
    found = difference(paths[0][:1], paths[1][:1], task="ctr")
    assert (found.num, found.half, found.is_real) == (1, math.inf, False)
    assert 0 < found.row_error < math.inf


def test_files_and_batches_and_ranks_do_not_matter_and_few_rows_are_held_at_once(
    write, monkeypatch
):
    expected = difference(*runs(write)[0], "auc", task="ctr")
    monkeypatch.setattr(intervals, "BATCH_ROWS", 100)
    held, plain = [], intervals.group_sums
    monkeypatch.setattr(
        intervals,
        "group_sums",
        lambda groups, parts: held.append(len(groups)) or plain(groups, parts),
    )
    found = difference(*runs(write, ranks=3)[0], "auc", task="ctr")
    assert max(held) == 100
    assert sum(held) == 2 * PAIRS * CLUSTERS * ROWS_EACH
    for name in ("mean", "half", "seed_error", "row_error"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9), name


def test_clusters_are_a_column_of_the_data_set_that_the_rows_came_from(write, tmp_path):
    users = np.arange(CLUSTERS * ROWS_EACH) // ROWS_EACH
    data = pa.table({"user": [f"u{user}" for user in users], "nobody": [None] * len(users)})
    pq.write_table(data, tmp_path / "rows.parquet", row_group_size=70)
    paths, drawn = runs(write, ranks=2)
    found = difference(*paths, task="ctr", cluster="user")
    assert found.groups == pytest.approx(CLUSTERS, abs=25)  # of 4,096; some share one
    assert found.row_error == pytest.approx(interval_of(*drawn, users).row_error, rel=0.25)
    with pytest.raises(ValueError, match="expected a cluster in each row"):
        difference(*paths, task="ctr", cluster="nobody")
    with pytest.raises(ValueError, match="expected the column users in the predictions or in"):
        difference(*paths, task="ctr", cluster="users")


def test_the_same_command_gives_the_same_interval_and_another_seed_another(write):
    paths, _ = runs(write)
    first, again, other = (difference(*paths, task="ctr", seed=seed) for seed in (0, 0, 1))
    assert isinstance(first, Interval)
    assert first == again != other
    assert other.half == pytest.approx(first.half, rel=0.1)
    assert difference(*paths, task="ctr", level=0.5).half < first.half


def test_masked_rows_do_not_count(write):
    labels_B, predictions_2SB = draw(np.random.default_rng(3))
    masks_B = np.arange(len(labels_B)) < 600
    run = Predictions(write("masked", predictions_2SB[0, 0], labels_B, masks_B=masks_B), "ctr")
    loss, _, rows = run.sums("ne").sum(0)
    assert rows == 600
    assert loss == pytest.approx(ne_parts(predictions_2SB[0, 0], labels_B)[0, :600].sum())


def test_what_cannot_be_compared_is_refused_with_the_fix(write, tmp_path):
    labels_B, predictions_2SB = draw(np.random.default_rng(3))
    values_B = predictions_2SB[0, 0]
    run = write("run", values_B, labels_B)
    others = {
        "same rows and labels": write("other", values_B, 1 - labels_B),
        "got others in .* evaluate both with": write("file", values_B, labels_B, file="b"),
        "expected finite values": write(
            "nan", np.where(values_B > 0.3, values_B, np.nan), labels_B
        ),
        "expected rows with a label_ctr": tmp_path / "nothing",
    }
    (tmp_path / "nothing").mkdir()
    for words, other in others.items():
        with pytest.raises(ValueError, match=words):
            difference([run], [other], task="ctr")
    with pytest.raises(ValueError, match="got none of the name label_cvr, prediction_cvr"):
        difference([run], [run], task="cvr")
    with pytest.raises(ValueError, match="per seed, got 1 and 2"):
        difference([run], [run, run], task="ctr")
    with pytest.raises(ValueError, match="figure to be one of ne, auc, calibration, got gauc"):
        difference([run], [run], "gauc", task="ctr")
    with pytest.raises(ValueError, match="expected 2 replicates or more and a level"):
        difference([run], [run], task="ctr", level=95)
    few, new = (write(name, values_B[:5], np.eye(5)[0]) for name in ("few", "new"))
    with pytest.raises(ValueError, match="both labels among the rows"):
        difference([few], [new], task="ctr")
