"""The Jacobian of small modules, and the paper's inequalities on them."""

import pytest
import torch
from torch import Tensor, nn

from mbrec.model.interactions.dcn import DCN
from research.fidelity.spectrum import ascends, jacobian, lemma, spectrum, theorem


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def interaction(seed: int, *hidden: int) -> nn.Module:
    torch.manual_seed(seed)
    return DCN(5, num_layers=2, hidden=hidden).double()


@pytest.mark.parametrize("seed", range(3))
def test_the_jacobian_times_a_gradient_is_the_gradient_of_the_parameters(seed):
    module, inputs_nI, grads_KnH = interaction(seed, 6, 4), randn(seed, 3, 5), randn(9, 2, 3, 4)
    A = jacobian(module, inputs_nI)
    assert A.shape == (sum(p.numel() for p in module.parameters()), 12)
    for grad_nH in grads_KnH:
        expected = torch.autograd.grad(module(inputs_nI), list(module.parameters()), grad_nH)
        flat = torch.cat([part.flatten() for part in expected])
        torch.testing.assert_close(A @ grad_nH.flatten(), flat, rtol=0, atol=1e-12)


def test_a_linear_bottom_with_orthonormal_inputs_is_the_lemmas_case_of_equality():
    module = nn.Linear(6, 4, bias=False).double()
    inputs_nI = torch.linalg.qr(randn(0, 6, 3)).Q.T  # three orthonormal rows: A'A = 1
    grads_KnH = randn(1, 3, 3, 4)
    population_KP = torch.einsum("knh,ni->khi", grads_KnH, inputs_nI).flatten(1)
    found = spectrum(1, module, inputs_nI, grads_KnH, population_KP)
    assert (found.num_parameters, found.num_outputs) == (24, 12)
    assert (found.num_dead, found.num_zeros) == (0, 0)
    assert (found.smallest_positive, found.largest, found.condition) == pytest.approx((1, 1, 1))
    for sides in (found.lemma, found.lemma_live, found.theorem):
        assert sides == pytest.approx([sides[0]] * len(sides), rel=1e-9)
    assert found.lemma[0] > 0.1
    assert found.holds


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 6, 7, 8])
def test_small_networks_satisfy_the_chains_with_dead_units_and_without(seed):
    num_tasks, rows = 2 + seed % 3, 2 + seed % 2
    module, inputs_nI = interaction(seed, *([6] * (seed % 3)), 4), randn(seed, rows, 5)
    grads_KnH = randn(seed + 50, num_tasks, rows, 4)
    A = jacobian(module, inputs_nI)
    own_KP = grads_KnH.flatten(1) @ A.T
    population_KP = own_KP + 0.1 * randn(seed + 70, *own_KP.shape)
    found = spectrum(3, module, inputs_nI, grads_KnH, population_KP)
    assert found.holds
    dead = int((module(inputs_nI) == 0).sum())
    assert 0 < dead == found.num_dead <= found.num_zeros
    assert found.lemma[0] == 0  # s1 is 0: the bound from below says nothing
    assert found.lemma[2] == pytest.approx(found.lemma_live[2])
    assert found.theorem[0] < 0
    singular = torch.linalg.svdvals(A)
    assert found.largest == pytest.approx(float(singular[0]))
    positive = singular[singular > 1e-9 * singular[0]]
    assert found.condition == pytest.approx(float(positive[0] / positive[-1]))
    assert len(positive) == found.num_outputs - found.num_zeros
    if found.num_zeros == dead:
        assert found.lemma_live[0] > 0


def test_more_numbers_than_parameters_leave_singular_values_of_0():
    module = nn.Linear(2, 3).double()
    found = spectrum(1, module, randn(0, 8, 2), randn(1, 2, 8, 3), randn(2, 2, 9))
    assert (found.num_parameters, found.num_outputs) == (9, 24)
    assert (found.num_dead, found.num_zeros, found.lemma[0]) == (0, 24 - 9, 0.0)
    assert [rows for rows, _ in found.conditions] == [1, 2, 4, 8]
    assert found.conditions[-1][1] == pytest.approx(found.condition)
    assert found.conditions[0][1] == pytest.approx(1)  # one row of a linear map
    assert found.holds


def test_bounds_that_are_too_narrow_break_the_chains():
    A, rows_KN = randn(0, 9, 6), randn(1, 3, 6)
    singular = torch.linalg.svdvals(A)
    right = (float(singular[-1]), float(singular[0]))
    assert ascends(lemma(A, rows_KN, right))
    assert ascends(theorem(A, rows_KN, rows_KN @ A.T + 0.1, right))
    assert not ascends(lemma(A, rows_KN, (right[0], right[1] / 5)))
    assert not ascends(theorem(A, rows_KN, rows_KN @ A.T, (right[1], right[1])))
