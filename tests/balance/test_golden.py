"""Numbers of every method on one Gramian, computed once by an independent implementation.

MultiBalance's own traces are in test_multibalance.py, GradDrop's elements in test_graddrop.py.
"""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mbrec.balance import (
    DBMTL,
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    ConFIG,
    GradCraft,
    GradVac,
    MultiBalance,
    NashMTL,
    PCGrad,
    SDMGrad,
    UPGrad,
)

FOLDER = Path(__file__).parent
NUMBERS = {
    key: torch.tensor(value, dtype=torch.float64)
    for key, value in json.loads((FOLDER / "golden_methods.json").read_text()).items()
}
TRACES = json.loads((FOLDER / "golden_multibalance.json").read_text())
# Three batches of K = 3 gradients; the methods' numbers are for the first.
BATCHES, G = NUMBERS.pop("batches"), NUMBERS.pop("G")
STATELESS = {
    "minnorm_exact": MGDA(3),
    "mgda_fw_250": MGDA(3),
    "pcgrad": PCGrad(3),
    "gradvac_step1_b0.5": GradVac(3, ema_rate=0.5),
    "imtlg": IMTLG(3),
    "dbmtl_nolog_median": DBMTL(3),
    "dbmtl_nolog_max": DBMTL(3, target="max"),
    "dbmtl_nolog_min": DBMTL(3, target="min"),
    "dbmtl_nolog_mean": DBMTL(3, target="mean"),
    "dbmtl_log_median_losses_.2_.5_.1": DBMTL(3, log_loss=True),
    "cagrad_c0.4_rescale0": CAGrad(3, c=0.4, rescale=0),
    "cagrad_c0.5_rescale0": CAGrad(3, c=0.5, rescale=0),
    "cagrad_c0.5_rescale1": CAGrad(3, c=0.5, rescale=1),
    "aligned_min_mean": AlignedMTL(3),
    "aligned_rmse_mean": AlignedMTL(3, scale_mode="rmse"),
    "config": ConFIG(3),
    "upgrad": UPGrad(3),
    "nash_alpha": NashMTL(3, max_norm=None),
    "gradcraft_r0.1": GradCraft(3, rate=0.1),
}
SDMGRAD = ("sdmgrad_exact_lam0.0", "sdmgrad_exact_lam0.3", "sdmgrad_exact_lam1.0")
OTHERS = {
    *SDMGRAD,
    "gradvac_phi_after1",
    "gradvac_step2_b0.5",
    "nash_alpha_normalised_G",
    "mb_fixed_point_orth",
}


def agrees(got: Tensor, name: str) -> None:
    torch.testing.assert_close(got, NUMBERS[name], rtol=0, atol=1e-6)


def test_every_golden_number_has_a_test():
    assert set(STATELESS) | OTHERS == NUMBERS.keys()
    kinds = [(update, ema) for update in ("cosine_{}_g0.1", "inner_{}_g0.01") for ema in
             ("stabilize", "off", "unit", "anchor")]  # fmt: skip
    assert TRACES.keys() == {f"mb_{update.format(ema)}_lam1_b0.9" for update, ema in kinds}
    assert all(len(trace) == 3 for trace in TRACES.values())


def test_the_gramian_is_that_of_the_rows():
    assert torch.equal(BATCHES[0] @ BATCHES[0].T, G)


@pytest.mark.parametrize("name", STATELESS)
def test_weights_equal_the_golden_numbers(name):
    losses_K = torch.tensor([0.2, 0.5, 0.1], dtype=torch.float64)
    agrees(STATELESS[name](G, losses_K=losses_K), name)


@pytest.mark.parametrize("name", SDMGRAD)
def test_small_steps_of_sdmgrad_reach_the_golden_minimum(name):
    strength = float(name.split("lam")[1])
    balancer = SDMGrad(3, lr=0.05, iterations=1000, prior_strength=strength)
    merged = balancer(G)
    agrees(balancer.weight, name)
    agrees(merged * (1 + strength) - strength / 3, name)


def test_the_second_step_of_gradvac_turns_towards_the_cosines_of_the_first():
    balancer = GradVac(3, ema_rate=0.5, shuffle=False)
    balancer(G)
    agrees(balancer.target, "gradvac_phi_after1")
    agrees(balancer(G), "gradvac_step2_b0.5")


def test_nash_weights_go_as_one_over_the_size():
    agrees(NashMTL(3, max_norm=None)(G / G.norm()), "nash_alpha_normalised_G")


def test_the_fixed_point_of_multibalance_on_orthogonal_gradients():
    balancer = MultiBalance(3, lr=0.1, prior_strength=0.0)
    for _ in range(1000):
        balancer(torch.diag(torch.tensor([1.6, 1.0, 8 / 7], dtype=torch.float64) ** 2))
    agrees(balancer.weight, "mb_fixed_point_orth")


@pytest.mark.parametrize("name", TRACES)
def test_the_weights_of_multibalance_move_against_the_golden_directions(name):
    """Seen in a small step, from which the projection takes the mean."""
    _, update, ema, lr, _, _ = name.split("_")
    balancer = MultiBalance(3, lr=float(lr[1:]), prior_strength=1.0, update=update, ema=ema)
    for rows, expected in zip(BATCHES, TRACES[name], strict=True):
        probe = copy.deepcopy(balancer)
        probe.lr = 1e-3
        probe(rows @ rows.T)
        direction = torch.tensor(expected["dir"], dtype=torch.float64)
        moved = (balancer.weight - probe.weight) / probe.lr
        torch.testing.assert_close(moved, direction - direction.mean(), rtol=0, atol=1e-6)
        balancer(rows @ rows.T)
