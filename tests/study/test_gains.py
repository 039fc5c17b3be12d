"""Gains are paired by seed; what exploded, or measured, is not compared."""

import dataclasses
from pathlib import Path

import pytest
from outcomes import outcome

from mbrec.study.benchmark import EQUAL, Benchmark, Setting, job, single_task
from mbrec.study.gains import compared
from mbrec.study.study import Study

BENCHMARK = Benchmark("w", "W", ("ctr", "cvr"), ())
BETTER = Setting("better", ("balancer=multibalance",))
SEEDS = range(4)


def results(nex=None, gain=0.5):
    found = {}
    for seed in SEEDS:
        for setting in (EQUAL, BETTER, *single_task(BENCHMARK.tasks)):
            one = job(BENCHMARK, setting, seed)
            percent = gain if setting is BETTER else 0.0
            found[one] = outcome(one, percent, nex=(setting, seed) == (BETTER, nex))
    return found


def study(found):
    return Study(Path(), SEEDS, results=found)


def test_a_gain_shows_through_the_noise_that_seeds_share():
    found = results()
    base, new = (study(found).figures(BENCHMARK, s, "ne") for s in (EQUAL, BETTER))
    spread = max(base["ctr"]) - min(base["ctr"])
    assert spread > 0.004  # of NE .9: as large as the gain
    gain = compared(base, new)
    assert gain.average.mean == pytest.approx(0.5, abs=0.03)
    assert gain.average.is_real
    # Paired with other seeds, it drowns.
    shuffled = {task: values[1:] + values[:1] for task, values in new.items()}
    assert not compared(base, shuffled).average.is_real


def test_an_explosion_is_nex_and_no_number():
    found = results(nex=2)
    base, new = (study(found).figures(BENCHMARK, s, "ne") for s in (EQUAL, BETTER))
    gain = compared(base, new)
    assert gain.text() == gain.text("ctr") == "NEX"
    assert gain.exploded == 1


def test_explosions_of_other_seeds_do_not_shift_the_pairs():
    found = results(nex=2)
    lost = job(BENCHMARK, EQUAL, 1)
    found[lost] = outcome(lost, nex=True)
    base, new = (study(found).figures(BENCHMARK, s, "ne") for s in (EQUAL, BETTER))
    gain = compared(base, new)
    assert gain.average is None
    assert (gain.exploded, gain.base_exploded) == (1, 1)


def test_an_explosion_of_the_baseline_is_not_held_against_a_method():
    found = results()
    lost = job(BENCHMARK, EQUAL, 1)
    found[lost] = outcome(lost, nex=True)
    base, new = (study(found).figures(BENCHMARK, s, "ne") for s in (EQUAL, BETTER))
    assert compared(base, new).text() == "NEX of the baseline"


def test_single_task_models_are_put_together_task_by_task():
    found = results()
    single = study(found).single_task_figures(BENCHMARK, "ne")
    assert list(single) == ["ctr", "cvr"]
    assert [len(values) for values in single.values()] == [4, 4]


def test_a_measurement_is_not_compared():
    found = results()
    one = job(BENCHMARK, EQUAL, 0)
    found[one] = dataclasses.replace(found[one], metrics={"measurement": {}})
    with pytest.raises(ValueError, match="measures overhead"):
        study(found).figures(BENCHMARK, EQUAL, "ne")


def test_a_figure_that_a_run_has_not_is_refused():
    found = results()
    found[job(BENCHMARK, EQUAL, 1)].tasks["cvr"]["ne"] = None
    with pytest.raises(ValueError, match="expected ne of cvr in equal weights, seed 1"):
        study(found).figures(BENCHMARK, EQUAL, "ne")
