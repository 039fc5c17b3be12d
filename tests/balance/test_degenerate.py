"""Gradients that depend on each other: equal, opposed, zero, in a plane, without a sum.

Shapes: K tasks.
"""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_properties import KINDS, METHODS
from torch import Tensor

from mbrec.balance import IMTLG, MGDA, ConFIG, GramianBalancer

NAMES = ("ctr", "cvr", "like", "share")
# The published step of SDMGrad does not settle, and rounding decides where it is.
OPTIONS = {"SDMGrad": {"lr": 0.05}}
ON_GRAMIANS = [
    m for m in METHODS if issubclass(KINDS[m], GramianBalancer) and m not in ("TorchJD", "Static")
]
proven = settings(max_examples=3, derandomize=True)


def rows_of(kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    u, v, w = draw(3, 6)
    sizes = 10 ** draw(4, 1).clamp(-1, 1)
    return {
        "two up and two down": torch.stack([u, u, -u, -u]),
        "two up and two down of any size": sizes * torch.stack([u, u, -u, -u]),
        "one line": sizes * torch.stack([u, u, u, u]),
        "equal in pairs": torch.stack([u, u, v, v]),
        "equal and opposed": sizes * torch.stack([u, u, v, -v]),
        "one pair opposed": torch.stack([u, -2 * u, v, w]),
        "one without a gradient": torch.stack([u, 0 * u, v, -u]),
        "in a plane": draw(4, 2) @ torch.stack([u, v]),
        "without a sum": torch.stack([u, v, w, -u - v - w]),
    }[kind]


KINDS_OF_ROWS = (
    "two up and two down", "two up and two down of any size", "one line", "equal in pairs",
    "equal and opposed", "one pair opposed", "one without a gradient", "in a plane",
    "without a sum",
)  # fmt: skip


def merged(method: str, rows_KN: Tensor, names: list[str], **options) -> Tensor:
    balancer = KINDS[method](4, **(OPTIONS.get(method, {}) | options))
    balancer.name_tasks(names)
    losses = dict(zip(NAMES, [0.7, 0.2, 0.4, 0.1], strict=True))
    losses_K = torch.tensor([losses[name] for name in names])
    weights_K = torch.zeros(4)
    for _ in range(2):
        weights_K = balancer(rows_KN @ rows_KN.T, losses_K=losses_K)
    assert torch.isfinite(weights_K).all()
    return weights_K @ rows_KN


@pytest.mark.parametrize("kind", KINDS_OF_ROWS)
@pytest.mark.parametrize("method", ON_GRAMIANS)
@proven
@given(seed=st.integers(0, 1000), order=st.sampled_from(list(permutations(range(4)))[1:]))
def test_another_order_of_dependent_gradients_merges_to_the_same(method, kind, seed, order):
    rows_KN = rows_of(kind, seed)
    one = merged(method, rows_KN, list(NAMES))
    other = merged(method, rows_KN[list(order)], [NAMES[k] for k in order])
    assert (one - other).norm() <= 1e-5 * rows_KN.norm(dim=1).max()


@pytest.mark.parametrize("kind", ["one line", "equal and opposed", "in a plane"])
@proven
@given(seed=st.integers(0, 1000), order=st.sampled_from(list(permutations(range(4)))[1:]))
def test_so_does_mgda_where_it_weighs_other_rows_than_it_merges(kind, seed, order):
    rows_KN = rows_of(kind, seed)
    one = merged("MGDA", rows_KN, list(NAMES), normalise="l2")
    other = merged("MGDA", rows_KN[list(order)], [NAMES[k] for k in order], normalise="l2")
    assert (one - other).norm() <= 1e-5 * rows_KN.norm(dim=1).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [ConFIG, IMTLG])
@pytest.mark.parametrize("signs", [(1, -1), (1, 1, -1, -1), (1, -1, 1, -1), (1, 1, -1, -1, 1, -1)])
@proven
@given(seed=st.integers(0, 1000))
def test_opposed_gradients_of_any_size_merge_to_zero(method, signs, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = 10 ** (2 * torch.rand(len(signs), 1, generator=generator) - 1)
    rows = torch.tensor(signs)[:, None] * sizes * torch.randn(1, 512, generator=generator)
    rows = rows.to(dtype)
    weights_K = method(len(signs))((rows @ rows.T).double())
    assert (weights_K @ rows.double()).norm() <= 1e-5 * rows.norm(dim=1).max()


def test_gradients_that_cancel_at_three_angles_merge_to_zero_as_well():
    rows = torch.tensor([[1, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
    rows = rows * torch.tensor([[1.0], [2.0], [5.0]])
    for method in (ConFIG, IMTLG):
        assert (method(3)(rows @ rows.T) @ rows).norm() < 1e-9


def test_what_two_of_three_tasks_have_in_common_is_not_lost():
    """The limit of "no direction in common" is where none is, not where it is small."""
    for angle in (1e-1, 1e-2, 1e-3):
        rows = torch.tensor([[1, angle], [-1, angle]], dtype=torch.float64)
        g = ConFIG(2)(rows @ rows.T) @ rows
        torch.testing.assert_close(g / g.norm(), torch.tensor([0.0, 1.0]).double())
        torch.testing.assert_close(
            IMTLG(2)(rows @ rows.T), torch.tensor([0.5, 0.5]).double(), rtol=1e-6, atol=0
        )


def test_mgda_still_finds_the_min_norm_weights_of_normalised_rows():
    rows = torch.tensor([[4.0, 0.0], [0.0, 0.1]], dtype=torch.float64)
    weights_K = MGDA(2, normalise="l2")(rows @ rows.T)
    torch.testing.assert_close(weights_K, torch.full((2,), 0.5).double(), rtol=0, atol=1e-6)
