"""The numbers of a hook survive every way in which a model is moved, or the hook is refused."""

import copy

import pytest
import torch
from methods import TASKS, Model, backward, make, methods
from torch import nn

from mbrec.balance import BalanceHook, ElementwiseBalancer, GramianBalancer, MultiBalance

LABELS = [m for m in methods(GramianBalancer, ElementwiseBalancer) if m != "TorchJD"]
LOST = r"expected BalanceHook with the values .* build it on a real device"


def step(hook: BalanceHook, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    shared_BH, rows_KBH = torch.randn(6, 5), torch.randn(len(TASKS), 6, 5)
    shared_BH.requires_grad_()
    views = hook(shared_BH)
    hook.observe(torch.tensor([0.7, 0.2, 0.4]))
    sum((view * row).sum() for view, row in zip(views, rows_KBH, strict=True)).backward()
    assert shared_BH.grad is not None
    return shared_BH.grad


def numbers(hook: BalanceHook) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in hook.named_buffers()}


@pytest.mark.parametrize("label", LABELS)
def test_to_empty_keeps_values_and_types_and_training_goes_on(label):
    moved, stayed = (BalanceHook(make(label), task_names=TASKS, statistics=True) for _ in range(2))
    for number in range(2):
        step(moved, number)
        step(stayed, number)
    before = numbers(moved)
    garbage = [torch.full_like(value, 3).clone() for value in before.values()]
    del garbage  # what an allocator hands out next
    moved.to_empty(device="cpu")
    torch.testing.assert_close(numbers(moved), before, rtol=0, atol=0)
    assert torch.equal(step(moved, 2), step(stayed, 2))


def test_a_hook_inside_a_model_that_is_built_on_meta_trains_if_it_is_built_on_a_real_device():
    class Ranker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bottom, self.heads = nn.Linear(4, 4), nn.Linear(4, 3)
            with torch.device("cpu"):
                self.hook = BalanceHook(MultiBalance(3))

    with torch.device("meta"):
        model = Ranker()
    assert model.bottom.weight.is_meta
    model.to_empty(device="cpu")
    for part in (model.bottom, model.heads):
        part.reset_parameters()
    views = model.hook(model.bottom(torch.ones(2, 4)))
    torch.stack([model.heads(view)[:, k].sum() for k, view in enumerate(views)]).sum().backward()
    assert float(model.hook.weights.sum()) == pytest.approx(1)
    assert model.bottom.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("label", "how"),
    [(label, "moved") for label in LABELS]
    + [(label, "built") for label in ("MultiBalance", "GradVac", "FAMO", "MGDA")],
)
def test_a_hook_that_has_been_on_meta_leaves_it_for_no_other_device(label, how):
    with torch.device("meta" if how == "built" else "cpu"):
        hook = BalanceHook(make(label), task_names=TASKS)
    if how == "moved":
        hook.to("meta")
    with pytest.raises(ValueError, match=r"expected .* with the values it was built with"):
        hook.to_empty(device="cpu")


def test_a_model_on_meta_that_gets_its_memory_past_the_hook_is_refused_in_training():
    """torchrec fills the buffers of a module on meta with zeros, one by one."""
    with torch.device("meta"):
        hook = BalanceHook(MultiBalance(3), task_names=TASKS)
    for module in hook.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = torch.zeros_like(buffer, device="cpu")
    with pytest.raises(ValueError, match=LOST):
        step(hook, 0)
    with pytest.raises(ValueError, match="expected MultiBalance with the values"):
        hook.balancer(torch.eye(3))


def test_a_copy_of_a_hook_on_meta_is_refused_as_well():
    with torch.device("meta"):
        hook = BalanceHook(MultiBalance(3), task_names=TASKS)
    with pytest.raises(ValueError, match="has lost them"):
        copy.deepcopy(hook).to_empty(device="cpu")


@pytest.mark.parametrize("move", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
@pytest.mark.parametrize("label", LABELS)
def test_a_model_in_other_types_leaves_the_numbers_bit_for_bit(label, move):
    model = Model(label)
    backward(model, 0)
    before = numbers(model.hook)
    move(model)
    torch.testing.assert_close(numbers(model.hook), before, rtol=0, atol=0)
