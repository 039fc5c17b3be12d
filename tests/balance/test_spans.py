"""Each way through backward tells what it has just done, and leaves no time of its own out."""

import time

import pytest
import torch
from torch import Tensor, nn

from mbrec.balance import MGDA, BalanceHook, Equal, GradDrop, MoCo, MultiBalance
from mbrec.monitor.timing import PartClock

K, B, H = 3, 8, 4
BACKWARD = ["gramian", "collective", "weights", "merge", "rest"]
PASSES = ["passes", "gramian", "collective", "gramian", "weights", "merge", "rest"]
WAYS = {
    "constant": (lambda below: BalanceHook(Equal(K)), ["merge"]),
    "gramian": (lambda below: BalanceHook(MultiBalance(K)), BACKWARD),
    "elementwise": (lambda below: BalanceHook(GradDrop(K)), BACKWARD),
    "parameters": (lambda below: BalanceHook(MGDA(K), parameters=below), PASSES),
    "moco": (lambda below: BalanceHook(MoCo(K), parameters=below), PASSES),
    # The sum of the step before is waited for, and used, at the start of the next.
    "lagged": (
        lambda below: BalanceHook(MGDA(K), lag=1),
        ["collective", "weights", "gramian", "collective", "merge", "rest"],
    ),
}


def step(hook: BalanceHook, below: nn.Module) -> Tensor:
    views = hook(below(torch.ones(B, H)))
    losses = [(view * (k + 1)).square().mean() for k, view in enumerate(views)]
    hook.observe(losses)
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss


@pytest.mark.parametrize("way", WAYS)
def test_the_parts_come_in_the_order_of_the_work(way):
    below = nn.Linear(H, H)
    make, expected = WAYS[way]
    hook = make(below)
    for _ in range(2):
        step(hook, below)
    told: list[str] = []
    hook.mark_parts(told.append)
    step(hook, below)
    assert told == ["outside", "views", "heads", *expected]
    hook.mark_parts(None)
    step(hook, below)
    assert len(told) == 3 + len(expected)


@pytest.mark.parametrize("way", WAYS)
def test_the_parts_are_no_longer_than_the_hook(way):
    below = nn.Linear(H, H)
    hook = WAYS[way][0](below)
    forward, backward, whole = hook.forward, hook._backward, []

    def timed(function):
        def measured(*args):
            start = time.perf_counter()
            result = function(*args)
            whole.append(time.perf_counter() - start)
            return result

        return measured

    hook.forward, hook._backward = timed(forward), timed(backward)
    clock = PartClock()
    hook.mark_parts(clock)
    for _ in range(3):
        step(hook, below)
    assert 0 < clock.inside <= sum(whole)


def test_saving_between_steps_is_no_part_of_the_hook():
    below, told = nn.Linear(H, H), []
    hook = BalanceHook(MGDA(K), lag=1)
    step(hook, below)
    step(hook, below)
    hook.mark_parts(told.append)
    hook.state_dict()
    assert told == ["outside", "collective", "weights"]
