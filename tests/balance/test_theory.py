"""Lemma 4.1 and Theorem 1 of He et al. 2024, on random matrices and on a small network.

Shapes: B batch, K tasks, P parameters. A (P, BH) is the transposed Jacobian of the representation,
J (K, BH) has the task gradients z_k as rows, so that A J' (P, K) are the tasks' parameter
gradients; w_M is the point of the simplex where |M w| is least.
"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solvers import exact_minimum
from torch import Tensor, nn

from mbrec.balance import MGDA, BalanceHook

proven = settings(max_examples=80, derandomize=True)
seeds = st.integers(0, 10_000)
sizes = {"num_tasks": st.integers(1, 5), "width": st.integers(3, 8), "height": st.integers(8, 14)}
TOLERANCE = 1e-9


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def least(matrix: Tensor) -> Tensor:
    """Return w_M."""
    return exact_minimum(matrix.T @ matrix, torch.zeros(matrix.shape[1]).double(), simplex=True)


def ascending(*values: float | Tensor) -> bool:
    numbers = [float(value) for value in values]
    return all(a <= b + TOLERANCE for a, b in pairwise(numbers))


def chain(A: Tensor, B: Tensor) -> list[Tensor]:
    """Return the five sides of Lemma 4.1 for A B."""
    singular = torch.linalg.svdvals(A)
    smallest, largest = singular[-1] if A.shape[0] >= A.shape[1] else 0.0, singular[0]
    of_B, of_AB = least(B), least(A @ B)
    return [
        smallest * (B @ of_B).norm(),
        smallest * (B @ of_AB).norm(),
        (A @ B @ of_AB).norm(),
        (A @ B @ of_B).norm(),
        largest * (B @ of_B).norm(),
    ]


@proven
@given(seed=seeds, **sizes)
def test_lemma_4_1_holds_for_random_matrices(seed, num_tasks, width, height):
    A, B = randn(seed, height, width), randn(seed + 1, width, num_tasks)
    assert ascending(*chain(A, B))


@proven
@given(seed=seeds, num_tasks=st.integers(2, 5), width=st.integers(3, 8), height=st.integers(1, 8))
def test_its_last_two_inequalities_hold_without_full_rank(seed, num_tasks, width, height):
    A, B = randn(seed, height, width), randn(seed + 1, width, num_tasks)
    assert ascending(*chain(A, B)[2:])


@proven
@given(seed=seeds, scale=st.floats(0.01, 100), **sizes)
def test_its_sides_are_equal_where_the_jacobian_is_a_scaled_isometry(
    seed, scale, num_tasks, width, height
):
    Q, _ = torch.linalg.qr(randn(seed, height, width))
    sides = chain(scale * Q, randn(seed + 1, width, num_tasks))
    torch.testing.assert_close(torch.stack(sides), sides[0].expand(5), rtol=1e-9, atol=1e-9)


@proven
@given(seed=seeds, noise=st.floats(0, 3), **sizes)
def test_theorem_1_holds_with_residuals_of_the_batch(seed, noise, num_tasks, width, height):
    A, Z = randn(seed, height, width), randn(seed + 1, width, num_tasks)
    E = noise * randn(seed + 2, height, num_tasks)
    assert theorem_1(A, Z, A @ Z + E)


def theorem_1(A: Tensor, Z: Tensor, gradients: Tensor) -> bool:
    """Whether the bounds hold, with the residuals as what the gradients are beside A Z."""
    singular = torch.linalg.svdvals(A)
    residual = (gradients - A @ Z).norm(dim=0).max()
    surrogate = (Z @ least(Z)).norm()
    return ascending(
        singular[-1] * surrogate - residual,
        (gradients @ least(gradients)).norm(),
        (gradients @ least(Z)).norm(),
        singular[0] * surrogate + residual,
    )


@proven
@given(seed=seeds, **sizes)
def test_weights_that_are_good_at_the_representation_are_good_at_the_parameters(
    seed, num_tasks, width, height
):
    """Of any weights: where |J' w| <= eps, the point is stationary up to s2 eps."""
    A, Z = randn(seed, height, width), randn(seed + 1, width, num_tasks)
    E = randn(seed + 2, height, num_tasks)
    w = randn(seed + 3, num_tasks).softmax(0)
    bound = torch.linalg.svdvals(A)[0] * (Z @ w).norm() + E.norm(dim=0).max()
    gradients = A @ Z + E
    assert ascending((gradients @ least(gradients)).norm(), (gradients @ w).norm(), bound)


BATCH, INPUTS, HIDDEN, WIDTH, TASKS = 3, 5, 6, 4, 3


