"""Gains are paired by seed; what exploded, or measured, is not compared."""

import dataclasses

import pytest
from outcomes import outcome

from mbrec.study.contrast import contrast, figures, single_task_figures
from mbrec.study.worlds import EQUAL, Setting, World, job, single_task

WORLD = World("w", "W", ("ctr", "cvr"), ())
BETTER = Setting("better", ("balancer=multibalance",))
SEEDS = range(4)


def results(nex=None, gain=0.5):
    found = {}
    for seed in SEEDS:
        for setting in (EQUAL, BETTER, *single_task(WORLD.tasks)):
            one = job(WORLD, setting, seed)
            percent = gain if setting is BETTER else 0.0
            found[one] = outcome(one, percent, nex=(setting, seed) == (BETTER, nex))
    return found


def test_a_gain_shows_through_the_noise_that_seeds_share():
    found = results()
    base, new = (figures(WORLD, s, found, SEEDS, "ne") for s in (EQUAL, BETTER))
    spread = max(base["ctr"]) - min(base["ctr"])
    assert spread > 0.004  # of NE .9: as large as the gain
    gain = contrast(base, new)
    assert gain.average.mean == pytest.approx(0.5, abs=0.03)
    assert gain.average.is_real
    # Paired with other seeds, it drowns.
    shuffled = {task: values[1:] + values[:1] for task, values in new.items()}
    assert not contrast(base, shuffled).average.is_real


def test_an_explosion_is_nex_and_no_number():
    found = results(nex=2)
    base, new = (figures(WORLD, s, found, SEEDS, "ne") for s in (EQUAL, BETTER))
    gain = contrast(base, new)
    assert gain.text() == gain.text("ctr") == "NEX"
    assert gain.exploded == 1


def test_explosions_of_other_seeds_do_not_shift_the_pairs():
    found = results(nex=2)
    lost = job(WORLD, EQUAL, 1)
    found[lost] = outcome(lost, nex=True)
    base, new = (figures(WORLD, s, found, SEEDS, "ne") for s in (EQUAL, BETTER))
    gain = contrast(base, new)
    assert gain.average is None
    assert (gain.exploded, gain.base_exploded) == (1, 1)


def test_an_explosion_of_the_baseline_is_not_held_against_a_method():
    found = results()
    lost = job(WORLD, EQUAL, 1)
    found[lost] = outcome(lost, nex=True)
    base, new = (figures(WORLD, s, found, SEEDS, "ne") for s in (EQUAL, BETTER))
    assert contrast(base, new).text() == "NEX of the baseline"


def test_single_task_models_are_put_together_task_by_task():
    found = results()
    single = single_task_figures(WORLD, found, SEEDS, "ne")
    assert list(single) == ["ctr", "cvr"]
    assert [len(values) for values in single.values()] == [4, 4]


def test_a_measurement_is_not_compared():
    found = results()
    one = job(WORLD, EQUAL, 0)
    found[one] = dataclasses.replace(found[one], metrics={"measurement": {}})
    with pytest.raises(ValueError, match="measures overhead"):
        figures(WORLD, EQUAL, found, SEEDS, "ne")


def test_a_figure_that_a_run_has_not_is_refused():
    found = results()
    found[job(WORLD, EQUAL, 1)].tasks["cvr"]["ne"] = None
    with pytest.raises(ValueError, match="expected ne of cvr in equal weights, seed 1"):
        figures(WORLD, EQUAL, found, SEEDS, "ne")
