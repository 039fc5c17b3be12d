"""Metrics over ranks equal those of one process, and scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks
from sklearn.metrics import log_loss, roc_auc_score

from mbrec.metrics.outputs import Outputs
from mbrec.metrics.task_metrics import AUC_BINS, DROPPED_BITS, auc_bins
from mbrec.model.ranker import probabilities

TASKS = ["plain", "ties", "rare", "no_positive", "all_masked"]
ROWS, STEPS = 600, 5


def rows(world_size: int, rank: int, step: int) -> Outputs:
    """The slice of a rank; the same global rows whatever the number of ranks."""
    generator = torch.Generator().manual_seed(step)
    p = torch.rand(ROWS, len(TASKS), generator=generator)
    # Scores that lie in bins of their own in the AUC's histogram, so that it is exact.
    p = (p.view(torch.int32) >> DROPPED_BITS << DROPPED_BITS).view(torch.float32)
    y = (torch.rand(ROWS, len(TASKS), generator=generator) < p).float()
    masks = (torch.rand(ROWS, len(TASKS), generator=generator) < 0.7).float()
    masks *= torch.rand(ROWS, 1, generator=generator) + 0.5  # sample weights
    p[:, 1] = (p[:, 1] * 4).round() / 4 * 0.8 + 0.1
    y[:, 2] = (torch.rand(ROWS, generator=generator) < 0.005).float()
    y[:, 3] = 0.0
    masks[:, 4] = 0.0
    # one rank of two has no unmasked row of the rare task
    masks[ROWS // 2 :, 2] = 0.0
    p = torch.where(masks > 0, p, float("nan"))  # a masked row may hold anything
    part = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    empty = torch.empty(0)
    return Outputs(empty, p[part], y[part], masks[part], empty, None)


def computed(passes: int) -> list[dict]:
    import torch.distributed as dist

    from mbrec.metrics.task_metrics import TaskMetrics

    metrics = TaskMetrics(TASKS, batch_size=ROWS, device=torch.device("cpu"))
    results = [metrics.compute()]
    for _ in range(passes):
        metrics.reset()
        for step in range(STEPS):
            metrics.update([rows(dist.get_world_size(), dist.get_rank(), step)])
        metrics.compute()  # a look in between changes nothing
        results.append(metrics.compute())
    return results


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    return {n: run_ranks(computed, n, folder, 2) for n in (1, 2)}


def expected(task: str) -> dict[str, float]:
    k = TASKS.index(task)
    parts = [rows(1, 0, step) for step in range(STEPS)]
    weight = torch.cat([part.masks_BK[:, k] for part in parts]).double().numpy()
    keep = weight > 0
    p = torch.cat([part.predictions_BK[:, k] for part in parts]).double().numpy()[keep]
    y = torch.cat([part.labels_BK[:, k] for part in parts]).numpy()[keep]
    weight = weight[keep]
    rate = np.average(y, weights=weight)
    loss = log_loss(y, p, sample_weight=weight, labels=[0, 1])
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    return {
        "count": weight.sum(),
        "rate": rate,
        "ne": loss / entropy,
        "auc": roc_auc_score(y, p, sample_weight=weight),
        "calibration": (p * weight).sum() / (y * weight).sum(),
        "log_loss": loss,
    }


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("task", ["plain", "ties", "rare"])
def test_metrics_equal_those_of_scikit_learn(one_and_two, world_size, task):
    for rank in one_and_two[world_size]:
        for name, value in expected(task).items():
            assert rank[-1][task][name] == pytest.approx(value, abs=2e-6, rel=2e-6), name


def large_auc() -> tuple[float, float]:
    from mbrec.metrics.task_metrics import TaskMetrics

    generator = torch.Generator().manual_seed(0)
    p = torch.rand(400_000, 1, generator=generator)
    y = (torch.rand(400_000, 1, generator=generator) < p).float()
    metrics = TaskMetrics(["a"], batch_size=400_000, device=torch.device("cpu"))
    metrics.update([Outputs(p[0], p, y, torch.ones_like(p), p[0], None)])
    memory = sum(buffer.numel() for m in metrics._metrics for buffer in m.state_dict().values())
    assert memory < 200_000  # it does not keep the rows
    return metrics.compute()["a"]["auc"], roc_auc_score(y[:, 0], p[:, 0])


def test_auc_is_within_3e_6_on_many_rows_in_constant_memory(tmp_path):
    ((got, exact),) = run_ranks(large_auc, 1, tmp_path)
    assert got == pytest.approx(exact, abs=3e-6)


def test_two_ranks_equal_one_process_and_each_other(one_and_two):
    one, (first, second) = one_and_two[1][0], one_and_two[2]
    assert first == second
    for task in TASKS:
        for name, value in one[-1][task].items():
            expected_value = value if value is None else pytest.approx(value, rel=1e-9)
            assert first[-1][task][name] == expected_value, (task, name)


def test_what_is_undefined_is_none(one_and_two):
    figures = one_and_two[2][0][-1]
    assert figures["no_positive"]["ne"] is None
    assert figures["no_positive"]["auc"] is None
    assert figures["no_positive"]["log_loss"] > 0
    assert figures["no_positive"]["count"] > 0
    nothing = {"rate": None, "ne": None, "auc": None, "calibration": None, "log_loss": None}
    assert figures["all_masked"] == {"count": 0.0, **nothing}
    before_any_row = one_and_two[2][0][0]
    assert before_any_row["plain"] == {"count": 0.0, **nothing}


def test_reset_forgets_everything(one_and_two):
    _, first_pass, second_pass = one_and_two[2][0]
    assert first_pass == second_pass


# Of the logits: rates of positives from .0001 to .9999.
MEANS = [-10.0, -7.5, -2.0, 0.0, 2.0, 4.0, 6.0, 7.5, 10.0]
MANY = 60_000


def scored(world_size: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a rank's part of the same rows; one task per mean, twice: with ties."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(MANY, len(MEANS), generator=generator) + torch.tensor(MEANS)
    labels = torch.rand(MANY, len(MEANS), generator=generator) < logits.double().sigmoid()
    ties = (logits * 2).round() / 2
    part = slice(rank * MANY // world_size, (rank + 1) * MANY // world_size)
    return torch.cat([logits, ties], 1)[part], torch.cat([labels, labels], 1).float()[part]


def auc_by_rate() -> list[float | None]:
    import torch.distributed as dist

    from mbrec.metrics.task_metrics import TaskMetrics

    logits, labels = scored(dist.get_world_size(), dist.get_rank())
    tasks = [str(number) for number in range(logits.shape[1])]
    metrics = TaskMetrics(tasks, batch_size=MANY, device=torch.device("cpu"))
    empty = torch.empty(0)
    outputs = Outputs(empty, probabilities(logits), labels, torch.ones_like(labels), empty, None)
    metrics.update([outputs])
    return [figures["auc"] for figures in metrics.compute().values()]


def test_auc_equals_that_of_scikit_learn_at_every_rate_of_positives(tmp_path):
    logits, labels = scored(1, 0)
    right = [roc_auc_score(labels[:, k], logits[:, k]) for k in range(labels.shape[1])]
    rates = labels.mean(0)
    assert 0 < float(rates.min()) < 2e-4
    assert 2e-4 > 1 - float(rates.max()) > 0
    for world_size in (1, 2):
        for found in run_ranks(auc_by_rate, world_size, tmp_path):
            for k, auc in enumerate(found):
                # Of few positives, or few negatives, each is in a bin with some others.
                tolerance = 1e-4 if k < len(MEANS) else 1e-9
                assert auc == pytest.approx(right[k], abs=tolerance), (k, float(rates[k]))


PROBABILITIES = st.one_of(
    st.floats(0, 1),
    st.floats(-60, 60).map(lambda logit: float(torch.tensor(logit).double().sigmoid())),
)


@settings(max_examples=200)
@given(st.lists(PROBABILITIES, min_size=1, max_size=50))
def test_bins_are_in_the_order_of_the_scores_and_mirror_each_other(values):
    scores = torch.tensor(sorted(values), dtype=torch.float64)
    bins = auc_bins(scores)
    assert 0 <= int(bins.min()) <= int(bins.max()) < AUC_BINS
    assert bool((bins.diff() >= 0).all())
    # 1 - p is exact for p from .5 on.
    upper = scores[scores >= 0.5]
    assert torch.equal(auc_bins(1 - upper), AUC_BINS - 1 - auc_bins(upper))


@settings(max_examples=100)
@given(st.floats(-36, 36), st.floats(0.003, 1))
def test_scores_a_third_of_a_percent_apart_in_their_odds_are_no_ties(logit, more):
    pair = torch.tensor([logit, logit + more], dtype=torch.float64).sigmoid()
    lower, upper = auc_bins(pair).tolist()
    # Near 1 float64 itself has steps of 1e-16.
    assert lower < upper or float(1 - pair[0]) < 2**-44


def test_probabilities_of_logits_that_are_not_finite_are_none():
    logits = torch.tensor([-math.inf, -200.0, 0.0, 30.0, 200.0, math.inf, math.nan])
    found = probabilities(logits)
    assert found.isfinite().tolist() == [False, True, True, True, True, False, False]
    assert 0 < float(1 - found[3]) < 1e-12


def not_finite() -> dict[str, dict[str, float | None]]:
    import torch.distributed as dist

    from mbrec.metrics.task_metrics import TaskMetrics

    part = rows(dist.get_world_size(), dist.get_rank(), 0)
    if dist.get_rank() == dist.get_world_size() - 1:
        part.predictions_BK[-3:, 1] = math.inf
        part.masks_BK[-3:, 1] = torch.tensor([1.0, 0.5, 0.0])
    metrics = TaskMetrics(TASKS, batch_size=ROWS, device=torch.device("cpu"))
    metrics.update([part])
    return metrics.compute()


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_without_a_finite_prediction_are_counted_and_leave_no_figures(tmp_path, world_size):
    for found in run_ranks(not_finite, world_size, tmp_path):
        figures = found["ties"]
        assert figures.pop("not_finite") == 2.0
        labels = {name: figures.pop(name) for name in ("count", "rate")}
        assert all(value > 0 for value in labels.values())
        assert figures == {"ne": None, "auc": None, "calibration": None, "log_loss": None}
        assert found["plain"]["ne"] > 0
        assert "not_finite" not in found["plain"]
