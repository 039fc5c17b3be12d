"""Closed forms of the methods, and the conditions that their definitions put on the result.

Shapes: K tasks. n norms, c cosines, z_k the gradient of task k, g the merged one.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solvers import exact_minimum, random_rows
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

proven = settings(max_examples=40, derandomize=True)
seeds = st.integers(0, 10_000)
norms = st.floats(0.1, 10.0)
cosines = st.floats(-0.95, 0.95)
sizes = st.integers(2, 6)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def two_tasks(n1: float, n2: float, c: float) -> Tensor:
    return torch.tensor([[n1 * n1, n1 * n2 * c], [n1 * n2 * c, n2 * n2]], dtype=torch.float64)


def rows_and_gramian(seed: int, num_tasks: int, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    rows = random_rows(seed, num_tasks, 2 * num_tasks, spread)
    return rows, rows @ rows.T


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


# Two tasks: n1, n2, c -> the weights.
def min_norm_of_two(n1: float, n2: float, c: float) -> Tensor:
    share = (n2 * n2 - n1 * n2 * c) / (n1 * n1 + n2 * n2 - 2 * n1 * n2 * c)
    share = min(max(share, 0.0), 1.0)
    return vector(share, 1 - share)


def projected_of_two(n1: float, n2: float, c: float) -> Tensor:
    return vector(1 - min(c, 0) * n2 / n1, 1 - min(c, 0) * n1 / n2)


OF_TWO = {
    "MGDA": (MGDA(2), min_norm_of_two),
    "PCGrad": (PCGrad(2), projected_of_two),
    "GradVac": (GradVac(2), projected_of_two),
    "UPGrad": (UPGrad(2), lambda n1, n2, c: projected_of_two(n1, n2, c) / 2),
    "GradCraft": (GradCraft(2, rate=0.0), lambda n1, n2, c: projected_of_two(n1, n2, c) / 2),
    "IMTLG": (IMTLG(2), lambda n1, n2, c: vector(n2, n1) / (n1 + n2)),
    "ConFIG": (ConFIG(2), lambda n1, n2, c: (n1 + n2) / 2 / vector(n1, n2)),
    "NashMTL": (NashMTL(2, max_norm=None), lambda n1, n2, c: (1 + c) ** -0.5 / vector(n1, n2)),
    "DBMTL": (DBMTL(2), lambda n1, n2, c: (n1 + n2) / 2 / vector(n1, n2)),
}


@pytest.mark.parametrize("method", OF_TWO)
@proven
@given(n1=norms, n2=norms, c=cosines)
def test_the_weights_of_two_tasks_have_their_closed_form(method, n1, n2, c):
    balancer, formula = OF_TWO[method]
    if isinstance(balancer, GradVac):
        balancer = GradVac(2)  # Its first step, with targets of 0.
    # On orthogonal rows a coefficient and its multiplier are both 0, which an interior point
    # method nears with half the digits.
    tolerance = 1e-5 if method in ("MGDA", "UPGrad") else 1e-6
    lengths = vector(n1, n2) / max(n1, n2)
    close(balancer(two_tasks(n1, n2, c)) * lengths, formula(n1, n2, c) * lengths, tolerance)


@proven
@given(n=norms, c=cosines)
def test_two_tasks_of_one_size_have_their_closed_form_in_cagrad_and_aligned_mtl(n, c):
    close(CAGrad(2, c=0.5)(two_tasks(n, n, c)), vector(0.6, 0.6))
    expected = math.sqrt((1 - abs(c)) / (1 + c)) / 2
    close(AlignedMTL(2)(two_tasks(n, n, c)), vector(expected, expected))


@proven
@given(seed=seeds, num_tasks=sizes, spread=st.sampled_from([0.0, 0.5, 1.5]))
def test_mgda_is_the_min_norm_point_and_no_task_has_less_than_its_square(seed, num_tasks, spread):
    _, G = rows_and_gramian(seed, num_tasks, spread)
    w = MGDA(num_tasks)(G)
    close(w, exact_minimum(G, torch.zeros(num_tasks).double(), simplex=True))
    inner, square = G @ w, float(w @ G @ w)
    assert (inner >= square * (1 - 1e-6)).all()
    assert (inner[w > 1e-6] <= square * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("normalise", "divisor"),
    [("l2", vector(2, 1, 4)), ("loss", vector(0.5, 0.2, 1)), ("loss+", vector(1, 0.2, 4))],
)
def test_mgda_weighs_rows_divided_as_asked_for(normalise, divisor):
    G = torch.tensor([[4.0, -1, 2], [-1, 1, 0.5], [2, 0.5, 16]], dtype=torch.float64)
    weights = MGDA(3, normalise=normalise)(G, losses_K=vector(0.5, 0.2, 1))
    expected = exact_minimum(G / divisor / divisor[:, None], vector(0, 0, 0), simplex=True)
    close(weights, expected)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.5, 3.0])
@proven
@given(seed=seeds, num_tasks=sizes)
def test_the_merged_gradient_of_upgrad_does_not_conflict_with_any_task(spread, seed, num_tasks):
    _, G = rows_and_gramian(seed, num_tasks, spread)
    a = UPGrad(num_tasks)(G)
    cosine = G @ a / G.diagonal().sqrt() / (a @ G @ a).sqrt()
    assert (cosine >= -1e-6).all()


@proven
@given(seed=seeds, num_tasks=sizes)
def test_upgrad_sums_the_projections_on_the_dual_cone(seed, num_tasks):
    _, G = rows_and_gramian(seed, num_tasks)
    preference = torch.arange(1.0, num_tasks + 1).double()
    a = UPGrad(num_tasks, preference=preference.tolist())(G)
    eye = torch.eye(num_tasks, dtype=torch.float64)
    parts = [e + exact_minimum(G, G @ e, simplex=False) for e in eye]
    close(a, preference / preference.sum() @ torch.stack(parts))


@proven
@given(seed=seeds, num_tasks=sizes, spread=st.sampled_from([0.0, 1.0, 3.0]))
def test_nash_weights_solve_their_equation_and_have_length_root_k(seed, num_tasks, spread):
    _, G = rows_and_gramian(seed, num_tasks, spread)
    a = NashMTL(num_tasks, max_norm=None)(G)
    assert (a > 0).all()
    close(a * (G @ a), torch.ones(num_tasks).double())
    close(a @ G @ a, torch.tensor(num_tasks).double())
    clipped = NashMTL(num_tasks, max_norm=0.5)(G)
    close(clipped, a * 0.5 / num_tasks**0.5)


@proven
@given(seed=seeds, num_tasks=sizes, spread=st.sampled_from([0.0, 1.0, 3.0]))
def test_config_has_equal_cosines_and_the_length_of_the_projections(seed, num_tasks, spread):
    rows, G = rows_and_gramian(seed, num_tasks, spread)
    g = ConFIG(num_tasks)(G) @ rows
    projections = rows @ g / g.norm()
    cosine = projections / rows.norm(dim=1)
    close(cosine, cosine.mean().expand(num_tasks))
    assert cosine.mean() > 0
    close(g.norm() / projections.sum(), torch.tensor(1.0).double())


@proven
@given(seed=seeds, num_tasks=sizes, spread=st.sampled_from([0.0, 1.0, 3.0]))
def test_imtlg_has_equal_projections_and_weights_that_sum_to_one(seed, num_tasks, spread):
    rows, G = rows_and_gramian(seed, num_tasks, spread)
    a = IMTLG(num_tasks)(G)
    projections = rows @ (a @ rows) / rows.norm(dim=1)
    assert float(a.sum()) == pytest.approx(1, abs=1e-9)
    close(projections / projections.mean(), torch.ones(num_tasks).double())


@proven
@given(seed=seeds, num_tasks=sizes, mode=st.sampled_from(["min", "median", "rmse"]))
def test_aligned_gradients_are_orthogonal_and_equally_long(seed, num_tasks, mode):
    """B G B = scale * identity, where column k of B is what a preference for task k alone gives."""
    _, G = rows_and_gramian(seed, num_tasks)
    eye = torch.eye(num_tasks, dtype=torch.float64)
    B = torch.stack([
        AlignedMTL(num_tasks, preference=e.tolist(), scale_mode=mode)(G) for e in eye
    ])  # fmt: skip
    values = torch.linalg.eigvalsh(G)
    scale = {"min": values[0], "median": values.median(), "rmse": values.mean()}[mode]
    close(B @ G @ B.T / scale, eye)


@proven
@given(seed=seeds, num_tasks=sizes, rate=st.sampled_from([0.0, 0.1, 1.0]))
def test_gradcraft_makes_each_task_orthogonal_to_all_it_conflicts_with(seed, num_tasks, rate):
    rows, G = rows_and_gramian(seed, num_tasks)
    lengths = rows.norm(dim=1)
    scaled = rows * (rate * lengths.max() / lengths + 1 - rate)[:, None]
    parts = []
    for row in scaled:
        against = scaled[scaled @ row < 0]
        coefficients = torch.linalg.pinv(against.T) @ row if len(against) else row.new_zeros(0)
        parts.append(row - coefficients @ against)
    merged = GradCraft(num_tasks, rate=rate)(G) @ rows
    close(merged, torch.stack(parts).mean(0))


@settings(max_examples=10, derandomize=True)
@given(seed=seeds, num_tasks=sizes, strength=st.sampled_from([0.0, 0.3, 1.0]))
def test_small_steps_of_sdmgrad_reach_the_minimum_near_the_prior(seed, num_tasks, strength):
    _, G = rows_and_gramian(seed, num_tasks, spread=0.2)
    prior = torch.arange(1.0, num_tasks + 1).double()
    prior = prior / prior.sum()
    balancer = SDMGrad(
        num_tasks, lr=0.2, iterations=500, prior=prior.tolist(), prior_strength=strength
    )
    a = balancer(G)
    expected = exact_minimum(G, strength * G @ prior, simplex=True)
    close(balancer.weight, expected, 1e-4)
    close(a, (expected + strength * prior) / (1 + strength), 1e-4)


def same_cosines(num_tasks: int, cosine: float, size: float = 1.0) -> Tensor:
    eye = torch.eye(num_tasks, dtype=torch.float64)
    return size**2 * ((1 - cosine) * eye + cosine)


def distance_after(balancer: MultiBalance, G: Tensor, steps: int = 150) -> float:
    """Return how far from equal weights a small disturbance of them ends."""
    balancer.weight[:2] += vector(1e-4, -1e-4)
    for _ in range(steps):
        balancer(G)
    return float((balancer.weight - 1 / balancer.num_tasks).abs().max())


@pytest.mark.parametrize("strength", [0.0, 0.3])
def test_the_cosine_update_of_multibalance_settles_at_the_impartial_weights(strength):
    n = vector(2.4, 1, 1.14)
    G = torch.tensor([[1, 0, 0], [0, 1, 0.5], [0, 0.5, 1]], dtype=torch.float64) * n * n[:, None]
    impartial = vector(0.24978, 0.39965, 0.35057)
    close(IMTLG(3)(G), impartial, 2e-5)
    balancer = MultiBalance(3, lr=0.1, prior_strength=strength)
    for _ in range(400):
        balancer(G)
    close(balancer.weight, (1 + strength) * IMTLG(3)(G) - strength / 3)


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize(
    ("num_tasks", "cosine", "strength", "limit"),
    [(3, 0, 0, 1.155), (3, 0, 1, 2.309), (3, 0.3, 1, 4.173), (3, 0.5, 0, 3.266),
     (3, 0.5, 1, 6.532), (5, 0.5, 1, 6.197)],
)  # fmt: skip
def test_the_cosine_update_is_stable_up_to_its_limit(num_tasks, cosine, strength, limit, factor):
    balancer = MultiBalance(num_tasks, lr=factor * limit, prior_strength=strength)
    distance = distance_after(balancer, same_cosines(num_tasks, cosine))
    assert distance < 1e-9 if factor < 1 else distance > 0.05


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize(("cosine", "size"), [(0.0, 1.0), (0.5, 3.0), (0.3, 0.01)])
def test_the_inner_update_is_stable_up_to_its_limit(cosine, size, factor):
    lr = factor * 2 / (size**2 * (1 - cosine))
    distance = distance_after(MultiBalance(3, lr=lr, update="inner"), same_cosines(3, cosine, size))
    assert distance < 1e-9 if factor < 1 else distance > 0.05


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_inner_update_settles_at_the_minimum_near_the_prior(strength):
    _, G = rows_and_gramian(5, 4)
    balancer = MultiBalance(4, lr=0.5 / float(G.trace()), prior_strength=strength, update="inner")
    for _ in range(300):
        balancer(G)
    close(balancer.weight, exact_minimum(G, strength * G.mean(1), simplex=True), 1e-5)
