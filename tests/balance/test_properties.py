"""One suite of properties for every method that `mbrec.balance` exports, through the hook.

A new method is found by itself; it has to say in the tables what it does to gradients that are
scaled, and to gradients that agree. Shapes: B batch, K tasks, H representation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchjd import aggregation, linalg

import mbrec.balance
from mbrec.balance import BalanceHook, Balancer, ParameterBalancer

B, H = 3, 4
KINDS: dict[str, type[Balancer]] = {
    name: kind
    for name in mbrec.balance.__all__
    if issubclass(kind := getattr(mbrec.balance, name), Balancer) and not name.endswith("Balancer")
}
METHODS = sorted(KINDS)
NAMES = ("ctr", "cvr", "like", "share")
CHOSEN = dict(zip(NAMES, [0.5, 2.0, 1.0, 0.25], strict=True))
LOSS = dict(zip(NAMES, [0.7, 0.2, 0.4, 0.1], strict=True))
CONSTANT = ("Equal", "Static")
# Methods with a preference of 1/K a task, of which an idle task keeps its own.
PREFERENCE = ("AlignedMTL", "UPGrad")

# The exponent with which the weights go, when all gradients have a common factor.
COMMON_FACTOR = {
    "AlignedMTL": 0, "CAGrad": 0, "ConFIG": 0, "DBMTL": 0, "Equal": 0, "FAMO": 0, "GradCraft": 0,
    "GradDrop": 0, "GradVac": 0, "IMTLG": 0, "MGDA": 0, "MoCo": 0, "MultiBalance": 0,
    "NashMTL": -1, "PCGrad": 0, "SDMGrad": 0, "Static": 0, "TorchJD": 0, "UPGrad": 0,
    "Uncertainty": 0,
}  # fmt: skip
# What a factor on one task's gradient leaves alone: the merged gradient, the weights, the merged
# gradient's direction, its being affine in the factor, or nothing.
ONE_FACTOR = {
    "MoCo": "gradient", "NashMTL": "gradient",
    "Equal": "weights", "Static": "weights", "Uncertainty": "weights",
    "ConFIG": "direction", "DBMTL": "direction", "IMTLG": "direction",
    "GradVac": "affine", "PCGrad": "affine", "TorchJD": "affine", "UPGrad": "affine",
    "AlignedMTL": None, "CAGrad": None, "FAMO": None, "GradCraft": None, "GradDrop": None,
    "MGDA": None, "MultiBalance": None, "SDMGrad": None,
}  # fmt: skip
# The multiple of one gradient of norm n that K tasks get merged to, if all have that gradient.
AGREEING: dict[str, Callable[[int, float], float]] = {
    **dict.fromkeys(["ConFIG", "DBMTL", "Equal", "GradDrop", "GradVac", "PCGrad"], lambda K, n: K),
    **dict.fromkeys(["AlignedMTL", "FAMO", "GradCraft", "IMTLG", "MGDA"], lambda K, n: 1.0),
    **dict.fromkeys(["MultiBalance", "SDMGrad", "TorchJD", "UPGrad"], lambda K, n: 1.0),
    "CAGrad": lambda K, n: (1 + 0.5) / (1 + 0.5**2),
    "MoCo": lambda K, n: 0.5 / n,
    "NashMTL": lambda K, n: 1.0 / n,
    "Static": lambda K, n: sum(CHOSEN[name] for name in NAMES[:K]),
    "Uncertainty": lambda K, n: K / 2,
}
seeds = st.integers(0, 10_000)
some = settings(max_examples=10, derandomize=True)
# For properties that hold exactly, of which the closed forms have more cases.
few = settings(max_examples=4, derandomize=True)
every_method = pytest.mark.parametrize("method", METHODS)


class Bench:
    """A hook above a bottom, where the gradients of the tasks are the rows that a test asks for.

    The bottom's parameters are the representation: a method for parameters sees the same rows.
    """

    def __init__(
        self, method: str, names: Sequence[str], dtype: torch.dtype = torch.float64, **options: Any
    ) -> None:
        if method == "Static":
            options = {"weights": [CHOSEN[name] for name in names]} | options
        if method == "TorchJD":
            # torchjd's own ridge of 1e-4 hides what the method does to tasks of unequal size.
            projector = linalg.QuadprogProjector(norm_eps=1e-30, reg_eps=1e-10)
            options = {"weighting": aggregation.UPGradWeighting(projector=projector)} | options
        kind = KINDS[method]
        self.names = tuple(names)
        self.bottom = nn.Linear(B, H, bias=False, dtype=dtype)
        # GradDrop goes by the signs of the representation.
        self.bottom.weight.data = random_rows(0, 1)[0].T.contiguous().to(dtype)
        parameters = self.bottom if issubclass(kind, ParameterBalancer) else None
        self.hook = BalanceHook(
            kind(len(names), **options), task_names=names, statistics=True, parameters=parameters
        )

    def step(
        self, rows_KBH: Tensor, losses_K: Tensor | None = None, counts_K: Tensor | None = None
    ) -> Tensor:
        """Run one forward and backward pass, and return the merged gradient (B, H)."""
        self.bottom.zero_grad()
        views = self.hook(self.bottom(torch.eye(B, dtype=self.bottom.weight.dtype)))
        pairs = zip(views, rows_KBH.to(self.bottom.weight.dtype), strict=True)
        losses = [(view * row).sum() for view, row in pairs]
        if losses_K is None:
            losses_K = torch.tensor([LOSS[name] for name in self.names])
        self.hook.observe(losses_K, counts_K)
        torch.stack(losses).sum().backward()
        return self.bottom.weight.grad.T.clone()

    def saved(self) -> dict[str, Tensor]:
        """Return a copy of the state, by the names it is saved under."""
        return {key: value.clone() for key, value in self.hook.state_dict().items()}


def random_rows(seed: int, num_tasks: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tasks, B, H, generator=generator, dtype=torch.float64)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_every_method_is_in_the_suite_and_in_its_tables():
    assert len(METHODS) >= 20
    assert set(METHODS) == set(COMMON_FACTOR) == set(ONE_FACTOR) == set(AGREEING)


@every_method
@some
@given(
    seed=seeds,
    bits=st.lists(st.integers(-2, 2), min_size=36, max_size=36),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_finite_gradient_gives_finite_results_at_every_step(method, seed, bits, dtype):
    """Zero, equal, opposed, nearly dependent and very unequal rows, at all sizes there are."""
    bench = Bench(method, NAMES[:3], dtype)
    plain = torch.tensor(bits, dtype=torch.float64).view(3, B, H)
    noise = random_rows(seed)
    exponents = torch.linspace(-6, 3, 3, dtype=torch.float64)[torch.arange(3).roll(seed)]
    unequal = noise * 10 ** exponents.view(3, 1, 1)
    opposed = torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1) * noise[:1] + 1e-9 * noise.flip(0)
    for rows in (plain, plain + 1e-8 * noise, unequal, opposed, 1e-3 * plain, 1e-6 * noise):
        merged = bench.step(rows)
        assert bench.hook.ok
        for result in (merged, bench.hook.weights, *bench.saved().values()):
            assert torch.isfinite(result).all()


@every_method
@few
@given(seed=seeds, order=st.permutations(range(4)))
def test_another_order_of_the_tasks_changes_nothing_but_the_order(method, seed, order):
    one, other = Bench(method, NAMES), Bench(method, [NAMES[k] for k in order])
    for step in range(3):
        rows = random_rows(seed + step, 4)
        close(other.step(rows[order]), one.step(rows))
        close(other.hook.weights, one.hook.weights[order])
    assert one.saved().keys() == other.saved().keys()
    for key, value in one.saved().items():
        close(other.saved()[key].double(), value.double())


@every_method
@few
@given(seed=seeds, exponent=st.sampled_from([-20, -3, 2, 10]))
def test_the_weights_follow_a_common_factor_as_declared(method, seed, exponent):
    one, other = Bench(method, NAMES[:3]), Bench(method, NAMES[:3])
    factor = 2.0**exponent
    for step in range(3):
        rows = random_rows(seed + step)
        one.step(rows)
        other.step(rows * factor)
        close(other.hook.weights / factor ** COMMON_FACTOR[method], one.hook.weights)


@pytest.mark.parametrize(
    ("method", "options"),
    [("MultiBalance", {"update": "inner"}), ("MoCo", {"normalise": "none"})],
)
def test_some_forms_do_depend_on_a_common_factor(method, options):
    one, other = Bench(method, NAMES[:3], **options), Bench(method, NAMES[:3], **options)
    one.step(0.1 * random_rows(0))
    other.step(0.2 * random_rows(0))
    assert not torch.allclose(one.hook.weights, other.hook.weights, rtol=1e-3)


def left_alone(method: str) -> str | None:
    """Return what of the second of three conflicting tasks' size the result does not depend on."""
    results = []
    for factor in (1.0, 2.0, 3.0):
        bench = Bench(method, NAMES[:3])
        sizes = torch.tensor([1.0, 2.0 * factor, 5.0]).view(3, 1, 1)
        for seed in (1, 2):
            noise = random_rows(seed, 4)
            conflicting = noise[:3] + noise[3] * torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1)
            merged = bench.step(sizes * conflicting)
        results.append((merged, bench.hook.weights.clone()))
    (one, weights_1), (two, weights_2), (three, _) = results
    if torch.allclose(one, two, atol=1e-6):
        return "gradient"
    if torch.allclose(weights_1, weights_2, atol=1e-6):
        return "weights"
    if torch.allclose(one / one.norm(), two / two.norm(), atol=1e-6):
        return "direction"
    return "affine" if torch.allclose(three - two, two - one, atol=1e-6) else None


