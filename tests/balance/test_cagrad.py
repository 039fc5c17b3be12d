import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from test_solvers import random_rows
from torch import Tensor

from mbrec.balance import CAGrad

proven = settings(max_examples=60, derandomize=True)
radii = st.sampled_from([0.2, 0.5, 0.9])


def is_the_best_worst_case(G: Tensor, c: float, tolerance: float = 1e-6) -> None:
    """Check the distance from the average, and the multipliers of the largest worst case.

    They are 0 or more, and 0 where a task is not the worst off.
    """
    mean = torch.full_like(G[0], 1 / len(G))
    a = CAGrad(len(G), c=c, rescale=0)(G)
    away, inner = a - mean, G @ a
    radius = c * (mean @ G @ mean).sqrt()
    torch.testing.assert_close((away @ G @ away).sqrt(), radius, rtol=1e-6, atol=0)
    assert (away >= -1e-9).all()
    gap = (away / away.sum()) @ (inner - inner.min())
    assert float(gap / G.diagonal().mean()) <= tolerance
    assert inner.min() >= (G @ mean).min() - 1e-6 * G.diagonal().mean()


@proven
@given(seed=st.integers(0, 10_000), num_tasks=st.integers(2, 6), c=radii)
def test_it_is_the_best_worst_case_in_its_ball(seed, num_tasks, c):
    rows = random_rows(seed, num_tasks, 2 * num_tasks)
    is_the_best_worst_case(rows @ rows.T, c)


@pytest.mark.parametrize("apart", [0.3, 0.1, 0.03, 0.01])
@pytest.mark.parametrize("c", [0.2, 0.5])
def test_so_it_is_near_a_stationary_point(apart, c):
    """Two tasks nearly oppose each other, and the average leans to one of them."""
    rows = torch.tensor([[1, 0, apart], [-1, 0, apart], [0.3, 1, apart]], dtype=torch.float64)
    is_the_best_worst_case(rows @ rows.T, c, tolerance=3e-5)


def least_of_the_dual(G: Tensor, c: float) -> float:
    """Return the least <g_w, g0> + c |g0| |g_w| that scipy finds over the simplex.

    No direction in the ball has a larger smallest inner product than any value of it.
    """
    matrix, size = G.numpy(), len(G)
    mean = np.full(size, 1 / size)
    toward, radius = matrix @ mean, c * np.sqrt(max(mean @ matrix @ mean, 0.0))

    def value(w: np.ndarray) -> float:
        return float(toward @ w + radius * np.sqrt(max(w @ matrix @ w, 0.0)))

    def slope(w: np.ndarray) -> np.ndarray:
        return toward + radius * matrix @ w / max(np.sqrt(max(w @ matrix @ w, 0.0)), 1e-12)

    def sums_to_one(w: np.ndarray) -> float:
        return float(w.sum() - 1)

    found = []
    for seed in range(4):
        start = np.random.default_rng(seed).dirichlet(np.ones(size)) if seed else mean
        result = minimize(
            value, start, jac=slope, method="SLSQP", bounds=[(0, 1)] * size,
            constraints=[{"type": "eq", "fun": sums_to_one, "jac": np.ones_like}],
            options={"ftol": 1e-15, "maxiter": 300},
        )  # fmt: skip
        w = result.x.clip(0)
        found.append(value(w / w.sum()))
    return min(found)


def hard_rows(kind: str, seed: int, num_tasks: int) -> Tensor:
    """Return gradients whose hull holds zero, or nearly so."""
    rows = random_rows(seed, num_tasks, 2 * num_tasks, spread=0.3)
    if kind == "dependent":
        return random_rows(seed, num_tasks, max(1, num_tasks // 2), spread=0.3)
    if kind == "opposed":
        rows[1] = -rows[0] * (1 + 0.7 * (seed % 4))
    if kind == "nearly opposed":
        rows[1] = -rows[0] + 10.0 ** -(seed % 5) * rows[1]
    if kind == "nearly no average":
        rows = rows - (1 - 10.0 ** -(seed % 5)) * rows.mean(0)
    return rows


@pytest.mark.parametrize(
    "kind", ["random", "dependent", "opposed", "nearly opposed", "nearly no average"]
)
@settings(max_examples=15, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    num_tasks=st.integers(2, 10),
    c=st.sampled_from([0.2, 0.5, 0.9, 1.0, 1.5]),
)
def test_no_direction_in_the_ball_has_a_better_worst_case(kind, seed, num_tasks, c):
    rows = hard_rows(kind, seed, num_tasks)
    rows = rows / rows.square().sum(1).mean().sqrt()
    G = rows @ rows.T
    mean = torch.full_like(G[0], 1 / num_tasks)
    a = CAGrad(num_tasks, c=c, rescale=0)(G)
    average = (mean @ G @ mean).sqrt()
    away = a - mean
    assert (away @ G @ away).clamp_min(0).sqrt() <= c * average * (1 + 1e-6)
    gap = least_of_the_dual(G, c) - float((G @ a).min())
    assert gap <= 3e-4 * float(average * G.diagonal().max().sqrt())


def test_two_of_four_tasks_opposed_leave_the_others_their_gradients():
    """Nothing can be better than 0 for the first two: it was the plain average, with -0.1."""
    rows = torch.eye(4, dtype=torch.float64)
    rows[1] = torch.tensor([-1.5, 0, 0, 0])
    inner = rows @ (CAGrad(4, c=0.5, rescale=0)(rows @ rows.T) @ rows)
    torch.testing.assert_close(inner[:2], torch.zeros(2).double(), rtol=0, atol=1e-4)
    assert (inner[2:] > 0.2).all()


def test_opposed_gradients_in_float32_keep_the_weights_in_bounds_and_the_ball():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 4096, generator=generator)
    rows[1], rows[3] = -rows[0], -2 * rows[2]
    a = CAGrad(4, c=1.5, rescale=0)((rows @ rows.T).double())
    exact = rows.double()
    average = exact.mean(0)
    assert a.abs().max() < 5000
    assert (a @ exact - average).norm() <= 1.5 * average.norm() * (1 + 1e-4)


def test_it_is_rescaled_as_published():
    rows = random_rows(0, 3, 6)
    G = rows @ rows.T
    plain = CAGrad(3, c=0.5, rescale=0)(G)
    torch.testing.assert_close(CAGrad(3, c=0.5)(G), plain / 1.25)
    torch.testing.assert_close(CAGrad(3, c=0.5, rescale=2)(G), plain / 1.5)
    torch.testing.assert_close(CAGrad(3, c=0.5, output_scale=3.0)(G), plain / 1.25 * 3)


def test_without_a_radius_it_is_the_average():
    rows = random_rows(0, 3, 6)
    torch.testing.assert_close(CAGrad(3, c=0.0)(rows @ rows.T), torch.full((3,), 1 / 3).double())
