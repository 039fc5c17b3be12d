import copy
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import mbrec.balance
from mbrec.balance import BalanceHook, Equal, MultiBalance
from mbrec.balance.balancer import GramianBalancer

B, D, H = 32, 6, 8
MODULES = ["mbrec.balance"] + [
    f"mbrec.balance.{path.stem}"
    for path in sorted(Path(mbrec.balance.__file__).parent.glob("[!_]*.py"))
]


class Fixed(GramianBalancer):
    """A balancer with weights from outside."""

    def __init__(self, weights):
        super().__init__(len(weights))
        self.register_buffer("values", torch.tensor(weights, dtype=torch.float64))

    def weigh(self, gramian_KK, active_K, ok, losses_K):
        return self.values


class Model(nn.Module):
    def __init__(self, num_tasks: int, hook: nn.Module | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bottom = nn.Sequential(nn.Linear(D, H), nn.Tanh())
        self.heads = nn.ModuleList(
            nn.Sequential(*[m for _ in range(k % 3) for m in (nn.Linear(H, H), nn.ReLU())])
            for k in range(num_tasks)
        )
        self.outs = nn.ModuleList(nn.Linear(H, 1) for _ in range(num_tasks))
        self.hook = hook

    def losses(self, x, y):
        z = self.bottom(x)
        views = self.hook(z) if self.hook is not None else (z,) * len(self.heads)
        logits = [out(head(v)) for head, out, v in zip(self.heads, self.outs, views, strict=True)]
        pairs = zip(logits, y.T, strict=True)
        return [nn.functional.binary_cross_entropy_with_logits(p[:, 0], t) for p, t in pairs]


def batch(num_tasks: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator)
    return x, (torch.rand(B, num_tasks, generator=generator) < 0.3).float()


def gradients(model, num_tasks):
    model.zero_grad()
    sum(model.losses(*batch(num_tasks))).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("statistics", [False, True])
def test_equal_is_bitwise_the_model_without_the_hook(num_tasks, statistics):
    plain = gradients(Model(num_tasks, None), num_tasks)
    hook = BalanceHook(Equal(num_tasks), statistics=statistics)
    hooked = gradients(Model(num_tasks, hook), num_tasks)
    assert all(torch.equal(plain[name], hooked[name]) for name in plain)
    assert (hook.gramian is not None) == statistics


def test_heads_get_their_own_gradients_bit_for_bit_under_any_weights():
    plain = gradients(Model(3, None), 3)
    hooked = gradients(Model(3, BalanceHook(Fixed([0.0, 7.0, -2.0]))), 3)
    heads = [name for name in plain if not name.startswith("bottom")]
    assert heads
    assert all(torch.equal(plain[name], hooked[name]) for name in heads)


def test_the_bottom_gets_the_weighted_sum_of_the_task_gradients():
    weights = [0.2, 0.5, 0.3]
    model = Model(3, None)
    merged = sum(w * loss for w, loss in zip(weights, model.losses(*batch(3)), strict=True))
    merged.backward()
    expected = model.bottom[0].weight.grad
    hooked = gradients(Model(3, BalanceHook(Fixed(weights))), 3)
    torch.testing.assert_close(hooked["bottom.0.weight"], expected)


def test_the_gramian_is_that_of_the_representation_gradients():
    hook = BalanceHook(MultiBalance(3), task_names=["a", "b", "c"])
    model = Model(3, hook)
    z = model.bottom(batch(3)[0]).detach().requires_grad_()
    model.bottom = nn.Identity()
    plain = copy.deepcopy(model)
    plain.hook = None
    rows = [torch.autograd.grad(loss, z)[0].flatten() for loss in plain.losses(z, batch(3)[1])]
    jacobian = torch.stack(rows).double()
    sum(model.losses(z, batch(3)[1])).backward()
    torch.testing.assert_close(hook.gramian, jacobian @ jacobian.T, rtol=1e-6, atol=0)
    torch.testing.assert_close(hook.grad_norms, jacobian.norm(dim=1), rtol=1e-6, atol=0)
    unit = nn.functional.normalize(jacobian)
    torch.testing.assert_close(hook.cosines, unit @ unit.T, rtol=0, atol=1e-6)


def test_a_tuple_representation_adds_the_gramians_of_its_parts():
    torch.manual_seed(0)
    z = torch.randn(B, H)
    heads = [nn.Linear(H, 1) for _ in range(2)]
    results = []
    for parts in ((z,), (z[:, :3].contiguous(), z[:, 3:].contiguous())):
        leaves = tuple(part.clone().requires_grad_() for part in parts)
        hook = BalanceHook(MultiBalance(2))
        views = hook(leaves)
        losses = [h(torch.cat(v, 1)).square().mean() for h, v in zip(heads, views, strict=True)]
        sum(losses).backward()
        results.append((hook.gramian, torch.cat([leaf.grad for leaf in leaves], 1)))
    torch.testing.assert_close(results[0], results[1])


def test_a_backward_for_each_task_is_refused():
    z = torch.randn(B, H, requires_grad=True)
    first, second = BalanceHook(MultiBalance(2))(z)
    first.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="expected one backward through a forward of the hook"):
        second.sum().backward()


