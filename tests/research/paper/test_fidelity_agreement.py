"""Agreement of weights that are made by hand, and the lemma's currency on matrices."""

import pytest
import torch
from torch import Tensor

from research.fidelity.agreement import (
    Weighing,
    agreement,
    cosine_gap,
    least_norm_weights,
    norm,
    norm_gap,
    stretch,
    surrogate_ratio,
)


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("first", "second", "tau", "ranking", "top", "distance"),
    [
        ([0.2, 0.5, 0.3], [0.1, 0.7, 0.2], 1.0, True, True, 0.2),
        ([0.5, 0.3, 0.2], [0.5, 0.2, 0.3], 1 / 3, False, True, 0.1),
        ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], -1.0, False, False, 0.3),
        ([0.5, 0.5, 0.0], [0.6, 0.4, 0.0], pytest.approx(0.8165, abs=1e-4), False, True, 0.1),
        ([1 / 3, 1 / 3, 1 / 3], [0.5, 0.3, 0.2], None, False, True, 1 / 6),
        ([1.0, 1e-9, 0.0], [1.0, 0.0, 1e-9], 1.0, True, True, 0.0),
    ],
)
def test_rank_agreement_of_weights_made_by_hand(first, second, tau, ranking, top, distance):
    found = agreement(torch.tensor(first).double(), torch.tensor(second).double())
    assert found.tau == (pytest.approx(tau) if isinstance(tau, float) else tau)
    assert (found.same_ranking, found.same_top) == (ranking, top)
    assert found.distance == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_an_isometry_gives_the_same_weights_and_a_ratio_of_1(seed):
    B, (Q, _) = randn(seed, 8, 4), torch.linalg.qr(randn(seed + 99, 20, 8))
    G, H = B.T @ B, (3 * Q @ B).T @ (3 * Q @ B)
    assert surrogate_ratio(least_norm_weights(G), H) == pytest.approx(1, abs=1e-9)
    assert stretch(G, H) == pytest.approx((3, 3))
    assert (cosine_gap(G, H), norm_gap(G, H)) == pytest.approx((0, 1))
    rows, parameters = Weighing(4), Weighing(4)
    for step in range(5):
        B = randn(seed + step, 8, 4)
        rows.feed(B.T @ B)
        parameters.feed((3 * Q @ B).T @ (3 * Q @ B))
    for method, weights_K in rows.weights().items():
        other_K = parameters.weights()[method]
        torch.testing.assert_close(other_K, weights_K, rtol=1e-6, atol=1e-6, msg=method)
        assert agreement(weights_K, other_K).same_ranking


@pytest.mark.parametrize("seed", range(8))
def test_the_stretch_on_the_span_bounds_the_ratio_more_tightly_than_the_spectrum(seed):
    A, B = randn(seed, 6, 9), randn(seed + 50, 9, 3)  # of rank 6: s1 of A is 0
    G, H = B.T @ B, (A @ B).T @ (A @ B)
    low, high = stretch(G, H)
    assert 0 < low < high <= torch.linalg.svdvals(A)[0] + 1e-9
    x = B @ randn(seed + 7, 3)
    assert low - 1e-9 <= (A @ x).norm() / x.norm() <= high + 1e-9
    assert 1 - 1e-9 <= surrogate_ratio(least_norm_weights(G), H) <= high / low + 1e-9
    least = norm(least_norm_weights(G), G)
    assert low * least - 1e-9 <= norm(least_norm_weights(H), H) <= high * least + 1e-9


def test_a_task_without_a_gradient_is_left_out_and_gradients_that_depend_on_each_other_are_told():
    B = randn(0, 6, 3)
    B[:, 1] = 0
    G = B.T @ B
    assert stretch(G, 4 * G) == pytest.approx((2, 2))
    assert norm_gap(G, 4 * G) == pytest.approx(1)
    assert surrogate_ratio(least_norm_weights(G), 4 * G) == pytest.approx(1)
    B[:, 1] = 2 * B[:, 0]
    assert stretch(B.T @ B, torch.eye(3).double()) is None


def test_weights_that_miss_the_least_norm_have_a_ratio_beyond_1():
    H = torch.tensor([[4.0, 0.0], [0.0, 1.0]]).double()
    assert surrogate_ratio(torch.tensor([0.2, 0.8]).double(), H) == pytest.approx(1)
    assert surrogate_ratio(torch.tensor([1.0, 0.0]).double(), H) == pytest.approx(5**0.5)
    assert (cosine_gap(H, H), norm_gap(torch.eye(2).double(), H)) == pytest.approx((0, 2))
