"""Metrics over ranks equal those of one process, and scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from ranks import run_ranks
from sklearn.metrics import log_loss, roc_auc_score

from mbrec.metrics import DROPPED_BITS
from mbrec.model import Outputs

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

    from mbrec.metrics import TaskMetrics

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
    from mbrec.metrics import TaskMetrics

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