def test_losses_may_be_a_list():
    hook = BalanceHook(MultiBalance(2))
    z = torch.randn(B, H, requires_grad=True)
    losses = [view.square().mean() for view in hook(z)]
    hook.observe(losses)
    sum(losses).backward()
    assert hook.losses.tolist() == pytest.approx([loss.item() for loss in losses])


def test_a_part_without_a_gradient_takes_no_part():
    torch.manual_seed(0)
    z, raw = torch.randn(B, H, requires_grad=True), torch.randn(B, 2)
    hook = BalanceHook(MultiBalance(2))
    views = hook((z, raw))
    assert all(torch.equal(view[1], raw) for view in views)
    sum(
        (view[0].square().sum() + view[1].sum()) * (k + 1) for k, view in enumerate(views)
    ).backward()
    rows = torch.stack([2 * z.detach().flatten(), 4 * z.detach().flatten()]).double()
    torch.testing.assert_close(hook.gramian, rows @ rows.T, rtol=1e-6, atol=0)


def test_the_hook_is_the_identity_in_eval_and_without_gradients():
    z = torch.randn(B, H, requires_grad=True)
    hook = BalanceHook(MultiBalance(2))
    with torch.no_grad():
        assert all(torch.equal(view, z) for view in hook(z))
    assert all(torch.equal(view, z) and not view.requires_grad for view in hook(z.detach()))
    hook.eval()
    views = hook(z)
    torch.stack([view.sum() for view in views]).sum().backward()
    assert torch.equal(z.grad, torch.full_like(z, 2.0))
    assert hook.gramian is None


def test_a_head_that_takes_no_part_is_a_zero_row():
    hook = BalanceHook(MultiBalance(3))
    z = torch.randn(B, H, requires_grad=True)
    a, _, c = hook(z)
    (a.square().mean() + c.sum()).backward()
    assert hook.gramian[1].tolist() == [0, 0, 0]
    assert hook.weights[1] == 0
    assert hook.ok


@pytest.mark.parametrize("bad", ["gradient", "loss"])
@pytest.mark.parametrize("balancer", [MultiBalance(2), Equal(2)])
def test_a_non_finite_value_merges_to_zero_and_is_reported(bad, balancer):
    hook = BalanceHook(balancer, statistics=True)
    z = torch.randn(B, H, requires_grad=True)
    a, b = hook(z)
    scale = torch.ones(B, H)
    if bad == "gradient":
        scale[3, 2] = float("nan")
    losses = torch.stack([(a * scale).sum(), b.sum()])
    hook.observe(torch.tensor([1.0, float("inf" if bad == "loss" else "1.0")]))
    losses.sum().backward()
    assert torch.equal(z.grad, torch.zeros(B, H))
    assert not hook.ok
    assert hook.skipped == 1


def test_counts_decide_which_tasks_are_active():
    hook = BalanceHook(MultiBalance(2))
    z = torch.randn(B, H, requires_grad=True)
    a, b = hook(z)
    hook.observe(torch.ones(2), torch.tensor([5, 0]))
    (a.square().sum() + b.square().sum()).backward()
    assert hook.weights[1] == 0
    assert hook.weights[0] > 0


def test_loss_scale_does_not_change_weights_or_averages():
    results = []
    for scale in (1.0, 2.0**16):
        hook = BalanceHook(MultiBalance(2))
        hook.loss_scale = scale
        torch.manual_seed(0)
        for _ in range(3):
            z = torch.randn(B, H, requires_grad=True)
            a, b = hook(z)
            (scale * (a.square().mean() + b.mean())).backward()
        results.append((hook.balancer.weight, hook.balancer.norm_average))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gradients_have_float32_statistics(dtype):
    hook = BalanceHook(MultiBalance(2))
    z = torch.full((64, 1024), 0.01, dtype=dtype, requires_grad=True)
    a, b = hook(z)
    (a.sum() * 100 + b.sum()).backward()
    assert z.grad.dtype == dtype
    # 100^2 * 65,536 overflows float16 and is exact here.
    assert float(hook.gramian[0, 0]) == pytest.approx(100.0**2 * 64 * 1024, rel=1e-3)


