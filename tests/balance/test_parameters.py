"""At parameters, the K gradients are those that K backward passes would give."""

import copy

import pytest
import torch
from methods import SEEDS, TASKS, B, D, Model, backward, batch, make, methods
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward

from mbrec.balance import BalanceHook, ElementwiseBalancer, GramianBalancer, MoCo
from mbrec.balance.solvers.simplex import project_to_simplex

K = len(TASKS)


def separate_gradients(step: int) -> list[dict[str, torch.Tensor]]:
    """Return the gradients of each task's loss, of K backward passes without a hook."""
    found = []
    for k in range(K):
        plain = Model(None)
        plain.losses(*batch(step))[k].backward()
        found.append({n: p.grad for n, p in plain.named_parameters() if p.grad is not None})
    return found


def flat(gradients: dict[str, torch.Tensor], part: str = "module.") -> torch.Tensor:
    """Return a part's gradients as one vector, in the order of its parameters."""
    return torch.cat(
        [value.flatten() for name, value in gradients.items() if name[: len(part)] == part]
    )


def check_others(found, separate, weights_K):
    """The rest of the bottom gets the same weights, and each head its own gradient."""
    expected = sum(
        w * flat(g, "bottom.").double() for w, g in zip(weights_K, separate, strict=True)
    )
    torch.testing.assert_close(flat(found, "bottom.").double(), expected, rtol=1e-4, atol=1e-7)
    for task, gradients in zip(TASKS, separate, strict=True):
        own = f"heads.{task}."
        assert torch.equal(flat(found, own), flat(gradients, own))


@pytest.mark.parametrize("label", methods(GramianBalancer))
def test_weights_and_gradients_are_those_of_separate_backward_passes(label):
    model, reference = Model(label, at_module=True), make(label)
    reference.name_tasks(TASKS)
    for step in range(4):
        separate = separate_gradients(step)
        grads_KP = torch.stack([flat(gradients) for gradients in separate]).double()
        losses_K = Model(None).losses(*batch(step)).detach()
        found = backward(model, step)
        torch.testing.assert_close(model.hook.gramian, grads_KP @ grads_KP.T, rtol=1e-5, atol=1e-9)
        expected_K = reference(grads_KP @ grads_KP.T, losses_K=losses_K)
        torch.testing.assert_close(model.hook.weights, expected_K, rtol=1e-4, atol=1e-6)
        merged_P = model.hook.weights @ grads_KP
        torch.testing.assert_close(flat(found).double(), merged_P, rtol=1e-4, atol=1e-7)
        check_others(found, separate, model.hook.weights)


@pytest.mark.parametrize("normalise", ["loss", "none"])
def test_moco_gives_the_module_its_tracked_direction_and_the_rest_its_weights(normalise):
    model = Model("MoCo" if normalise == "loss" else "MoCo without losses")
    balancer = model.hook.balancer
    average_KP = torch.zeros(K, sum(p.numel() for p in model.module.parameters())).double()
    weight_K = torch.full((K,), 1 / K).double()
    for step in range(4):
        separate = separate_gradients(step)
        grads_KP = torch.stack([flat(gradients) for gradients in separate]).double()
        if normalise == "loss":
            losses_K = Model(None).losses(*batch(step)).detach().double()
            grads_KP = grads_KP * (losses_K / grads_KP.norm(dim=1))[:, None]
        found = backward(model, step)
        rate = 1 / (step + 1) ** 0.5
        average_KP += balancer.beta * rate * (grads_KP - average_KP)
        slope_K = average_KP @ average_KP.T @ weight_K
        weight_K = project_to_simplex(weight_K - balancer.gamma * rate * slope_K)
        torch.testing.assert_close(model.hook.weights, weight_K, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            flat(found).double(), weight_K @ average_KP, rtol=1e-4, atol=1e-7
        )
        check_others(found, separate, weight_K)
    # It is not the weighted sum of this batch's gradients, which another method would give.
    assert not torch.allclose(flat(found).double(), weight_K @ grads_KP, rtol=0.01)


def test_what_lies_below_the_module_is_differentiated_once():
    model, ran = Model("MGDA", at_module=True), []

    def watch(module, args, low_BH):
        low_BH.grad_fn.register_prehook(lambda grads: ran.append(module))

    model.bottom.register_forward_hook(watch)
    backward(model, 0)
    assert ran == [model.bottom]


