"""torchjd 0.18 as an oracle of the same methods, and as a library of further ones.

On equal terms: Gramians of trace 1, since torchjd's thresholds are absolute; its CAGrad has no
rescaling; its `max_norm=0` is our None; its ridge and its iterations are set as fine as they go.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from test_solvers import random_rows
from torch import Tensor
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from mbrec.balance import (
    IMTLG,
    MGDA,
    AlignedMTL,
    BalanceHook,
    CAGrad,
    ConFIG,
    GradDrop,
    GradVac,
    NashMTL,
    PCGrad,
    SDMGrad,
    TorchJD,
    UPGrad,
)
from mbrec.balance.methods.task_order import PairOrder
from mbrec.balance.solvers.counter import uniform

SIZES = (2, 3, 5, 8)
PER_SIZE = 50
of_every_size = pytest.mark.parametrize("num_tasks", SIZES)
EXACT = QuadprogProjector(norm_eps=1e-30, reg_eps=1e-10)


def draws(num_tasks: int, count: int = PER_SIZE) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield gradients whose Gramian has trace 1, and that Gramian."""
    for seed in range(count):
        rows = random_rows(1000 * num_tasks + seed, num_tasks, 2 * num_tasks)
        rows = rows / rows.norm()
        yield rows, rows @ rows.T


