"""Static weights are tuned on rows and seeds that are not compared on."""

from pathlib import Path

import pytest
from outcomes import outcome

from mbrec.study.benchmark import (
    EQUAL,
    Benchmark,
    job,
    single_task,
    static_grid,
    tuning_job,
)
from mbrec.study.jobs import Result
from mbrec.study.study import Study

TASKS = ("ctr", "cvr", "conv_imp")
BENCHMARK = Benchmark("w", "W", TASKS, ("experiment=e",), ("data.synthetic.seed=18",))


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_static_weights_are_2k_settings_that_sum_to_one(num_tasks):
    grid = static_grid([f"t{k}" for k in range(num_tasks)])
    weights = [[float(w) for w in s.overrides[1].split("[")[1][:-1].split(",")] for s in grid]
    # Of two tasks, one up is the other down.
    assert len(grid) == len({s.overrides for s in grid}) == (2 if num_tasks == 2 else 2 * num_tasks)
    assert [sum(w) for w in weights] == pytest.approx([1.0] * len(grid), abs=1e-3)


def test_tuning_runs_share_neither_seed_nor_rows_with_compared_ones():
    compared = {job(BENCHMARK, EQUAL, seed).overrides[-1] for seed in range(50)}
    tuning = tuning_job(BENCHMARK, EQUAL)
    assert tuning.overrides[-1] not in compared
    assert "data.synthetic.seed=18" in tuning.overrides
    assert "data.synthetic.seed=18" not in job(BENCHMARK, EQUAL, 0).overrides


def test_settings_of_a_seed_differ_in_nothing_but_the_setting():
    first, second = (job(BENCHMARK, setting, 3) for setting in (EQUAL, static_grid(TASKS)[0]))
    assert set(first.overrides) - set(second.overrides) == {"balancer=equal"}


def results(gains, nex=()):
    found = {}
    for setting in (EQUAL, *static_grid(TASKS)):
        one = tuning_job(BENCHMARK, setting)
        found[one] = outcome(one, gains.get(setting.name, 0.0), nex=setting.name in nex)
    return found


def tuned(grid, found):
    """Return the overrides that a study with these results chooses."""
    return Study(Path(), range(5), results=found).tuned(BENCHMARK, grid, "tuned").overrides


def test_the_least_ne_is_chosen():
    gains = {"static cvr up": 0.5, "static ctr down": 0.8}
    grid = static_grid(TASKS)
    (expected,) = [one.overrides for one in grid if one.name == "static ctr down"]
    assert tuned(grid, results(gains)) == expected


def test_a_setting_that_explodes_is_not_chosen():
    gains, nex = {"static cvr up": 0.5, "static ctr down": 0.8}, ["static ctr down"]
    grid = static_grid(TASKS)
    (expected,) = [one.overrides for one in grid if one.name == "static cvr up"]
    assert tuned(grid, results(gains, nex)) == expected


def test_where_every_setting_explodes_the_first_is_compared():
    grid = static_grid(TASKS)
    assert tuned(grid, results({}, [setting.name for setting in grid])) == grid[0].overrides


def test_a_per_cent_counts_the_same_in_a_task_of_small_and_of_large_ne():
    grid = static_grid(TASKS)[:2]
    ne = {grid[0]: (0.2 * 0.9, 0.9, 0.9), grid[1]: (0.2, 0.9 * 0.95, 0.9)}
    found = {
        tuning_job(BENCHMARK, setting): Result(
            {task: {"ne": value} for task, value in zip(BENCHMARK.tasks, values, strict=True)}, {}
        )
        for setting, values in ne.items()
    }
    assert tuned(grid, found) == grid[0].overrides


def test_there_is_a_single_task_model_for_each_task():
    assert [setting.only for setting in single_task(BENCHMARK.tasks)] == [
        ("ctr",),
        ("cvr",),
        ("conv_imp",),
    ]