@every_method
def test_a_factor_on_one_task_leaves_alone_what_is_declared(method):
    assert left_alone(method) == ONE_FACTOR[method]


@every_method
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_tasks_that_agree_are_merged_to_a_multiple_of_their_gradient(method, num_tasks):
    bench = Bench(method, NAMES[:num_tasks])
    row = random_rows(num_tasks, 1)[0]
    merged = bench.step(row.expand(num_tasks, B, H), losses_K=torch.ones(num_tasks))
    close(merged, AGREEING[method](num_tasks, float(row.norm())) * row)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("Static", "GradDrop")])
def test_two_opposed_tasks_of_one_size_are_merged_to_zero(method):
    """`Static` has weights of somebody's choice; `GradDrop` takes one of the two by chance."""
    bench = Bench(method, NAMES[:2])
    row = random_rows(0, 1)[0]
    for _ in range(3):
        merged = bench.step(torch.stack([row, -row]), losses_K=torch.ones(2))
        close(merged, torch.zeros_like(merged))


@every_method
@some
@given(seed=seeds, idle=st.integers(0, 2), how=st.sampled_from(["zero gradient", "no sample"]))
def test_an_inactive_task_keeps_its_state_and_gets_no_weight(method, seed, idle, how):
    bench = Bench(method, NAMES[:3])
    bench.step(random_rows(seed))
    before = bench.saved()
    rows, counts_K = random_rows(seed + 1), torch.full((3,), 9)
    counts_K[idle] = 0
    # Without a sample the gradient is zero anyway, and these methods rely on it.
    if how == "zero gradient" or method in (*CONSTANT, "GradDrop"):
        rows[idle] = 0
    losses_K = torch.full((3,), 0.9)
    merged = bench.step(rows, losses_K, counts_K if how == "no sample" else None)
    assert torch.isfinite(merged).all()
    assert merged.abs().max() > 0
    if method not in CONSTANT:
        assert bench.hook.weights[idle] == 0
    own = [key for key in before if NAMES[idle] in key.split(".")]
    assert all(torch.equal(before[key], bench.saved()[key]) for key in own)


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m not in ("MultiBalance", "SDMGrad", "MoCo")]
)
@few
@given(seed=seeds, idle=st.integers(0, 2))
def test_a_zero_gradient_is_as_if_the_task_were_not_there(method, seed, idle):
    """Else the idle task keeps its share of the weights, which are state."""
    rows, rest = random_rows(seed), [k for k in range(3) if k != idle]
    rows[idle] = 0
    with_idle, without = Bench(method, NAMES[:3]), Bench(method, [NAMES[k] for k in rest])
    for _ in range(2):
        expected = without.step(rows[rest])
        close(with_idle.step(rows), expected * (2 / 3 if method in PREFERENCE else 1.0))


@every_method
def test_no_active_task_changes_no_state_and_merges_to_zero(method):
    bench = Bench(method, NAMES[:3])
    bench.step(random_rows(0))
    before = {key: value for key, value in bench.saved().items() if not key.endswith("step")}
    assert bench.step(torch.zeros(3, B, H)).abs().max() == 0
    assert torch.isfinite(bench.hook.weights).all()
    assert all(torch.equal(value, bench.saved()[key]) for key, value in before.items())


@every_method
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_non_finite_value_leaves_no_trace(method, bad, where):
    one, other = Bench(method, NAMES[:3]), Bench(method, NAMES[:3])
    one.step(random_rows(0))
    other.step(random_rows(0))
    before, rows, losses_K = one.saved(), random_rows(1), torch.ones(3)
    if where == "gradient":
        rows[1, 2, 3] = bad
    else:
        losses_K[1] = bad
    assert not one.step(rows, losses_K).any()
    assert not one.hook.weights.any()
    assert not one.hook.ok
    assert one.hook.skipped == 1
    assert same_state(before, one.saved())
    assert torch.equal(one.step(random_rows(2)), other.step(random_rows(2)))
    assert one.hook.ok
