"""The hook beside what torch does to models: compile, checkpoint, export, copy, autocast."""

import copy
from contextlib import nullcontext

import pytest
import torch
from methods import TASKS, B, D, H, Model, backward, batch, make, methods
from torch.utils.checkpoint import checkpoint

from mbrec.balance import (
    BalanceHook,
    ElementwiseBalancer,
    GramianBalancer,
    MultiBalance,
    ParameterBalancer,
    SDMGrad,
)

K, STEPS = len(TASKS), 3
AT_PARAMETERS = [("MGDA", {"at_module": True})] + [(m, {}) for m in methods(ParameterBalancer)]
AT_REPRESENTATION = [(m, {}) for m in methods(GramianBalancer, ElementwiseBalancer)]
EVERY_WAY = [*AT_REPRESENTATION, ("MGDA", {"lag": 1}), *AT_PARAMETERS]
# One method of each way through backward, with and without losses and a representation to read.
SOME = [(m, {}) for m in ("MultiBalance", "MGDA of losses", "GradDrop", "Equal")]
SOME += [("FAMO", {"lag": 1}), *AT_PARAMETERS]


def trained(model: Model) -> tuple:
    """Return the gradients and weights of each step, and the state after them."""
    steps = [(backward(model, step), model.hook.weights.clone()) for step in range(STEPS)]
    return steps, dict(model.hook.state_dict()), int(model.hook.skipped)


def assert_equal(found, expected, *, rtol=0.0, atol=0.0):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("label", "options"), EVERY_WAY)
def test_heads_train_bit_for_bit_as_without_the_hook(label, options):
    model, plain = Model(label, **options), Model(None)
    for step in range(STEPS):
        found, expected = backward(model, step), backward(plain, step)
        heads = [name for name in expected if name.startswith("heads.")]
        assert len(heads) == 4 * K
        assert all(torch.equal(found[name], expected[name]) for name in heads)


class Checkpointed(Model):
    """Recomputes the lower bottom, or all from the hook on, in backward."""

    part, use_reentrant = "bottom", False

    def forward(self, x_BD):
        if self.part == "bottom":
            # Reentrant checkpointing wants an input that has a gradient.
            low_BH = checkpoint(
                self.bottom, x_BD.requires_grad_(), use_reentrant=self.use_reentrant
            )
            return self.top(self.module(low_BH))
        shared_BH = self.module(self.bottom(x_BD))
        return checkpoint(self.top, shared_BH, use_reentrant=self.use_reentrant)

    def top(self, shared_BH):
        views = self.hook(shared_BH)
        return torch.cat([h(v) for h, v in zip(self.heads.values(), views, strict=True)], 1)


@pytest.mark.parametrize("part", ["bottom", "heads"])
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(("label", "options"), SOME)
def test_checkpointing_changes_nothing(label, options, use_reentrant, part):
    model = Checkpointed(label, **options)
    model.part, model.use_reentrant = part, use_reentrant
    if part == "heads" and use_reentrant and (label, options) in AT_PARAMETERS:
        # It cuts the graph below the hook, where the K gradients would have to go down.
        with pytest.raises(ValueError, match="to lie below the representation"):
            backward(model, 0)
        return
    assert_equal(trained(model), trained(Model(label, **options)))


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("label", "options"), SOME)
def test_a_compiled_bottom_and_compiled_heads_change_nothing(label, options, compiler):
    model, expected = Model(label, **options), trained(Model(label, **options))
    for part in (model.bottom, model.module, *model.heads.values()):
        part.compile(backend="aot_eager")
    assert_equal(trained(model), expected, rtol=1e-4, atol=1e-7)


# While it traces, Dynamo makes an object of an autograd function's class, and looks at the
# gradient of a tensor that is no leaf; torch warns of both.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
def test_a_model_that_is_compiled_whole_trains_the_same(compiler):
    model, expected = Model("MultiBalance"), trained(Model("MultiBalance"))
    model.compile(backend="aot_eager")
    assert_equal(trained(model), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("label", "options"), EVERY_WAY)