def agree(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((got - expected).norm() / expected.norm()) <= tolerance


# Ours, theirs on a Gramian, and how far apart they may be.
ON_GRAMIANS: dict[str, tuple[Callable, Callable[[], Callable], float]] = {
    # quadprog has a ridge of 1e-10.
    "UPGrad": (UPGrad, lambda: aggregation.UPGradWeighting(projector=EXACT), 1e-6),
    # Clarabel stops at 1e-8 of its objective, which is 1e-4 of its argument.
    "CAGrad": (
        lambda K: CAGrad(K, c=0.5, rescale=0),
        lambda: aggregation.CAGradWeighting(c=0.5, norm_eps=1e-12),
        1e-3,
    ),
    "IMTLG": (IMTLG, aggregation.IMTLGWeighting, 1e-9),
    **{
        f"AlignedMTL {mode}": (
            lambda K, mode=mode: AlignedMTL(K, scale_mode=mode),
            lambda mode=mode: aggregation.AlignedMTLWeighting(scale_mode=mode),
            1e-9,
        )
        for mode in ("min", "median", "rmse")
    },
}


@pytest.mark.parametrize("method", ON_GRAMIANS)
@of_every_size
def test_weights_equal_torchjds(method, num_tasks):
    ours, theirs, tolerance = ON_GRAMIANS[method]
    for _, G in draws(num_tasks):
        agree(ours(num_tasks)(G), theirs()(G), tolerance)


@of_every_size
def test_cagrad_rescales_torchjds(num_tasks):
    for _, G in draws(num_tasks, count=5):
        theirs = aggregation.CAGradWeighting(c=0.5, norm_eps=1e-12)(G)
        agree(CAGrad(num_tasks, c=0.5)(G), theirs / (1 + 0.5**2), 1e-3)


@of_every_size
def test_mgda_is_where_the_frank_wolfe_steps_of_torchjd_go(num_tasks):
    """They near it as 1 / steps; the square of what is missing is at most the norm's excess."""
    theirs = aggregation.MGDAWeighting(epsilon=1e-9, max_iters=400)
    for rows, G in draws(num_tasks):
        ours, near = MGDA(num_tasks)(G) @ rows, theirs(G) @ rows
        assert ours.norm() <= near.norm() * (1 + 1e-9)
        assert float((ours - near).norm()) <= 1e-2 * float(rows.norm())
        excess = float(near @ near - ours @ ours)
        assert float((ours - near).norm() ** 2) <= excess + 1e-12


@of_every_size
def test_config_equals_torchjds(num_tasks):
    for rows, G in draws(num_tasks):
        agree(ConFIG(num_tasks)(G) @ rows, aggregation.ConFIG()(rows), 1e-9)


@pytest.mark.parametrize("num_tasks", SIZES[1:])
def test_config_equals_torchjds_where_gradients_depend_on_each_other(num_tasks):
    for seed in range(PER_SIZE):
        rows = random_rows(seed, num_tasks, 2)
        agree(ConFIG(num_tasks)(rows @ rows.T) @ rows, aggregation.ConFIG()(rows), 1e-6)


# Its programme is not in the form that cvxpy compiles once; it is right all the same.
@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")
@of_every_size
def test_nash_weights_equal_torchjds_where_its_solver_succeeds(num_tasks):
    """Where it fails, torchjd returns ones without a word."""
    compared = 0
    for rows, G in draws(num_tasks, count=8):
        theirs = aggregation.NashMTL(num_tasks, max_norm=0.0).weighting(rows)
        if not torch.equal(theirs, torch.ones_like(theirs)):
            agree(NashMTL(num_tasks, max_norm=None)(G), theirs, 1e-5)
            compared += 1
    assert compared >= 5


@of_every_size
def test_sdmgrad_takes_the_steps_of_torchjd(num_tasks):
    """Twice its rate is our rate: the gradient of a square against that of half a square."""
    for _, G in draws(num_tasks):
        ours = SDMGrad(num_tasks, lr=5.0, iterations=20, prior_strength=0.3)
        theirs = aggregation.SDMGradWeighting(lr=10.0, n_iter=20, lambda_=0.3)
        # Its 1e-8 beside the mean squared norm counts for less, the larger the gradients are.
        for scale in (1.0, 4.0):
            agree(ours(scale * G), theirs(1e8 * scale * G), 1e-6)


class SameOrder:
    """Gives torch.randperm the orders that our methods draw, one task after the other."""

    def __init__(self, num_tasks: int, skips_itself: bool) -> None:
        self.order = PairOrder(num_tasks, shuffle=True, seed=0)
        self.skips_itself = skips_itself
        self.next: list[Tensor] = []

    def __call__(self, count: int) -> Tensor:
        if not self.next:
            self.next = list(enumerate(self.order()))
            self.order.advance(torch.tensor(True))
        task, others = self.next.pop(0)
        if self.skips_itself:
            return torch.cat([others, torch.tensor([task])])
        return others - (others > task).long()


@of_every_size
def test_pcgrad_equals_torchjds_in_the_same_order(num_tasks, monkeypatch):
    for _, G in draws(num_tasks):
        monkeypatch.setattr(torch, "randperm", SameOrder(num_tasks, skips_itself=True))
        ours, theirs = PCGrad(num_tasks), aggregation.PCGradWeighting()
        for _ in range(3):
            agree(ours(G), theirs(G), 1e-9)


@of_every_size
def test_gradvac_equals_torchjds_in_the_same_order(num_tasks, monkeypatch):
    for number, (_, G) in enumerate(draws(num_tasks)):
        monkeypatch.setattr(torch, "randperm", SameOrder(num_tasks, skips_itself=False))
        ours, theirs = GradVac(num_tasks, ema_rate=0.5), aggregation.GradVacWeighting(eps=0.0)
        for factor in (1.0, 0.5, 2.0):
            other = random_rows(number, num_tasks, 2 * num_tasks)
            G = factor * G + 0.01 * other @ other.T
            # We leave cosines within 1e-6 of their target alone.
            agree(ours(G), theirs(G), 1e-4)


@of_every_size
def test_graddrop_equals_torchjds_for_the_same_draws(num_tasks, monkeypatch):
    for number, (rows, _) in enumerate(draws(num_tasks)):
        drawn = uniform(torch.arange(rows.shape[1]), seed=number, step=torch.tensor(0))
        monkeypatch.setattr(torch, "rand", lambda *size, drawn=drawn, **_: drawn.double())
        leak = torch.linspace(0, 0.5, num_tasks)
        theirs = aggregation.GradDrop(leak=leak)(rows)
        method = GradDrop(num_tasks, marginalise=False, leak=leak.tolist(), seed=number)
        shared = torch.ones(1, rows.shape[1], dtype=torch.float64, requires_grad=True)
        views = BalanceHook(method)(shared)
        torch.stack([(v * row).sum() for v, row in zip(views, rows, strict=True)]).sum().backward()
        agree(shared.grad[0], theirs, 1e-6)


NAMED = {
    "AlignedMTLWeighting": {},
    "CAGradWeighting": {"c": 0.4},
    "DualProjWeighting": {},
    "IMTLGWeighting": {},
    "MGDAWeighting": {"max_iters": 50},
    "MeanWeighting": {},
    "UPGradWeighting": {},
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_a_wrapped_weighting_sees_the_gramian_with_trace_one(name, size):
    for _, G in draws(3, count=5):
        weighting = getattr(aggregation, name)(**NAMED[name])
        by_name = TorchJD(3, weighting=name, arguments=NAMED[name])
        for wrapped in (by_name, TorchJD(3, weighting=weighting)):
            torch.testing.assert_close(wrapped(size * G), weighting(G), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "arguments", "idle"),
    [("UPGradWeighting", {}, 1 / 3), ("CAGradWeighting", {"c": 0.5}, 0.0)],
)
def test_gradients_as_small_as_a_representations_do_not_count_as_none(name, arguments, idle):
    """Alone, torchjd takes a trace below 1e-4 for zero, and gives 1/K or 0."""
    rows = torch.tensor([[3.0, 0, 1, -1], [-1, 2, 0, 1], [1, 1, -2, 0]], dtype=torch.float64)
    G = rows @ rows.T / rows.square().sum()
    alone = getattr(aggregation, name)(**arguments)
    expected = alone(G)
    assert alone(1e-6 * G).tolist() == pytest.approx([idle] * 3)
    wrapped = TorchJD(3, weighting=name, arguments=arguments)
    torch.testing.assert_close(wrapped(1e-6 * G), expected, rtol=1e-6, atol=1e-6)
    ours = {"UPGradWeighting": UPGrad(3), "CAGradWeighting": CAGrad(3, rescale=0)}[name]
    agree(wrapped(1e-6 * G), ours(1e-6 * G), 1e-3)


def test_a_wrapped_weighting_sees_the_active_tasks_alone():
    _, G = next(draws(3))
    weights = TorchJD(3, weighting="UPGradWeighting")(G, active_K=torch.tensor([True, False, True]))
    part = G[[0, 2]][:, [0, 2]]
    expected = aggregation.UPGradWeighting()(part / part.trace())
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], expected)


