"""A bypassed hook is not there: plain sums of gradients, no statistics, no state that changes."""

import pytest
import torch
from torch import nn

from mbrec.balance import MGDA, BalanceHook, Equal, GradDrop, MoCo, MultiBalance

K, B, H = 3, 8, 4
HOOKS = {
    "constant": lambda below: BalanceHook(Equal(K)),
    "gramian": lambda below: BalanceHook(MultiBalance(K)),
    "lagged": lambda below: BalanceHook(MultiBalance(K), lag=1),
    "elementwise": lambda below: BalanceHook(GradDrop(K)),
    "parameters": lambda below: BalanceHook(MGDA(K), parameters=below),
    "moco": lambda below: BalanceHook(MoCo(K), parameters=below),
}


def gradient(hook: BalanceHook | None, below: nn.Linear, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    rows_KBH, shared_BH = torch.randn(K, B, H), below(torch.randn(B, H))
    views = (shared_BH,) * K if hook is None else hook(shared_BH)
    losses = [(view * row).square().mean() for view, row in zip(views, rows_KBH, strict=True)]
    if hook is not None:
        hook.observe(losses)
    below.weight.grad = None
    torch.stack(losses).sum().backward()
    assert below.weight.grad is not None
    return below.weight.grad


@pytest.fixture
def below() -> nn.Linear:
    torch.manual_seed(7)
    return nn.Linear(H, H)


@pytest.mark.parametrize("name", HOOKS)
def test_the_gradient_is_that_without_the_hook_bit_for_bit(name, below):
    hook = HOOKS[name](below)
    gradient(hook, below, 0)
    hook.bypass = True
    assert torch.equal(gradient(hook, below, 1), gradient(None, below, 1))
    told: list[str] = []
    hook.mark_parts(told.append)
    gradient(hook, below, 2)
    assert told == ["outside"], "no statistics, no collective"


@pytest.mark.parametrize("name", HOOKS)
def test_steps_that_passed_it_by_leave_no_trace(name, below):
    hook, twin = HOOKS[name](below), HOOKS[name](below)
    for seed in (0, 1):
        gradient(hook, below, seed)
        gradient(twin, below, seed)
    hook.bypass = True
    for seed in (5, 6):
        gradient(hook, below, seed)
    hook.bypass = False
    assert torch.equal(gradient(hook, below, 2), gradient(twin, below, 2))
    assert torch.equal(hook.weights, twin.weights)
    expected = twin.state_dict()
    for key, value in hook.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_it_has_nothing_to_tell_meanwhile(below):
    hook = BalanceHook(MultiBalance(K))
    gradient(hook, below, 0)
    with torch.no_grad():
        below.weight[0, 0] = torch.nan
    gradient(hook, below, 0)
    assert not hook.ok
    weights = hook.weights.clone()
    hook.bypass = True
    gradient(hook, below, 0)
    assert hook.ok
    assert not hook.decides_together
    assert hook.gramian is hook.losses is hook.local_gramian is None
    assert torch.equal(hook.weights, weights)
    hook.bypass = False
    assert hook.decides_together
