"""The contract of a balancer that is called on a Gramian, for every method that is one."""

import pytest
import torch
from test_properties import KINDS, METHODS, NAMES, Bench, random_rows, same_state
from torch import Tensor

from mbrec.balance import FAMO, MGDA, Equal, GramianBalancer, Static, Uncertainty

on_gramians = pytest.mark.parametrize(
    "method", [m for m in METHODS if issubclass(KINDS[m], GramianBalancer)]
)


def random_gramian(seed: int = 0) -> Tensor:
    flat_KP = random_rows(seed).flatten(1)
    return flat_KP @ flat_KP.T


@on_gramians
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [(0, 1), (2, 2)])
def test_a_non_finite_gramian_gives_zero_weights_and_changes_no_state(method, bad, where):
    balancer = Bench(method, NAMES[:3]).hook.balancer
    gramian_KK, losses_K = random_gramian(), torch.ones(3)
    balancer(gramian_KK, losses_K=losses_K)
    before = {key: value.clone() for key, value in balancer.state_dict().items()}
    gramian_KK[where] = bad
    assert balancer(gramian_KK, losses_K=losses_K).tolist() == [0, 0, 0]
    assert not balancer.ok
    assert same_state(before, balancer.state_dict())


@on_gramians
def test_weights_are_in_float64_whatever_the_gramian_is_in(method):
    for dtype in (torch.float32, torch.float64):
        balancer = Bench(method, NAMES[:3]).hook.balancer
        weights = balancer(random_gramian().to(dtype), losses_K=torch.ones(3))
        assert weights.dtype == torch.float64
        assert weights.shape == (3,)


@on_gramians
@pytest.mark.parametrize("shape", [(2, 2), (3,), (3, 4)])
def test_a_gramian_of_another_shape_is_refused(method, shape):
    balancer = Bench(method, NAMES[:3]).hook.balancer
    with pytest.raises(ValueError, match="expected a Gramian of 3 x 3 for 3 tasks"):
        balancer(torch.ones(shape), losses_K=torch.ones(3))


@on_gramians
def test_another_number_of_losses_is_refused(method):
    balancer = Bench(method, NAMES[:3]).hook.balancer
    with pytest.raises(ValueError, match="expected 3 losses"):
        balancer(random_gramian(), losses_K=torch.ones(2))


@pytest.mark.parametrize("balancer", [FAMO(3), Uncertainty(3), MGDA(3, normalise="loss+")])
def test_a_method_that_needs_losses_says_who_tells_them(balancer):
    with pytest.raises(ValueError, match=r"expected the losses .* call hook\.observe\(losses_K\)"):
        balancer(random_gramian())


def test_constant_weights_are_used_as_they_are():
    assert Equal(4)(torch.eye(4)).tolist() == [1.0] * 4
    assert Equal(4, scale="mean")(torch.eye(4)).tolist() == [0.25] * 4
    assert Static(2, weights=[-1, 5])(torch.zeros(2, 2)).tolist() == [-1, 5]


@pytest.mark.parametrize("method", METHODS)
def test_state_is_never_a_parameter_that_an_optimizer_would_see(method):
    bench = Bench(method, NAMES[:3])
    bench.step(random_rows(0))
    assert list(bench.hook.parameters()) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumed_from_saved_state_goes_on_as_if_never_stopped(method):
    whole, first = Bench(method, NAMES[:3]), Bench(method, NAMES[:3])
    for seed in range(3):
        whole.step(random_rows(seed))
        first.step(random_rows(seed))
    resumed = Bench(method, NAMES[:3])
    resumed.hook.load_state_dict(first.saved())
    for seed in range(3, 6):
        assert torch.equal(resumed.step(random_rows(seed)), whole.step(random_rows(seed)))
        assert torch.equal(resumed.hook.weights, whole.hook.weights)
    assert same_state(whole.saved(), resumed.saved())


def test_weights_that_are_not_finite_merge_to_zero_and_are_reported():
    class Broken(GramianBalancer):
        def weigh(self, gramian_KK, active_K, ok, losses_K):
            return gramian_KK[0] / 0.0

    balancer = Broken(2)
    assert balancer(torch.eye(2)).tolist() == [0.0, 0.0]
    assert not balancer.ok


@pytest.mark.parametrize("returned", [torch.ones(3), [1.0, 1.0]])
def test_a_weigh_that_returns_something_else_is_named(returned):
    class Odd(GramianBalancer):
        def weigh(self, gramian_KK, active_K, ok, losses_K):
            return returned

    with pytest.raises(ValueError, match=r"expected Odd\.weigh to return 2 weights"):
        Odd(2)(torch.eye(2))
