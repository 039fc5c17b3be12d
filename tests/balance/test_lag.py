"""lag=1 is lag=0 but for the shift: a step merges with the weights of the step before."""

import copy
from itertools import pairwise

import pytest
import torch
from methods import TASKS, make, methods

from mbrec.balance import BalanceHook, ElementwiseBalancer, GramianBalancer, ParameterBalancer

K, B, H = 3, 6, 5
LABELS = methods(GramianBalancer)
# Constant weights are the same at every step, so that nothing can shift.
MOVING = [label for label in LABELS if make(label).constant_weights is None]


def new_hook(label: str, **options) -> BalanceHook:
    return BalanceHook(make(label), task_names=TASKS, statistics=True, **options)


def prescribed(step: int):
    """Return the gradients, losses and counts of a step; in step 2 a task is not there."""
    generator = torch.Generator().manual_seed(step)
    common_BH = 0.5 * torch.randn(B, H, generator=generator)
    sizes = torch.tensor([1.0, 0.3, 2.0]).view(K, 1, 1)
    rows_KBH = sizes * (torch.randn(K, B, H, generator=generator) + common_BH)
    rows_KBH[0] -= common_BH * (1 if step % 2 else 3)
    losses_K = 0.1 + torch.rand(K, generator=generator)
    counts_K = torch.tensor([6, 0 if step == 2 else 4, 6])
    return rows_KBH * (counts_K > 0)[:, None, None], losses_K, counts_K


def backward(hook: BalanceHook, step: int, *, bad: bool = False):
    """Run a step whose gradients are prescribed; return the merged gradient."""
    rows_KBH, losses_K, counts_K = prescribed(step)
    if bad:
        rows_KBH[1, 2, 3] = float("nan")
    shared_BH = torch.ones(B, H, requires_grad=True)
    views = hook(shared_BH)
    hook.observe(losses_K, counts_K)
    sum((view * row).sum() for view, row in zip(views, rows_KBH, strict=True)).backward()
    return shared_BH.grad


def state_of(hook: BalanceHook) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in hook.state_dict().items()}


@pytest.mark.parametrize("label", LABELS)
def test_a_step_has_the_weights_that_the_step_before_has_without_lag(label):
    fresh, lagged = new_hook(label), new_hook(label, lag=1)
    used, states = [], []
    for step in range(6):
        backward(fresh, step)
        merged = backward(lagged, step)
        rows_KBH = prescribed(step)[0]
        expected = (lagged.weights.float()[:, None, None] * rows_KBH).sum(0)
        torch.testing.assert_close(merged, expected)
        used.append((fresh.weights.clone(), lagged.weights.clone()))
        states.append((state_of(fresh), state_of(lagged)))
    for (now, _), (_, later) in pairwise(used):
        assert torch.equal(now, later)
    # What is saved is up to date in both.
    for without, with_lag in states:
        assert all(torch.equal(with_lag[name], value) for name, value in without.items())


@pytest.mark.parametrize("label", MOVING)
def test_the_weights_do_change_from_step_to_step(label):
    """Without it the test above could not fail."""
    hook = new_hook(label)
    weights = []
    for step in (0, 1, 3, 4):
        backward(hook, step)
        weights.append(hook.weights)
    assert any(not torch.equal(weights[0], later) for later in weights[1:])


@pytest.mark.parametrize("label", LABELS)
def test_the_first_step_has_the_weights_of_orthonormal_gradients(label):
    hook = new_hook(label, lag=1)
    balancer = make(label)
    balancer.name_tasks(TASKS)
    expected_K = balancer(torch.eye(K), losses_K=torch.ones(K))
    backward(hook, 0)
    assert torch.equal(hook.weights, expected_K)