def test_state_is_saved_by_task_name_and_loads_in_any_order():
    hook = BalanceHook(MultiBalance(3), task_names=["ctr", "cvr", "like"])
    gradients(Model(3, hook), 3)
    state = hook.state_dict()
    assert {"balancer.weight.ctr", "balancer.norm_average.like", "balancer.step"} <= state.keys()
    other = BalanceHook(MultiBalance(3), task_names=["like", "ctr", "cvr"])
    other.load_state_dict(state)
    assert torch.equal(other.balancer.weight, hook.balancer.weight[[2, 0, 1]])
    assert other.balancer.step == 1


@pytest.mark.parametrize("names", [["ctr", "cvr"], ["ctr", "cvr", "share"]])
def test_state_of_other_tasks_is_refused(names):
    hook = BalanceHook(MultiBalance(3), task_names=["ctr", "cvr", "like"])
    other = BalanceHook(MultiBalance(len(names)), task_names=names)
    with pytest.raises(ValueError, match=r"expected the state of the tasks .*weight\.like"):
        other.load_state_dict(hook.state_dict())


def test_asked_for_a_new_task_starts_at_its_prior_and_a_dropped_ones_mass_is_shared():
    hook = BalanceHook(MultiBalance(3), task_names=["ctr", "cvr", "like"])
    hook.balancer.weight.copy_(torch.tensor([0.2, 0.6, 0.2]))
    other = BalanceHook(MultiBalance(3), task_names=["share", "ctr", "cvr"])
    state = other.adapt_state_dict(hook.state_dict(), new=["share"], dropped=["like"])
    other.load_state_dict(state)
    expected = torch.tensor([1 / 3, 2 / 3 * 0.25, 2 / 3 * 0.75], dtype=torch.float64)
    torch.testing.assert_close(other.balancer.weight, expected)
    with pytest.raises(ValueError, match="expected the saved tasks to differ by"):
        other.adapt_state_dict(hook.state_dict(), new=["share"])


def test_a_dropped_task_that_held_all_the_weight_leaves_the_rest_their_prior():
    hook = BalanceHook(MultiBalance(3), task_names=["ctr", "cvr", "step"])
    hook.balancer.weight.copy_(torch.tensor([0.0, 0.0, 1.0]))
    other = BalanceHook(MultiBalance(2, prior=[3, 1]), task_names=["ctr", "cvr"])
    other.load_state_dict(other.adapt_state_dict(hook.state_dict(), dropped=["step"]))
    assert other.balancer.weight.tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", ""], ["a", "b.c"]])
def test_names_that_do_not_fit_are_refused(names):
    with pytest.raises(ValueError, match="task names"):
        BalanceHook(Equal(2), task_names=names)


def test_a_representation_that_is_no_tensor_is_refused():
    with pytest.raises(ValueError, match="expected a tensor"):
        BalanceHook(Equal(2))([1.0, 2.0])


def test_an_optimizer_never_sees_the_state():
    assert list(BalanceHook(MultiBalance(3)).parameters()) == []


@pytest.mark.parametrize("balancer", [MultiBalance, Equal])
def test_no_operation_of_backward_reads_a_value_back_to_the_host(balancer):
    """Meta tensors have no values: an `.item()` or an `if` on one would raise."""
    hook = BalanceHook(balancer(3)).to("meta")
    z = torch.empty(B, H, device="meta", requires_grad=True)
    views = hook(z)
    hook.observe(torch.empty(3, device="meta"), torch.empty(3, device="meta"))
    torch.stack([view.sum() for view in views]).sum().backward()
    assert z.grad.shape == (B, H)
    assert hook.weights.device == hook.ok.device == z.device


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_every_public_name_has_an_example():
    exported = {name: getattr(mbrec.balance, name).__doc__ for name in mbrec.balance.__all__}
    assert {name for name, text in exported.items() if ">>> " not in text} == set()


def test_the_library_imports_torch_alone():
    heavy = ["torchrec", "fbgemm_gpu", "hydra", "omegaconf", "pyarrow", "tensorboard", "tqdm"]
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy})); import mbrec.balance"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