def test_evaluation_leaves_no_trace(label, options):
    model, plain = Model(label, **options), Model(None)
    backward(model, 0)
    before = {name: value.clone() for name, value in model.hook.state_dict().items()}
    x_BD, labels = batch(1)
    with torch.no_grad():
        assert torch.equal(model(x_BD), plain(x_BD))
    model.eval()
    for network in (model, plain):
        network.zero_grad()
        network.losses(x_BD, labels).sum().backward()
    for name, parameter in plain.named_parameters():
        assert torch.equal(model.get_parameter(name).grad, parameter.grad), name
    assert_equal(dict(model.hook.state_dict()), before)


@pytest.mark.parametrize("bypass", [False, True])
@pytest.mark.parametrize("label", ["MultiBalance", "GradDrop", "MoCo"])
def test_an_exported_model_has_no_operation_of_the_hook_but_its_copies(label, bypass):
    model, plain = Model(label), Model(None)
    backward(model, 0)
    model.hook.bypass = bypass
    graphs = [torch.export.export(m.eval(), batch(0)[:1]).graph for m in (model, plain)]
    found, expected = ([n.target for n in g.nodes if n.op == "call_function"] for g in graphs)
    copies = [target for target in found if target is torch.ops.aten.clone.default]
    assert len(copies) == (0 if bypass else K - 1)
    assert [target for target in found if target not in copies] == expected
    assert len(expected) > K


@pytest.mark.parametrize(("label", "options"), EVERY_WAY)
def test_a_copy_trains_by_itself(label, options):
    model, untouched = Model(label, **options), Model(label, **options)
    for step in range(2):
        backward(model, step)
        backward(untouched, step)
    twin = copy.deepcopy(model)
    for step in range(2, 4):
        backward(twin, step)
    assert_equal(dict(model.hook.state_dict()), dict(untouched.hook.state_dict()))
    for step in range(2, 4):
        backward(model, step)
    assert_equal(dict(twin.hook.state_dict()), dict(model.hook.state_dict()))