def test_a_frozen_parameter_has_no_part_in_it():
    model = Model("MoCo")
    model.module.bias.requires_grad_(False)
    model.hook = BalanceHook(make("MoCo"), parameters=model.module)
    assert "module.bias" not in backward(model, 0)
    assert model.hook.balancer.average.shape == (K, model.module.weight.numel())


@pytest.mark.parametrize("label", ["MGDA", "MoCo"])
@pytest.mark.parametrize("where", ["elsewhere", "above", "half above"])
def test_a_module_that_is_not_below_the_representation_is_refused(label, where):
    model = Model(None)
    modules = {
        "elsewhere": nn.Linear(D, D),
        "above": model.heads["ctr"],
        "half above": nn.ModuleList([model.module, model.heads["ctr"]]),
    }
    model.hook = BalanceHook(make(label), parameters=modules[where])
    with pytest.raises(ValueError, match=r"expected .* to lie below the representation"):
        backward(model, 0)


def test_a_module_without_anything_to_train_is_refused():
    for module in (nn.ReLU(), nn.Linear(D, D).requires_grad_(False)):
        with pytest.raises(ValueError, match="expected a module with trainable parameters, got"):
            BalanceHook(make("MGDA"), parameters=module)


def test_a_module_whose_table_updates_itself_is_refused():
    """K backward passes would be K updates: the paper has no figure there either."""
    module = nn.EmbeddingBag(5, D)
    _apply_optimizer_in_backward(torch.optim.SGD, module.parameters(), {"lr": 0.1})
    with pytest.raises(ValueError, match="got EmbeddingBag with weight: a fused table applies"):
        BalanceHook(make("MGDA"), parameters=module)


@pytest.mark.parametrize("label", methods(ElementwiseBalancer))
def test_a_method_of_single_elements_is_refused_at_parameters(label):
    with pytest.raises(ValueError, match="expected a method that weighs whole gradients"):
        Model(label, at_module=True)


def test_moco_is_refused_at_the_representation():
    with pytest.raises(ValueError, match=r"expected parameters=module for MoCo.*other samples"):
        BalanceHook(MoCo(K))


@pytest.mark.parametrize("label", ["MGDA", "MoCo", "MultiBalance"])
def test_a_non_finite_value_that_a_relu_hides_from_the_module_merges_to_zero(label):
    torch.manual_seed(0)
    module = nn.Linear(D, D)
    hook = BalanceHook(make(label), task_names=TASKS, parameters=module)
    for step in range(3):
        module.zero_grad()
        x_BD = torch.randn(B, D, requires_grad=True)
        shared_BH = module(x_BD).relu()
        views = hook(shared_BH)
        losses_K = torch.stack([view.square().mean() * 0.5 for view in views])
        hook.observe(losses_K)
        before = {name: value.clone() for name, value in hook.state_dict().items()}
        if step == 2:
            hidden_BH = torch.where(shared_BH == 0, float("nan"), 1.0)
            assert hidden_BH.isnan().any()
            views[1].register_hook(lambda grad, hidden_BH=hidden_BH: grad * hidden_BH)
        losses_K.sum().backward()
        assert bool(hook.ok) == (step < 2)
        assert bool(module.weight.grad.any()) == (step < 2)
    assert torch.equal(x_BD.grad, torch.zeros(B, D))
    assert torch.equal(module.bias.grad, torch.zeros(D))
    torch.testing.assert_close(dict(hook.state_dict()), before, rtol=0, atol=0)


def test_a_backward_that_does_not_pass_the_hook_leaves_the_module_its_own_gradient():
    model = Model("MoCo")
    backward(model, 0)
    model.zero_grad()
    model.module.weight.square().sum().backward()
    torch.testing.assert_close(model.module.weight.grad, 2 * model.module.weight.detach())
    assert backward(model, 1)["module.weight"].any()


def test_a_copy_of_a_model_that_has_trained_goes_on_as_the_model_does():
    model = Model("MoCo")
    for step in range(2):
        backward(model, step)
    twin = copy.deepcopy(model)
    for step in range(2, 4):
        torch.testing.assert_close(backward(twin, step), backward(model, step), rtol=0, atol=0)


def test_one_task_alone_keeps_its_gradient():
    model, plain = Model("MGDA", TASKS[:1], at_module=True), Model(None, TASKS[:1])
    assert set(TASKS[:1]) < set(SEEDS)
    torch.testing.assert_close(backward(model, 0), backward(plain, 0))
