"""One forward, what is told about it, and the one backward that belongs to it."""

import pytest
import torch
from methods import TASKS, Model, backward, batch, make, methods

from mbrec.balance import BalanceHook, Equal, MultiBalance

K, B, H = len(TASKS), 4, 3
WAYS = [(label, {}) for label in methods()]
WAYS += [(label, {"lag": 1}) for label in ("MultiBalance", "FAMO", "GradVac")]
WAYS += [("MGDA", {"at_module": True})]


def losses_of(views) -> torch.Tensor:
    return torch.stack([(view * (k + 1)).square().mean() for k, view in enumerate(views)])


def test_losses_and_counts_of_a_forward_without_backward_are_not_those_of_the_next():
    hook = BalanceHook(MultiBalance(K))
    shared_BH = torch.randn(B, H, requires_grad=True)
    hook(shared_BH)
    hook.observe(torch.full((K,), torch.nan), torch.tensor([4, 0, 4]))
    losses_of(hook(shared_BH)).sum().backward()
    assert hook.losses is None
    assert hook.ok
    assert (hook.weights > 0).all()


def test_a_method_that_needs_losses_does_not_take_those_of_a_batch_before():
    hook = BalanceHook(make("FAMO"))
    shared_BH = torch.randn(B, H, requires_grad=True)
    hook(shared_BH)
    hook.observe(torch.ones(K))
    with pytest.raises(ValueError, match="expected the losses of the tasks for FAMO, got none"):
        losses_of(hook(shared_BH)).sum().backward()


def test_two_forwards_before_one_backward_have_losses_of_their_own():
    hook = BalanceHook(MultiBalance(K))
    shared_BH = torch.randn(B, H, requires_grad=True)
    total, told = [], []
    for number in (1.0, 2.0):
        losses_K = losses_of(hook(number * shared_BH))
        hook.observe(losses_K)
        total.append(losses_K.sum())
        told.append(losses_K.detach())
    # Autograd goes back from the last.
    (total[0] + total[1]).backward()
    torch.testing.assert_close(hook.losses, told[0].double())


def test_observe_is_between_forward_and_backward():
    hook = BalanceHook(MultiBalance(K))
    with pytest.raises(RuntimeError, match=r"expected observe\(\) between .* before any forward"):
        hook.observe(torch.ones(K))
    losses_of(hook(torch.randn(B, H, requires_grad=True))).sum().backward()
    with pytest.raises(RuntimeError, match=r"expected observe\(\) between .* after that backward"):
        hook.observe(torch.ones(K))


def test_what_evaluation_tells_is_not_heard_in_training():
    hook = BalanceHook(MultiBalance(K))
    shared_BH = torch.randn(B, H, requires_grad=True)
    losses_K = losses_of(hook(shared_BH))
    hook.eval()
    hook(shared_BH)
    hook.observe(torch.full((K,), torch.nan))
    hook.train()
    losses_K.sum().backward()
    assert hook.losses is None
    assert hook.ok


def shown(model: Model) -> list:
    hook = model.hook
    state = {name: value.clone() for name, value in hook.state_dict().items()}
    return [state, hook.weights, hook.ok, hook.gramian, hook.losses, int(hook.skipped)]


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize(("label", "options"), WAYS)
def test_a_backward_a_task_is_refused_and_leaves_no_trace(label, options, bad):
    model, undisturbed = Model(label, **options), Model(label, **options)
    for step in range(2):
        backward(model, step)
        backward(undisturbed, step)
    before = shown(model)
    losses_K = model.losses(*batch(7))
    model.hook.observe(losses_K)
    (losses_K[0] * (torch.nan if bad else 1.0)).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="expected one backward through a forward of the hook"):
        losses_K[1].backward(retain_graph=True)
    torch.testing.assert_close(shown(model), before, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="expected one backward"):
        losses_K[2].backward()
    for step in range(2, 4):
        found, expected = backward(model, step), backward(undisturbed, step)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(shown(model), shown(undisturbed), rtol=0, atol=0)


def test_a_backward_a_task_within_micro_batches_leaves_no_trace():
    model, undisturbed = (Model("MultiBalance", accumulate=2) for _ in range(2))
    for step in range(3):
        backward(model, step, scale=0.5)
        backward(undisturbed, step, scale=0.5)
    losses_K = model.losses(*batch(7))
    model.hook.observe(losses_K)
    losses_K[0].backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="expected one backward"):
        losses_K[1].backward()
    for step in range(3, 6):
        found = backward(model, step, scale=0.5)
        torch.testing.assert_close(found, backward(undisturbed, step, scale=0.5), rtol=0, atol=0)
    torch.testing.assert_close(shown(model), shown(undisturbed), rtol=0, atol=0)


@pytest.mark.parametrize(("label", "options"), WAYS)
def test_the_same_backward_again_is_refused_and_the_first_stays(label, options):
    model, once = Model(label, **options), Model(label, **options)
    for trained in (model, once):
        backward(trained, 0)
        losses_K = trained.losses(*batch(1))
        trained.hook.observe(losses_K)
        losses_K.sum().backward(retain_graph=True)
        if trained is model:
            with pytest.raises(RuntimeError, match="expected one backward"):
                losses_K.sum().backward()
    torch.testing.assert_close(shown(model), shown(once), rtol=0, atol=0)


def test_what_later_steps_have_built_on_is_not_taken_back():
    model, plain = Model("MultiBalance"), Model("MultiBalance")
    kept = None
    for trained in (model, plain):
        losses_K = trained.losses(*batch(0))
        trained.hook.observe(losses_K)
        losses_K[0].backward(retain_graph=True)
        kept = kept if kept is not None else losses_K
        backward(trained, 1)
    with pytest.raises(RuntimeError, match="expected one backward"):
        kept[1].backward()
    torch.testing.assert_close(shown(model), shown(plain), rtol=0, atol=0)


IDLE = ["eval", "no_grad", "inference", "frozen"]


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("method", [MultiBalance, Equal])
def test_a_head_that_works_in_place_changes_no_others_input(method, idle):
    hook = BalanceHook(method(K))
    hook.train(idle != "eval")
    modes = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
    with modes.get(idle, torch.enable_grad)():
        for order in ([0, 1, 2], [2, 1, 0]):
            shared_BH, raw_B2 = torch.randn(B, H), torch.randn(B, 2)
            expected = shared_BH.clone(), raw_B2.clone()
            views_K = hook((shared_BH, raw_B2))
            for k in order:
                torch.testing.assert_close(views_K[k], expected, rtol=0, atol=0)
                for part in views_K[k]:
                    part.relu_().add_(1)


def test_in_training_torch_refuses_a_head_that_works_in_place():
    hook = BalanceHook(MultiBalance(K))
    views = hook(torch.randn(B, H, requires_grad=True) * 1)
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        views[0].relu_()


def test_in_training_a_part_without_a_gradient_is_each_heads_own():
    hook = BalanceHook(MultiBalance(K))
    raw_B2 = torch.randn(B, 2)
    expected = raw_B2.clone()
    for view in hook((torch.randn(B, H, requires_grad=True), raw_B2)):
        assert torch.equal(view[1], expected)
        view[1].mul_(2)