class Autocast(Model):
    """Heads, and the hook with them, in bfloat16; the bottom as well if `everything` is."""

    everything = False

    def forward(self, x_BD):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.everything):
            shared_BH = self.module(self.bottom(x_BD))
        with torch.autocast("cpu", torch.bfloat16):
            views = self.hook(shared_BH) if self.hook is not None else (shared_BH,) * K
            logits = [h(v) for h, v in zip(self.heads.values(), views, strict=True)]
        self.rows_KBH = [None] * K
        for k, view in enumerate(views):
            if view.requires_grad and self.hook is not None:
                view.register_hook(lambda row_BH, k=k: self.rows_KBH.__setitem__(k, row_BH))
        return torch.cat(logits, 1).float()


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("around_backward", [False, True])
@pytest.mark.parametrize(("label", "options"), [*AT_REPRESENTATION, *AT_PARAMETERS])
def test_statistics_under_autocast_are_in_full_precision(
    label, options, around_backward, everything
):
    model = Autocast(label, **options)
    model.everything = everything
    losses_K = model.losses(*batch(0))
    model.hook.observe(losses_K)
    with torch.autocast("cpu", torch.bfloat16) if around_backward else nullcontext():
        losses_K.sum().backward()
    balancer = model.hook.balancer
    assert model.hook.ok
    if (label, options) not in AT_PARAMETERS:
        rows_KN = torch.stack([row_BH.double().flatten() for row_BH in model.rows_KBH])
        assert_equal(model.hook.gramian, rows_KN @ rows_KN.T, rtol=1e-5, atol=1e-9)
    if isinstance(balancer, GramianBalancer):
        fresh = make(label)
        fresh.name_tasks(TASKS)
        expected_K = fresh(model.hook.gramian, losses_K=losses_K.detach())
        assert_equal(model.hook.weights, expected_K, rtol=1e-6, atol=1e-9)
    if isinstance(balancer, ParameterBalancer):
        found = torch.cat([p.grad.flatten() for p in model.module.parameters()])
        direction = model.hook.weights @ balancer.average.double()
        assert_equal(found.double(), direction, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("label", methods(GramianBalancer, ElementwiseBalancer))
def test_rows_of_any_type_have_the_statistics_of_float32(label, dtype):
    """The sums of squares overflow float16, and are wrong in bfloat16 after a few hundred."""
    generator = torch.Generator().manual_seed(0)
    shared_BH = torch.randn(64, 256, generator=generator)
    rows_KBH = torch.randn(K, 64, 256, generator=generator).bfloat16().float()
    rows_KBH = torch.tensor([8.0, 2.0, 4.0])[:, None, None] * (rows_KBH + rows_KBH[0].sign())
    rows_KBH = rows_KBH.bfloat16().float()  # without a rounding in any of the types
    results = []
    for kind in (torch.float32, dtype):
        hook = BalanceHook(make(label), task_names=TASKS, statistics=True)
        leaf_BH = shared_BH.to(kind, copy=True).requires_grad_()
        views = hook(leaf_BH)
        hook.observe(torch.tensor([0.7, 0.2, 0.4]))
        torch.autograd.backward(views, list(rows_KBH.to(kind)))
        assert leaf_BH.grad.dtype == kind
        results.append((hook.weights, hook.gramian, leaf_BH.grad.float()))
    assert_equal(results[1][0], results[0][0], rtol=1e-4, atol=1e-5)
    assert_equal(results[1][1], results[0][1], rtol=2e-5, atol=0)
    assert_equal(results[1][2], results[0][2], rtol=0.02, atol=0.2)


@pytest.mark.parametrize(("label", "options"), [w for w in EVERY_WAY if w[0] != "TorchJD"])
def test_nothing_is_read_back_to_the_host(label, options):
    """Meta tensors have no values: an `.item()` or an `if` on one would raise."""
    model = Model(label, **options).to("meta")
    for _ in range(2):
        x_BD = torch.empty(B, D, device="meta")
        losses_K = model(x_BD).mean(0)
        model.hook.observe(losses_K, torch.empty(K, device="meta"))
        losses_K.sum().backward()
    assert model.hook.weights.is_meta
    assert model.hook.balancer.ok.is_meta


def test_a_hook_on_another_device_than_the_representation_is_refused():
    for hook_on, shared_on in (("cpu", "meta"), ("meta", "cpu")):
        hook = BalanceHook(make("MGDA")).to(hook_on)
        with pytest.raises(
            ValueError,
            match=rf"expected a representation on {hook_on}, .* on {shared_on}; move the hook",
        ):
            hook(torch.ones(B, H, device=shared_on, requires_grad=True))


@pytest.mark.parametrize("given", [K - 1, K + 1, 0])
def test_another_number_of_losses_counts_or_gradients_than_tasks_is_refused(given):
    hook = BalanceHook(make("MGDA"))
    values, right = torch.ones(given), torch.ones(K)
    with pytest.raises(ValueError, match=f"expected {K} losses, got shape"):
        hook.observe(values)
    with pytest.raises(ValueError, match=f"expected {K} counts, got shape"):
        hook.observe(right, values)
    with pytest.raises(ValueError, match=f"expected a Gramian of {K} x {K} for {K} tasks, got"):
        hook.balancer(torch.eye(given))
    with pytest.raises(ValueError, match=f"expected {K} losses, got shape"):
        hook.balancer(torch.eye(K), losses_K=values)


@pytest.mark.parametrize("label", [m for m in methods(GramianBalancer) if make(m).needs_losses])
def test_losses_that_a_method_needs_and_nobody_told_are_asked_for(label):
    model = Model(label)
    with pytest.raises(ValueError, match=r"expected the losses .* call hook.observe\("):
        model.losses(*batch(0)).sum().backward()


@pytest.mark.parametrize("kind", [MultiBalance, SDMGrad])
@pytest.mark.parametrize(
    "prior", [[1, float("nan"), 1], [1, float("inf"), 1], [1, -1, 1], [0, 0, 0], [1, 1], [1] * 4]
)
def test_a_prior_that_is_no_distribution_of_the_tasks_is_refused(kind, prior):
    with pytest.raises(ValueError, match=f"expected prior to be {K} non-negative numbers .*got"):
        kind(K, prior=prior)


@pytest.mark.parametrize("label", methods(GramianBalancer, ElementwiseBalancer))
def test_a_model_in_16_bits_leaves_the_state_in_its_own_types(label):
    plain, halved = Model(label), Model(label)
    halved.hook.to(torch.bfloat16)
    types = [{key: v.dtype for key, v in m.hook.named_buffers()} for m in (plain, halved)]
    assert types[0] == types[1]
    for step in range(2):
        backward(plain, step)
        backward(halved, step)
    assert_equal(halved.hook.weights, plain.hook.weights, rtol=0, atol=0)
