"""The explosion guard is calibrated on the losses of small models: healthy ones, and explosions."""

from collections import deque
from collections.abc import Callable
from itertools import islice
from statistics import median

import numpy as np
import pytest
from traces import Model, World, losses

from mbrec.config.guard import Guard
from mbrec.metrics.best_constant import UNTRAINED
from mbrec.training.explosion_guard import ExplosionGuard, StepLosses, explosion_guard

HEALTHY = {
    "balanced": World(0.5),
    "ordinary": World(0.1),
    "rare positives": World(0.001),
    "rare positives, told apart": World(0.001, strength=3.0),
    "rare negatives": World(0.9985),
    "rarest positives, larger batches": World(0.0001, batch=256),
    "one row per step": World(0.3, strength=3.0, batch=1),
    "one row per step, rare positives": World(0.001, strength=3.0, batch=1),
    "four rows per step, rare negatives": World(0.999, batch=4),
    "constant inputs": World(0.5, constant=True),
    "constant inputs and labels": World(0.0, constant=True),
    "constant labels": World(1.0),
    "inputs that are not scaled": World(0.3, scale=100.0),
}
pytestmark = pytest.mark.faults  # for the nightly suite, which runs the long version
# The default rates, and hasty ones.
RATES = {"default": (5e-3, 0.04), "hasty": (3e-2, 0.2)}
# Of an explosion: the guard is to see it so many steps after it is there (R12).
IN_TIME = 10


def made() -> ExplosionGuard:
    guard = explosion_guard(Guard(), ["task"])
    assert guard is not None
    return guard


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("world", HEALTHY)
def test_a_healthy_run_raises_no_alarm(world, rates, nightly):
    guard, (lr, table_lr) = made(), RATES[rates]
    steps = 50_000 if nightly else 250
    seen = 0
    for step in islice(losses(HEALTHY[world], 0, lr=lr, table_lr=table_lr), steps):
        assert guard.update(step) is None
        seen += 1
    assert seen == steps


def rates_times(at: int) -> Callable[[int, Model], None]:
    def change(step: int, model: Model) -> None:
        if step == at:
            model.lr, model.table_lr = 1e4 * model.lr, 1e4 * model.table_lr

    return change


def table_rate(at: int) -> Callable[[int, Model], None]:
    def change(step: int, model: Model) -> None:
        model.table_lr = 100.0

    return change


def weights_times(at: int) -> Callable[[int, Model], None]:
    def change(step: int, model: Model) -> None:
        if step == at:
            for value in model.dense:
                value *= 1e3

    return change


def growing(at: int) -> Callable[[int, Model], None]:
    def change(step: int, model: Model) -> None:
        if step >= at:
            model.lr, model.table_lr = 1.05 * model.lr, 1.05 * model.table_lr

    return change


EXPLOSIONS = {
    "learning rates times 10,000": rates_times,
    "table_lr=100 from step 1": table_rate,
    "weights times 1,000": weights_times,
    "learning rates that grow by 5% per step": growing,
}


def trace(seed: int, kind: str) -> tuple[World, list[StepLosses], int]:
    """Return an explosion: its world, its losses, and the first step that can be spoilt."""
    choose = np.random.default_rng(seed)
    world = World(float(choose.choice([0.02, 0.1, 0.3, 0.5, 0.9, 0.98])))
    at = 1 if kind.startswith("table_lr") else int(choose.integers(30, 300))
    steps = losses(world, seed, change=EXPLOSIONS[kind](at))
    return world, list(islice(steps, at + (400 if kind.endswith("step") else 60))), at


def shown(world: World, steps: list[StepLosses]) -> int:
    """Return the step from which on the loss shows an explosion to somebody who knows the world.

    The median of five steps is above ten times what the best constant loses, or what the model
    did in the twenty steps before, be they the first ones.
    """
    before: deque[float] = deque([UNTRAINED] * 20, maxlen=20)
    rows = [step.losses[0] / world.batch for step in steps]
    for number in range(len(rows) - 4):
        if median(rows[number : number + 5]) > 10 * max(world.entropy, median(before)):
            return steps[number].step
        before.append(rows[number])
    raise AssertionError("no explosion")


@pytest.mark.parametrize("kind", EXPLOSIONS)
def test_an_explosion_is_caught_in_ten_steps_from_where_it_shows(kind, nightly):
    for seed in range(25 if nightly else 3):
        guard = made()
        world, steps, at = trace(seed, kind)
        alarms = (guard.update(step) for step in steps)
        number, alarm = next((n, alarm) for n, alarm in enumerate(alarms, 1) if alarm)
        assert at <= alarm.first <= number <= shown(world, steps) + IN_TIME, (seed, world)
