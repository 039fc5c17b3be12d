"""The meter on two ranks, with a clock that only steps and the balancer under test can move."""

import contextlib
import io
import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jobs import compose
from ranks import run_ranks
from saving import alone
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mbrec.balance import BalanceHook, Equal, GramianBalancer
from mbrec.config.overhead import FIRST_STEPS, Plan
from mbrec.distributed import process
from mbrec.distributed.interrupt import Interrupt
from mbrec.files.sealed import read_json
from mbrec.job import overhead, run_folder

PLAN = Plan(block_steps=2, pairs=4)
# Sums of these are exact.
STEP_S, SLEEP_S = 2**-6, 2**-5
OWN = ["balancer=custom", "balancer._target_=test_overhead.Sleeper"]
OWN += ["runtime.plugins=[test_overhead]"]


class Clock:
    now = 0.0


class Sleeper(GramianBalancer):
    """Equal weights, after a sleep."""

    def weigh(self, gramian_KK, active_K, ok, losses_K):
        Clock.now += SLEEP_S
        return torch.ones(self.num_tasks, dtype=torch.float64)


def measured(data: str, folder: str, name: str, overrides: list[str]) -> dict[str, Any]:
    """Measure as the command does; steps take `STEP_S` of a time that nothing else moves."""
    from mbrec.distributed.interrupt import Interrupt
    from mbrec.job import build, fit

    overhead.plan = lambda *_: PLAN
    time.perf_counter = lambda: Clock.now
    run = [f"run.folder={folder}", f"run.name={name}", "trainer.measure_overhead=true"]
    config = compose(Path(data), *run, *overrides)
    made, order, make = [], [], build.trainer

    def trainer(*args: Any, **kwargs: Any) -> Any:
        trainer, sharded = make(*args, **kwargs)
        progress, run = trainer.pipeline.progress, trainer.train

        def step(batches: Any) -> Any:
            outputs = progress(batches)
            Clock.now += STEP_S
            return outputs

        def block(*args: Any, **kwargs: Any) -> None:
            order.append(sharded.hook.bypass)
            run(*args, **kwargs)

        trainer.pipeline.progress, trainer.train = step, block
        made.extend([trainer, sharded.hook])
        return trainer, sharded

    build.trainer = trainer
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            fit.train_one(config, [*run, *overrides], process.start(), Interrupt())
    finally:
        build.trainer = make
    trainer, hook = made
    left = (hook.bypass, hook._way.marks, len(trainer.history))
    return {"order": order, "printed": printed.getvalue(), "left": left}


def each(data: str, folder: str) -> dict[str, dict[str, Any]]:
    jobs = {
        "equal": ["balancer=equal", "monitor.balance=false"],
        "sleeper": OWN,
        "interaction": ["balancer=mgda", "hook.at=interaction", "trainer.evaluate_every=10"],
    }
    return {name: measured(data, folder, name, overrides) for name, overrides in jobs.items()}


