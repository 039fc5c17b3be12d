"""Q micro-batches are one batch, and a loss scale changes nothing but the gradients' size."""

import pytest
import torch
from methods import TASKS, B, Model, backward, batch, make, methods
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward

from mbrec.balance import BalanceHook, ElementwiseBalancer, GramianBalancer, ParameterBalancer

K = len(TASKS)
GRAMIAN = methods(GramianBalancer)


def counts(step: int, number: int = 0, micro_batches: int = 1) -> torch.Tensor:
    """Return the samples of each task; of one there are none in step 2, and few in the others."""
    few = 0 if step == 2 or number > 0 else 2
    return torch.tensor([B // micro_batches, few, B // micro_batches])


def accumulate(model: Model, step: int, micro_batches: int) -> dict[str, torch.Tensor]:
    """Run a step in micro-batches; return the summed gradients of the parameters."""
    model.zero_grad()
    for number in range(micro_batches):
        size = B // micro_batches
        rows = slice(number * size, (number + 1) * size)
        losses_K = model.losses(*batch(step, rows)) / micro_batches
        model.hook.observe(losses_K, counts(step, number, micro_batches))
        losses_K.sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("micro_batches", [2, 4])
@pytest.mark.parametrize("label", GRAMIAN)
def test_micro_batches_are_one_batch_with_a_lag(label, micro_batches):
    whole, split = Model(label, lag=1), Model(label, accumulate=micro_batches)
    for step in range(4):
        expected = backward(whole, step, counts_K=counts(step))
        found = accumulate(split, step, micro_batches)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(split.hook.weights, whole.hook.weights, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(split.hook.gramian, whole.hook.gramian, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(split.hook.losses, whole.hook.losses, rtol=1e-6, atol=1e-6)
    states = [dict(model.hook.state_dict()) for model in (split, whole)]
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", GRAMIAN)
def test_the_weights_stand_still_within_a_step(label):
    model = Model(label, accumulate=2)
    used = []
    for micro_batch in range(8):
        backward(model, micro_batch, scale=0.5)
        used.append(model.hook.weights)
    assert all(torch.equal(a, b) for a, b in zip(used[::2], used[1::2], strict=True))
    if make(label).constant_weights is None:
        assert any(not torch.equal(used[0], later) for later in used[2::2])


@pytest.mark.parametrize("bad", [0, 1])
def test_a_non_finite_micro_batch_spoils_its_step_alone(bad):
    model = Model("MultiBalance", accumulate=2)
    for micro_batch in range(4):
        backward(model, micro_batch, scale=0.5)
    before = {name: value.clone() for name, value in model.hook.state_dict().items()}
    for micro_batch in range(2):
        gradients = backward(model, micro_batch, scale=float("nan") if micro_batch == bad else 0.5)
        assert bool(model.hook.ok) == (micro_batch != bad)
        zero = not gradients["module.weight"].any()
        assert zero == (micro_batch == bad)
    torch.testing.assert_close(dict(model.hook.state_dict()), before, rtol=0, atol=0)
    assert model.hook.skipped == 1
    for micro_batch in range(2):
        backward(model, micro_batch, scale=0.5)
    assert model.hook.state_dict()["balancer.step"] == before["balancer.step"] + 1


def test_saving_in_the_middle_of_a_step_is_refused():
    model = Model("MultiBalance", accumulate=3)
    model.hook.state_dict()
    backward(model, 0)
    with pytest.raises(RuntimeError, match="expected the end of a step of 3 micro-batches"):
        model.hook.state_dict()
    for micro_batch in (1, 2):
        backward(model, micro_batch)
    model.hook.state_dict()


def test_loading_in_the_middle_of_a_step_starts_a_new_one():
    model, whole = (Model("MultiBalance", accumulate=2) for _ in range(2))
    saved = {name: value.clone() for name, value in whole.hook.state_dict().items()}
    backward(model, 7)
    model.hook.load_state_dict(saved)
    for step in range(2):
        found, expected = accumulate(model, step, 2), accumulate(whole, step, 2)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(
        dict(model.hook.state_dict()), dict(whole.hook.state_dict()), rtol=0, atol=0
    )


@pytest.mark.parametrize("label", methods(ElementwiseBalancer, ParameterBalancer))
def test_a_method_that_needs_the_whole_batch_refuses_micro_batches(label):
    with pytest.raises(ValueError, match=r"expected .*accumulate=1.* got .*accumulate=2"):
        Model(label, accumulate=2)


def test_micro_batches_beside_parameters_are_refused():
    with pytest.raises(ValueError, match="expected a method that weighs whole gradients"):
        Model("MGDA", at_module=True, accumulate=2)


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True])
def test_a_number_of_micro_batches_that_is_none_is_refused(accumulate):
    with pytest.raises(ValueError, match="expected accumulate to be an integer of at least 1"):
        BalanceHook(make("MGDA"), accumulate=accumulate)


SCALE = 2.0**16


@pytest.mark.parametrize(
    ("label", "options"),
    [(label, {}) for label in methods()]
    + [(label, {"lag": 1}) for label in GRAMIAN]
    + [(label, {"at_module": True}) for label in GRAMIAN],
)
def test_a_loss_scale_scales_the_gradients_and_changes_nothing_else(label, options):
    plain, scaled = Model(label, **options), Model(label, **options)
    of_a_scaler = torch.tensor(1.0)
    for step in range(4):
        # A GradScaler has one tensor, and changes it in place between the steps.
        scale = SCALE if step < 2 else of_a_scaler.fill_(SCALE / 2 ** (step % 3))
        scaled.hook.loss_scale = scale
        expected = backward(plain, step, counts_K=counts(step))
        found = backward(scaled, step, scale=scale, counts_K=counts(step))
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name] / scale, gradient, rtol=1e-6, atol=0)
        torch.testing.assert_close(scaled.hook.weights, plain.hook.weights, rtol=1e-6, atol=0)
        torch.testing.assert_close(scaled.hook.gramian, plain.hook.gramian, rtol=1e-6, atol=0)
        torch.testing.assert_close(scaled.hook.losses, plain.hook.losses, rtol=0, atol=0)
    states = [dict(model.hook.state_dict()) for model in (scaled, plain)]
    torch.testing.assert_close(*states, rtol=1e-6, atol=0)