@pytest.mark.parametrize("name", ["GradVacWeighting", "SDMGradWeighting", "ExcessMTLWeighting"])
def test_a_weighting_with_state_is_refused(name):
    arguments = {"robust_step_size": 0.1} if name == "ExcessMTLWeighting" else {}
    with pytest.raises(ValueError, match=f"expected a weighting without state, got {name}"):
        TorchJD(2, weighting=name, arguments=arguments)


def test_an_unknown_weighting_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"one of .*MGDAWeighting.*UPGradWeighting, .*got Best"):
        TorchJD(2, weighting="Best")


def test_wrong_arguments_and_things_that_are_no_weighting_are_refused():
    with pytest.raises(ValueError, match=r"expected arguments that fit CAGradWeighting, got {}"):
        TorchJD(2, weighting="CAGradWeighting")
    with pytest.raises(ValueError, match="expected weighting to be a name or a callable, got 3"):
        TorchJD(2, weighting=3)


def test_a_random_weighting_is_a_function_of_seed_and_step_and_draws_from_nobody_else():
    rows = random_rows(4, 4, 2)
    G = rows @ rows.T

    def run(seed: int, before: int) -> list[list[float]]:
        torch.manual_seed(before)
        wrapped = TorchJD(4, weighting="PCGradWeighting", seed=seed)
        state = torch.random.get_rng_state()
        weights = [wrapped(G).tolist() for _ in range(8)]
        assert torch.equal(torch.random.get_rng_state(), state)
        assert wrapped.step == 8
        return weights

    first = run(seed=0, before=1)
    assert first == run(seed=0, before=2)
    assert len({tuple(weights) for weights in first}) > 1
    assert first != run(seed=1, before=1)
