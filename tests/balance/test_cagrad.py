import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solvers import random_rows
from torch import Tensor

from mbrec.balance import CAGrad

proven = settings(max_examples=60, deadline=None, derandomize=True)
radii = st.sampled_from([0.2, 0.5, 0.9])


def is_the_best_worst_case(G: Tensor, c: float) -> None:
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
    assert float(gap / G.diagonal().mean()) <= 1e-6
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
    is_the_best_worst_case(rows @ rows.T, c)


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