class Table(nn.Module):
    """A shared bottom, one of whose parameters takes its optimizer's step inside backward."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.embedding, self.dense = nn.Embedding(5, 4), nn.Linear(4, 4)
        _apply_optimizer_in_backward(torch.optim.SGD, [self.embedding.weight], {"lr": 0.1})
        self.hook = BalanceHook(make("MultiBalance"), **options)

    def forward(self, ids):
        return self.hook(self.dense(self.embedding(ids)))


IDS = torch.tensor([0, 3, 3])
MESSAGE = "expected no table that updates itself inside backward .* apply_optimizer_in_backward"


@pytest.mark.parametrize("scale", [SCALE, torch.tensor(1.0)])
def test_a_loss_scale_above_a_table_that_updates_itself_is_refused_each_time(scale):
    model = Table()
    model(IDS)  # nothing to refuse yet
    model.hook.loss_scale = scale
    for _ in range(2):
        with pytest.raises(ValueError, match=MESSAGE):
            model(IDS)


def test_micro_batches_above_a_table_that_updates_itself_are_refused_each_time():
    model = Table(accumulate=2)
    for _ in range(2):
        with pytest.raises(ValueError, match=MESSAGE):
            model(IDS)


def test_a_table_that_updates_itself_does_so_once_a_step():
    model = Table()
    before = model.embedding.weight.clone()
    views = model(IDS)
    received = []
    views[0].grad_fn.next_functions[0][0].register_prehook(lambda grads: received.append(grads[0]))
    sum(view.sum() for view in views).backward()
    (merged,) = received
    expected = torch.zeros_like(before).index_add(0, IDS, merged @ model.dense.weight)
    torch.testing.assert_close(model.embedding.weight, before - 0.1 * expected)


def test_a_grad_scaler_learns_of_a_gradient_that_overflows_at_the_boundary():
    """Zeros would tell it that all is well, while the bottom does not train."""
    torch.manual_seed(0)
    bottom, head = nn.Linear(4, 4), nn.Linear(4, 1)
    hook = BalanceHook(make("MultiBalance"), task_names=TASKS)
    optimizer = torch.optim.SGD(bottom.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=1000)
    before, scales = bottom.weight.clone(), []
    for _ in range(80):
        hook.loss_scale = scaler.get_scale()
        views = hook(bottom(torch.ones(2, 4)))
        loss = torch.stack([head(view).square().mean() for view in views]).sum()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales[0] < 2.0**100
    assert hook.skipped > 0
    assert hook.ok
    assert not torch.equal(bottom.weight, before)


def test_a_scale_that_is_set_after_forward_is_refused_in_backward():
    model = Table()
    views = model(IDS)
    model.hook.loss_scale = SCALE
    with pytest.raises(ValueError, match=MESSAGE):
        torch.stack([view.sum() for view in views]).sum().backward()


def test_micro_batches_that_are_told_different_things_are_refused():
    hook = BalanceHook(make("MultiBalance"), accumulate=2)
    shared_BH = torch.ones(2, 4, requires_grad=True)
    for told in (True, False):
        views = hook(shared_BH)
        if told:
            hook.observe(torch.ones(len(TASKS)))
        loss = torch.stack([view.sum() for view in views]).sum()
        if told:
            loss.backward()
    with pytest.raises(ValueError, match="told the same on each micro-batch"):
        loss.backward()
