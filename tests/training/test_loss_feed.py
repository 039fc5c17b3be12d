"""The losses of all ranks reach the explosion guard: all, in order, however they are asked for.

That ranks agree is shown in `test_faults_explosions.py`.
"""

import pytest
from torch import Tensor

from mbrec.training import loss_feed
from mbrec.training.explosion_guard import StepLosses
from mbrec.training.loss_feed import SHARED_STEPS, LossFeed

STEPS = 11


class Sums:
    """In place of collectives: what two ranks with the same losses would sum up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started = self.waited = 0
        monkeypatch.setattr(loss_feed, "start_sum", self.start)

    def start(self, values_n: Tensor):
        self.started += 1
        return lambda: self.wait(2 * values_n)

    def wait(self, total_n: Tensor) -> Tensor:
        self.waited += 1
        return total_n


@pytest.mark.parametrize("asked_at", [[], [1, 6, 7], [*range(1, STEPS + 1)]])
def test_each_step_arrives_once_however_often_the_rest_is_asked_for(asked_at, monkeypatch):
    """A checkpoint asks for the rest; that one was made must not show in what the guard sees."""
    sums, feed, out = Sums(monkeypatch), LossFeed(), []
    for step in range(1, STEPS + 1):
        own = StepLosses(step, [step / 3, 10.0], [8.0, 4.0], [1.0, 0.0])
        ready = feed.add(own, of_all_ranks=False)
        if step in asked_at:
            ready += feed.rest()
            assert ready[-1].step == step
        assert all(step - losses.step <= SHARED_STEPS for losses in ready)
        out += ready
        # What was started in this step is not waited for in it.
        assert sums.started - sums.waited <= 1
    out += feed.rest()
    assert out == [
        StepLosses(step, [2 * step / 3, 20.0], [8.0, 4.0], [1.0, 0.0])
        for step in range(1, STEPS + 1)
    ]
    assert feed.rest() == []
    assert sums.started == sums.waited
    if not asked_at:
        assert sums.started == -(-STEPS // SHARED_STEPS)


def test_losses_of_all_ranks_are_handed_on_at_once_without_a_collective(monkeypatch):
    sums, feed, losses = Sums(monkeypatch), LossFeed(), StepLosses(1, [1.0], [8.0], [1.0])
    assert feed.add(losses, of_all_ranks=True) == [losses]
    assert feed.rest() == []
    assert sums.started == 0