@pytest.fixture(scope="module")
def runs(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("overhead")
    ranks = run_ranks(each, 2, folder, str(tiny_data), str(folder))
    metrics = {name: read_json(folder / name / "metrics.json") for name in ranks[0]}
    return folder, ranks, metrics


def test_a_hook_that_does_nothing_costs_nothing(runs):
    measurement = runs[2]["equal"]["measurement"]
    assert measurement["qps_drop_percent"] == {"median": 0.0, "low": 0.0, "high": 0.0}
    assert measurement["step_ms"]["bypassed"] == pytest.approx(1e3 * STEP_S)
    assert measurement["rows_per_second"]["with_hook"] == pytest.approx(256 / STEP_S)


def test_what_a_balancer_sleeps_is_found_in_the_drop_and_in_its_part(runs):
    measurement = runs[2]["sleeper"]["measurement"]
    share = 100 * SLEEP_S / (STEP_S + SLEEP_S)
    assert measurement["qps_drop_percent"]["median"] == pytest.approx(share)
    assert measurement["step_ms"]["bypassed"] == pytest.approx(1e3 * STEP_S)
    hook_ms = measurement["hook_ms"]
    assert hook_ms["weights"] == pytest.approx(1e3 * SLEEP_S)
    assert hook_ms["all"] == pytest.approx(1e3 * SLEEP_S)
    assert sum(hook_ms[part] for part in hook_ms if part != "all") <= hook_ms["all"] + 1e-9


@pytest.mark.parametrize("name", ["equal", "sleeper", "interaction"])
def test_blocks_come_in_pairs_in_an_order_that_all_ranks_share(runs, name):
    first, second = (rank[name]["order"] for rank in runs[1])
    assert first == second
    assert first[:2] == [False, False]  # the first steps
    assert first[-1:] == [False]  # the parts of the hook
    pairs = [tuple(first[i : i + 2]) for i in range(2, len(first) - 1, 2)]
    assert len(pairs) == 2 + PLAN.pairs
    assert set(pairs) == {(False, True), (True, False)}


@pytest.mark.parametrize("name", ["equal", "sleeper", "interaction"])
def test_a_measurement_ends_marked_and_without_a_model(runs, name):
    folder, ranks, metrics = runs
    assert metrics[name].keys() == {"step", "world_size", "parameters", "measurement"}
    assert metrics[name]["step"] == PLAN.steps == FIRST_STEPS + (2 * 6 + 4) * 2
    for rank in ranks:
        assert rank[name]["left"] == (False, None, 0)
    text = ranks[0][name]["printed"]
    assert "MEASUREMENT" in text
    assert "the model of this run is not to be compared" in text
    assert "QPS drop" in text
    assert read_json(folder / name / "status.json")["state"] == "finished"
    assert not (folder / name / "checkpoint").exists()


def test_tensorboard_has_the_figures(runs):
    events = EventAccumulator(str(runs[0] / "sleeper" / "tensorboard")).Reload()
    (event,) = events.Scalars("overhead/hook_ms/weights")
    assert (event.step, event.value) == (PLAN.steps, pytest.approx(1e3 * SLEEP_S))
    groups = runs[2]["sleeper"]["measurement"].items()
    expected = {f"overhead/{group}/{name}" for group, figures in groups for name in figures}
    assert set(events.Tags()["scalars"]) == expected


class Rows:
    """A loader of some batches an epoch."""

    def __init__(self, *batches: int) -> None:
        self.reader, self.batches, self.epochs = self, batches, []
        self.num_workers, self.empty_batch = 0, None

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Any:
        yield from self.batches


def test_rows_are_read_again_in_the_order_of_another_epoch():
    rows = Rows(1, 2)
    assert list(itertools.islice(overhead.endless(rows), 5)) == [1, 2, 1, 2, 1]
    assert rows.epochs == [0, 1, 2]
    assert list(overhead.endless(Rows())) == []


def meter(loader: Rows, problem: Exception | None, segment: Any) -> overhead.Meter:
    trainer = SimpleNamespace(
        loader=loader,
        guard=SimpleNamespace(problem=problem),
        monitor=SimpleNamespace(flushed=lambda: None, close=lambda: None),
        model=torch.nn.Identity(),
        train=segment,
        interrupt=Interrupt(),
    )
    hook = BalanceHook(Equal(1))
    return overhead.Meter(trainer, hook, torch.device("cpu"), progress=False)


def test_a_value_that_is_not_finite_ends_it():
    made = meter(Rows(1), FloatingPointError("step 1: expected finite"), lambda _, look: look(None))
    with pytest.raises(FloatingPointError, match="step 1: expected finite"):
        made.measure()


def test_without_rows_there_is_nothing_to_measure():
    made = meter(Rows(), None, lambda segment, look: setattr(segment, "exhausted", True))
    with pytest.raises(ValueError, match="expected at least one batch"):
        made.measure()


def test_a_run_that_is_under_way_is_not_measured_over(tmp_path):
    (tmp_path / "a" / "checkpoint").mkdir(parents=True)
    overrides = [f"run.folder={tmp_path}", "run.name=a"]
    with alone():
        run = run_folder.prepare(compose(tmp_path, *overrides))
        assert run == tmp_path / "a"
        measuring = compose(tmp_path, *overrides, "trainer.measure_overhead=true")
        with pytest.raises(ValueError, match=r"expected a new run, got run\.name=a"):
            run_folder.prepare(measuring)


def test_all_that_the_hook_does_counts_as_its_time():
    assert set(overhead.PARTS) - set(overhead.LABELS) == {"outside", "heads"}
