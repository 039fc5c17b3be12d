"""Batches that are merged in pairs are those of twice the size."""

import pytest
import torch
from torch import Tensor

from research.fidelity.agreement import least_norm_weights, norm, surrogate_ratio
from research.fidelity.frozen import Merged, Merging, worth
from research.fidelity.gradients import BOTTOM

TASKS, ROWS, WIDTH, PARAMETERS, OWN, BATCHES = 3, 5, 4, 30, 18, 8


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    """Gradients of all batches' rows (n, K, H), and each row's map to parameters (n, H, P)."""
    generator = torch.Generator().manual_seed(0)
    sizes = (BATCHES * ROWS, TASKS, WIDTH), (BATCHES * ROWS, WIDTH, PARAMETERS)
    return tuple(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)


def batch(rows: tuple[Tensor, Tensor], first: int, last: int) -> Merged:
    """Return the batch of some rows, whose losses are means."""
    grads_nKH, maps_nHP = (part[first:last] for part in rows)
    grads_KN = grads_nKH.transpose(0, 1).flatten(1) / (last - first)
    grads_KP = torch.einsum("nkh,nhp->kp", grads_nKH, maps_nHP) / (last - first)
    return Merged(grads_KN @ grads_KN.T, grads_KP, OWN)


def gradients(of: Merged, target: str) -> Tensor:
    return of.grads_KP if target == BOTTOM else of.grads_KP[:, :OWN]


@pytest.fixture(scope="module")
def merging(rows) -> Merging:
    found = Merging()
    for number in range(BATCHES):
        found.add(batch(rows, number * ROWS, (number + 1) * ROWS))
    return found


def test_all_batches_together_are_one_of_all_rows(rows, merging):
    whole = batch(rows, 0, BATCHES * ROWS)
    torch.testing.assert_close(merging.last.representation_KK, whole.representation_KK)
    torch.testing.assert_close(merging.last.grads_KP, whole.grads_KP)
    own_KP = whole.grads_KP[:, :OWN]
    torch.testing.assert_close(merging.last.gramian("interaction"), own_KP @ own_KP.T)
    assert [len(level) for level in merging.levels] == [8, 4, 2, 1]


@pytest.mark.parametrize("target", ["interaction", BOTTOM])
@pytest.mark.parametrize("depth", range(4))
def test_each_size_has_the_figures_of_its_batches(rows, merging, target, depth):
    size, everything = ROWS << depth, batch(rows, 0, BATCHES * ROWS)
    population, whole = everything.gramian(target), gradients(everything, target)
    found = worth(merging.levels[depth], size, target, population)
    batches = [batch(rows, at, at + size) for at in range(0, BATCHES * ROWS, size)]
    weights = [least_norm_weights(b.representation_KK) for b in batches]
    grads = [gradients(b, target) for b in batches]
    ratios = [surrogate_ratio(w, g @ g.T) for w, g in zip(weights, grads, strict=True)]
    assert found.ratio == pytest.approx(float(torch.tensor(ratios).double().quantile(0.5)))
    least = norm(least_norm_weights(population), population)
    on_population = [norm(w, population) / least for w in weights]
    assert found.representation == pytest.approx(sum(on_population) / len(weights))
    away = torch.stack([(g - whole).square().sum(1) for g in grads]).mean(0)
    squares = torch.stack([g.square().sum(1) for g in grads]).mean(0)
    assert found.residual == pytest.approx(float((away / squares).sqrt().mean()), abs=1e-6)
    assert found.own >= 1 - 1e-9
    if depth == 3:
        assert (found.own, found.representation) == pytest.approx((1, found.ratio))