@pytest.mark.parametrize("when", [0, 3])
@pytest.mark.parametrize("label", LABELS)
def test_a_non_finite_step_merges_to_zero_and_leaves_no_trace(label, when):
    hook, undisturbed = new_hook(label, lag=1), new_hook(label, lag=1)
    for step in range(when):
        backward(hook, step)
        backward(undisturbed, step)
    before = state_of(hook)
    merged = backward(hook, 3, bad=True)
    assert torch.equal(merged, torch.zeros(B, H))
    assert not hook.ok
    assert hook.skipped == 1
    torch.testing.assert_close(state_of(hook), before, rtol=0, atol=0)
    # The next step has the last good weights, and all goes on as if the bad one had not been.
    for step in (4, 5):
        assert torch.equal(backward(hook, step), backward(undisturbed, step))
        assert torch.equal(hook.weights, undisturbed.weights)
        assert hook.ok


@pytest.mark.parametrize("label", LABELS)
def test_a_run_that_is_saved_with_statistics_under_way_goes_on_exactly(label):
    whole, first, second = (new_hook(label, lag=1) for _ in range(3))
    for step in range(6):
        part = first if step < 3 else second
        if step == 3:
            second.load_state_dict(first.state_dict())
        assert torch.equal(backward(whole, step), backward(part, step))
        assert torch.equal(whole.weights, part.weights)
    torch.testing.assert_close(state_of(whole), state_of(second), rtol=0, atol=0)


@pytest.mark.parametrize("label", MOVING)
def test_saving_does_not_disturb_the_run(label):
    saved, left_alone = new_hook(label, lag=1), new_hook(label, lag=1)
    for step in range(5):
        assert torch.equal(backward(saved, step), backward(left_alone, step))
        saved.state_dict()


@pytest.mark.parametrize("label", MOVING)
def test_loading_drops_the_statistics_under_way(label):
    """They belong to the run that is left."""
    hook, whole = new_hook(label, lag=1), new_hook(label, lag=1)
    for step in range(2):
        backward(hook, step)
        backward(whole, step)
    saved = state_of(hook)
    for step in (2, 3):
        backward(hook, step)
    hook.load_state_dict(saved)
    torch.testing.assert_close(state_of(hook), saved, rtol=0, atol=0)
    for step in (4, 5):
        assert torch.equal(backward(hook, step), backward(whole, step))


@pytest.mark.parametrize("label", MOVING)
def test_a_copy_is_saved_with_its_own_statistics(label):
    hook = new_hook(label, lag=1)
    for step in range(2):
        backward(hook, step)
    twin = copy.deepcopy(hook)
    backward(hook, 2)
    backward(twin, 2)
    torch.testing.assert_close(state_of(twin), state_of(hook), rtol=0, atol=0)
    assert torch.equal(backward(twin, 3), backward(hook, 3))


def test_the_statistics_shown_are_those_of_the_step_before():
    fresh, lagged = new_hook("MultiBalance"), new_hook("MultiBalance", lag=1)
    shown = []
    for step in range(4):
        for hook in (fresh, lagged):
            backward(hook, step)
        shown.append([(hook.gramian.clone(), hook.losses.clone()) for hook in (fresh, lagged)])
    for (now, _), (_, later) in pairwise(shown):
        assert all(torch.equal(a, b) for a, b in zip(now, later, strict=True))
    # There is no step before the first; it shows its own.
    assert all(torch.equal(a, b) for a, b in zip(*shown[0], strict=True))


@pytest.mark.parametrize("label", methods(ElementwiseBalancer, ParameterBalancer))
def test_a_method_that_needs_this_batchs_gradients_refuses_a_lag(label):
    module = torch.nn.Linear(H, H)
    at_module = isinstance(make(label), ParameterBalancer)
    with pytest.raises(ValueError, match=r"expected .*lag=0.* got .*lag=1"):
        BalanceHook(make(label), lag=1, parameters=module if at_module else None)


@pytest.mark.parametrize("lag", [-1, 2, True, 0.5])
def test_any_other_lag_is_refused(lag):
    with pytest.raises(ValueError, match="expected lag to be one of 0, 1"):
        BalanceHook(make("MGDA"), lag=lag)
