"""State is saved by the names of the tasks, for every method."""

import io
import math
from itertools import permutations

import pytest
import torch
from methods import TASKS, Model, backward, make, methods

from mbrec.balance import GramianBalancer


def lags(label: str) -> tuple[int, ...]:
    """Return the values of lag that a method can have."""
    return (0, 1) if isinstance(make(label), GramianBalancer) else (0,)


@pytest.mark.parametrize(
    ("label", "lag"), [(label, lag) for label in methods() for lag in lags(label)]
)
def test_a_run_goes_on_from_its_saved_state_with_the_tasks_in_any_order(label, lag):
    other, place = ("like", "ctr", "cvr"), [2, 0, 1]
    whole, resumed = Model(label, lag=lag), Model(label, other, lag=lag)
    for step in range(3):
        backward(whole, step)
    resumed.hook.load_state_dict(whole.hook.state_dict())
    for step in range(3, 6):
        expected, found = backward(whole, step), backward(resumed, step)
        torch.testing.assert_close(
            resumed.hook.weights, whole.hook.weights[place], rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    saved = dict(resumed.hook.state_dict())
    torch.testing.assert_close(saved, dict(whole.hook.state_dict()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("label", methods())
def test_the_saved_state_is_tensors_that_load_without_pickled_code(label):
    model, fresh = Model(label), Model(label)
    backward(model, 0)
    file = io.BytesIO()
    torch.save(model.hook.state_dict(), file)
    file.seek(0)
    fresh.hook.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(dict(fresh.hook.state_dict()), dict(model.hook.state_dict()))


def with_task_state() -> list[str]:
    """Return the methods that keep something of a task or a pair of tasks."""
    balancers = {label: Model(label).hook.balancer for label in methods()}
    found = [n for n, b in balancers.items() if b.state_of(b.task_names) & b.state_dict().keys()]
    assert {"MultiBalance", "GradVac", "MoCo", "FAMO"} <= set(found)
    return found


STATEFUL = with_task_state()


@pytest.mark.parametrize(
    ("label", "lag"),
    [(label, 0) for label in STATEFUL] + [(label, 1) for label in methods(GramianBalancer)],
)
def test_a_task_can_be_added_and_another_dropped(label, lag):
    old = Model(label, lag=lag)
    for step in range(3):
        backward(old, step)
    saved = old.hook.state_dict()
    kept = ("share", "cvr", "ctr")
    model = Model(label, kept, lag=lag)
    fresh = dict(model.hook.state_dict())
    with pytest.raises(ValueError, match="expected the saved tasks to differ by"):
        model.hook.adapt_state_dict(saved, new=["share"])
    adapted = model.hook.adapt_state_dict(saved, new=["share"], dropped=["like"])
    assert adapted.keys() == fresh.keys()
    assert any("share" in key for key in adapted)
    assert not any("like" in key for key in adapted)
    for key, value in adapted.items():
        if not key.startswith("balancer.weight."):
            torch.testing.assert_close(value, fresh[key] if "share" in key else saved[key])
    if weights := [float(value) for key, value in adapted.items() if ".weight." in key]:
        assert math.isclose(sum(weights), 1.0)
        share = adapted["balancer.weight.share"]
        assert float(share) == pytest.approx(model.hook.balancer.initial_share("share"))
    model.hook.load_state_dict(adapted)
    backward(model, 3)
    assert model.hook.ok
    assert model.hook.weights.isfinite().all()


@pytest.mark.parametrize("label", STATEFUL)
def test_state_of_an_unknown_task_is_refused_by_its_name(label):
    model, other = Model(label), Model(label, ("ctr", "cvr", "share"))
    backward(model, 0)
    with pytest.raises(ValueError, match=r"expected the state of the tasks ctr, cvr, share, got"):
        other.hook.load_state_dict(model.hook.state_dict())


def test_the_pairs_of_gradvac_are_saved_by_both_names():
    model = Model("GradVac")
    backward(model, 0)
    other = Model("GradVac", ("cvr", "like", "ctr"))
    saved = model.hook.state_dict()
    other.hook.load_state_dict(saved)
    found_KK, place = other.hook.balancer.target, other.hook.balancer.task_names.index
    target_KK = model.hook.balancer.target
    # The average of a pair depends on which of the two is turned towards the other.
    assert not torch.equal(target_KK, target_KK.T)
    for (i, a), (j, b) in permutations(enumerate(TASKS), 2):
        assert saved[f"balancer.target.{a}.{b}"] == target_KK[i, j]
        assert found_KK[place(a), place(b)] == target_KK[i, j]
