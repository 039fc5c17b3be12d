"""A study counts what it trains, and tells why a run has no figures."""

import pytest
from outcomes import Launcher

from mbrec.files.sealed import write_json
from mbrec.study import launch
from mbrec.study.benchmark import EQUAL, Benchmark, job, single_task, static_grid
from mbrec.study.jobs import EXPLOSION
from mbrec.study.study import Study

BENCHMARK = Benchmark("w", "W", ("ctr", "cvr"), ("experiment=e",))


@pytest.fixture
def study(monkeypatch, tmp_path):
    def make(gains=None, nex=lambda job: False):
        monkeypatch.setattr(launch, "run", Launcher(gains or {}, nex).run)
        return Study(tmp_path, range(3))

    return make


def test_what_is_there_already_is_not_counted_as_trained(study):
    made = study()
    jobs = made.jobs(BENCHMARK, [EQUAL, EQUAL])
    assert len(jobs) == 3
    (made.folder / jobs[0].folder).mkdir(parents=True)
    write_json(made.folder / jobs[0].folder / "metrics.json", {"tasks": {}})
    made.run([*jobs, *jobs])
    assert (made.trained, made.total) == (2, 3)


def test_gains_are_over_equal_weights_and_over_single_task_models(study):
    up = static_grid(BENCHMARK.tasks)[0]
    made = study({up.overrides[1]: 1.0})
    made.run(made.jobs(BENCHMARK, [EQUAL, up, *single_task(BENCHMARK.tasks)]))
    assert made.gain(BENCHMARK, EQUAL).average.mean == 0
    assert made.gain(BENCHMARK, up).average.mean == pytest.approx(1.0, abs=0.05)
    over = made.gain_over_single_task(BENCHMARK, up).average.mean
    back = made.single_task_gain(BENCHMARK).average.mean
    assert over == pytest.approx(made.gain(BENCHMARK, up).average.mean - back, abs=1e-3)


def test_the_reason_of_an_explosion_is_kept_by_run(study):
    made = study(nex=lambda one: "trainer.seed=1" in one.overrides)
    jobs = made.jobs(BENCHMARK, [EQUAL])
    made.run(jobs)
    told = made.explosions()
    assert list(told) == [job(BENCHMARK, EQUAL, 1).name]
    assert all(why.startswith(EXPLOSION) for why in told.values())
    assert made.explosions(jobs[:1]) == made.explosions([]) == {}