class Network(nn.Module):
    """A bottom of 64 parameters, more than its 3 x 4 representations, and heads that bend."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layers = (nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, WIDTH))
        self.bottom = nn.Sequential(*layers).double()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(TASKS)).double()

    def losses(self, views: tuple[Tensor, ...], labels_KB: Tensor) -> list[Tensor]:
        logits = [head(v)[:, 0] for head, v in zip(self.heads, views, strict=True)]
        pairs = zip(logits, labels_KB, strict=True)
        return [nn.functional.binary_cross_entropy_with_logits(o, y) for o, y in pairs]

    def flat(self, gradients: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([grad.flatten() for grad in gradients])

    def parameter_gradients(self, x: Tensor, labels_KB: Tensor) -> Tensor:
        """Return the K gradients of the bottom's parameters in columns, by K backward passes."""
        losses = self.losses((self.bottom(x),) * TASKS, labels_KB)
        parameters = list(self.bottom.parameters())
        return torch.stack([
            self.flat(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses
        ], 1)  # fmt: skip

    def jacobian(self, x: Tensor) -> Tensor:
        """Return A."""
        parameters = list(self.bottom.parameters())
        rows = [
            self.flat(torch.autograd.grad(entry, parameters, retain_graph=True))
            for entry in self.bottom(x).flatten()
        ]
        return torch.stack(rows, 1)

    def representation_gradients(self, x: Tensor, labels_KB: Tensor) -> Tensor:
        """Return the K gradients of the representation in columns."""
        shared = self.bottom(x).detach().requires_grad_()
        losses = self.losses((shared,) * TASKS, labels_KB)
        grads = [torch.autograd.grad(loss, shared, retain_graph=True)[0] for loss in losses]
        return torch.stack([grad.flatten() for grad in grads], 1)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    return randn(seed, BATCH, INPUTS), (randn(seed + 1, TASKS, BATCH) > 0).double()


@pytest.mark.parametrize("seed", range(5))
def test_parameter_gradients_are_the_jacobian_times_representation_gradients(seed):
    network, (x, y) = Network(seed), batch(seed)
    A, Z = network.jacobian(x), network.representation_gradients(x, y)
    assert A.shape == (64, BATCH * WIDTH)
    torch.testing.assert_close(A @ Z, network.parameter_gradients(x, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_lemma_and_the_theorem_hold_for_a_network(seed):
    """The population is two batches, so that each leaves a residual."""
    network, (x, y), (other_x, other_y) = Network(seed), batch(seed), batch(seed + 100)
    A, Z = network.jacobian(x), network.representation_gradients(x, y)
    own = network.parameter_gradients(x, y)
    population = (own + network.parameter_gradients(other_x, other_y)) / 2
    assert float((population - own).norm()) > 1e-3
    assert ascending(*chain(A, Z))
    assert theorem_1(A, Z, own)
    assert theorem_1(A, Z, population)


@pytest.mark.parametrize("seed", range(5))
def test_the_hook_gives_the_bottom_the_weighted_parameter_gradients_in_one_backward(seed):
    network, (x, y) = Network(seed), batch(seed)
    hook = BalanceHook(MGDA(TASKS))
    torch.stack(network.losses(hook(network.bottom(x)), y)).sum().backward()
    got = network.flat(tuple(p.grad for p in network.bottom.parameters()))
    Z = network.representation_gradients(x, y)
    torch.testing.assert_close(hook.gramian, Z.T @ Z, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(hook.weights, least(Z), rtol=0, atol=1e-6)
    expected = network.parameter_gradients(x, y) @ hook.weights
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@proven
@given(seed=seeds, **sizes)
def test_a_step_against_the_min_norm_point_descends_for_every_task_under_an_isometry(
    seed, num_tasks, width, height
):
    """At the representation always; in the parameters where A' A is a multiple of 1."""
    Z = randn(seed, width, num_tasks)
    direction = Z @ least(Z)
    assert ((Z.T @ direction) >= direction @ direction - TOLERANCE).all()
    Q, _ = torch.linalg.qr(randn(seed + 1, height, width))
    assert ((3 * Q @ Z).T @ (3 * Q @ direction) >= -TOLERANCE).all()


def test_under_a_jacobian_that_stretches_it_may_ascend_for_a_task():
    A = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    ascents = 0
    for seed in range(100):
        Z = randn(seed, 2, 2)
        ascents += bool(((A @ Z).T @ (A @ Z @ least(Z)) < -TOLERANCE).any())
    assert 25 < ascents < 75
