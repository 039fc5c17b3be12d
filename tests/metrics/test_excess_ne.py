import math

import pytest
import torch
from ranks import run_ranks

from mbrec.metrics.outputs import Outputs

TASKS = ["a", "without_oracle"]


def outputs(rank: int, world_size: int) -> Outputs:
    generator = torch.Generator().manual_seed(3)
    p = torch.rand(400, 2, generator=generator, dtype=torch.float64) * 0.5
    q = (p + 0.05).float()
    y = (torch.rand(400, 2, generator=generator) < p).float()
    masks = (torch.rand(400, 2, generator=generator) < 0.6).float()
    p[:, 1] = float("nan")
    p[-10:], masks[-10:] = float("nan"), 0.0  # padding
    part = slice(rank * 400 // world_size, (rank + 1) * 400 // world_size)
    empty = torch.empty(0)
    return Outputs(empty, q[part], y[part], masks[part], empty, p[part])


def gap(shift_to_the_truth: bool):
    import torch.distributed as dist

    from mbrec.metrics.excess_ne import ExcessNe

    part = outputs(dist.get_rank(), dist.get_world_size())
    if shift_to_the_truth:
        part.predictions_BK = part.oracle_BK.nan_to_num(0.5)
    oracle = ExcessNe(TASKS, device=torch.device("cpu"))
    oracle.update(part)
    return oracle.compute()


def test_excess_ne_is_the_divergence_over_the_entropy_on_any_number_of_ranks(tmp_path):
    part = outputs(0, 1)
    keep = part.masks_BK[:, 0] > 0
    p, q = part.oracle_BK[keep, 0], part.predictions_BK[keep, 0].double()
    divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    rate = float(p.mean())
    entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    for world_size in (1, 2):
        for figures in run_ranks(gap, world_size, tmp_path, False):
            assert figures.keys() == {"a"}
            assert figures["a"]["excess_ne"] == pytest.approx(float(divergence) / entropy)
            assert 0 < figures["a"]["label_gap_se"] < 0.1


def test_the_true_probabilities_have_no_excess_and_no_gap(tmp_path):
    (figures,) = run_ranks(gap, 1, tmp_path, True)
    assert figures["a"] == {"excess_ne": 0.0, "label_gap": 0.0, "label_gap_se": 0.0}
