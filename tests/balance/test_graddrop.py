import pytest
import torch
from torch import Tensor

from mbrec.balance import BalanceHook, GradDrop
from mbrec.balance.methods import graddrop

J = [[3.0, 0.0, 1.0, -1.0], [-1.0, 2.0, 0.0, 1.0], [1.0, 1.0, -2.0, 0.0]]


def merged(hook: BalanceHook, rows_KBH: Tensor, shared_BH: Tensor) -> Tensor:
    shared_BH = shared_BH.clone().requires_grad_()
    losses = [(v * row).sum() for v, row in zip(hook(shared_BH), rows_KBH, strict=True)]
    torch.stack(losses).sum().backward()
    assert shared_BH.grad is not None
    return shared_BH.grad


def draw_always(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(
        graddrop, "uniform", lambda index, seed, step: torch.full(index.shape, value)
    )


@pytest.mark.parametrize("marginalise", [True, False])
@pytest.mark.parametrize(
    ("drawn", "leak", "expected"),
    [
        (0.2, 0.0, [4.0, 3.0, 1.0, 1.0]),
        (0.5, 0.0, [4.0, 3.0, -2.0, 0.0]),  # The last has P = U, which drops both signs.
        (0.7, 0.0, [4.0, 3.0, -2.0, -1.0]),
        (0.2, 0.5, [3.5, 3.0, 0.0, 0.5]),
    ],
)
def test_one_sign_of_each_element_stays_as_in_the_golden_numbers(
    monkeypatch, marginalise, drawn, leak, expected
):
    draw_always(monkeypatch, drawn)
    hook = BalanceHook(GradDrop(3, marginalise=marginalise, leak=[leak] * 3))
    got = merged(hook, torch.tensor(J).view(3, 1, 4), torch.ones(1, 4))
    torch.testing.assert_close(got, torch.tensor([expected]))


def test_the_batch_votes_on_the_sign_of_a_feature_by_the_signs_of_the_representation(monkeypatch):
    draw_always(monkeypatch, 0.3)
    generator = torch.Generator().manual_seed(0)
    rows_KBH = torch.randn(3, 5, 6, generator=generator)
    shared_BH = torch.randn(5, 6, generator=generator)
    votes_KH = (rows_KBH * shared_BH.sign()).sum(1)
    positive_H = 0.5 * (1 + votes_KH.sum(0) / votes_KH.abs().sum(0))
    keep_KH = torch.where(votes_KH > 0, positive_H > 0.3, positive_H < 0.3)
    assert 0 < keep_KH.sum() < keep_KH.numel()
    hook = BalanceHook(GradDrop(3))
    got = merged(hook, rows_KBH, shared_BH)
    torch.testing.assert_close(got, (keep_KH[:, None] * rows_KBH).sum(0))
    torch.testing.assert_close(hook.weights, keep_KH.double().mean(1))


def test_a_positive_sign_stays_as_often_as_its_purity_says():
    hook = BalanceHook(GradDrop(2, marginalise=False))
    rows_KBH = torch.stack([torch.full((100, 50), 3.0), torch.full((100, 50), -1.0)])
    got = merged(hook, rows_KBH, torch.ones(100, 50))
    assert set(got.unique().tolist()) == {3.0, -1.0}
    assert float((got == 3).float().mean()) == pytest.approx(
        0.75, abs=5 * (0.75 * 0.25 / 5000) ** 0.5
    )
    again = merged(hook, rows_KBH, torch.ones(100, 50))
    assert not torch.equal(again, got)


def test_the_parts_of_a_representation_are_drawn_for_apart():
    hook = BalanceHook(GradDrop(2, marginalise=False))
    parts = tuple(torch.ones(8, 8, requires_grad=True) for _ in range(2))
    one, other = hook(parts)
    torch.stack([view.sum() for view in one] + [-view.sum() for view in other]).sum().backward()
    assert not torch.equal(parts[0].grad, parts[1].grad)
