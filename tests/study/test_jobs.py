"""A job's folder knows its settings, and what is in it is read as it is or refused."""

import json
from dataclasses import asdict

import pytest

from mbrec.files.sealed import write_json
from mbrec.study.benchmark import EQUAL, Benchmark, job, tuning_job
from mbrec.study.gains import EXPLODED, compared
from mbrec.study.jobs import EXPLOSION, FAILURE, Job, job_of, read_plan, read_result, write_plan
from mbrec.study.study import Study

JOB = Job("ads/equal/seed_0", ("balancer=equal", "trainer.seed=0"))


def test_other_settings_have_another_folder():
    others = [
        Job(JOB.name, ("balancer=equal", "trainer.seed=1")),
        Job(JOB.name, JOB.overrides, ("ctr",)),
        Job("ads/mgda/seed_0", JOB.overrides),
    ]
    assert len({job.folder for job in (JOB, *others)}) == 4
    assert Job(JOB.name, tuple(JOB.overrides)).folder == JOB.folder


def test_a_plan_comes_back_as_it_was_written(tmp_path):
    jobs = [JOB, Job("b", (), ("ctr", "cvr"))]
    write_plan(tmp_path / "plan.json", jobs)
    assert read_plan(tmp_path / "plan.json") == {job.folder: job for job in jobs}


def test_a_job_comes_back_from_json():
    job = Job("a-1", ("a=1",), ("ctr",), {"a": "1"})
    found = job_of(json.loads(json.dumps(asdict(job))))
    assert (found, found.swept, hash(found)) == (job, {"a": "1"}, hash(job))


def test_a_job_is_done_once_it_has_metrics_or_exploded(tmp_path):
    assert read_result(tmp_path / JOB.folder) is None
    run = tmp_path / JOB.folder
    run.mkdir(parents=True)
    assert read_result(tmp_path / JOB.folder) is None
    (run / FAILURE).write_text(json.dumps({"reason": f"{EXPLOSION} step 3"}))
    assert read_result(tmp_path / JOB.folder).reason == f"{EXPLOSION} step 3"
    (run / "metrics.json").write_text(json.dumps({"tasks": {"ctr": {"ne": 0.9}}}))
    assert read_result(tmp_path / JOB.folder).tasks == {"ctr": {"ne": 0.9}}


def test_a_job_whose_evaluation_is_not_finite_has_no_figures_to_compare(tmp_path):
    benchmark = Benchmark("ads", "ads", ("ctr", "cvr"), (), ())
    one = job(benchmark, EQUAL, 0)
    run = tmp_path / one.folder
    run.mkdir(parents=True)
    tasks = {"ctr": {"ne": None, "not_finite": 3.0}, "cvr": {"ne": 0.9}}
    (run / "metrics.json").write_text(json.dumps({"tasks": tasks}))
    result = read_result(run)
    assert result.reason == "evaluation rows without a finite prediction, by task: ctr (3 rows)"
    study = Study(tmp_path, [0], results={one: result, tuning_job(benchmark, EQUAL): result})
    values = study.figures(benchmark, EQUAL, "ne")
    assert compared(values, values).text() == EXPLODED
    assert study.tuned(benchmark, [EQUAL], EQUAL.name) == EQUAL


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "3"])
def test_a_damaged_result_is_refused_by_name(tmp_path, content):
    run = tmp_path / JOB.folder
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json.*remove"):
        read_result(tmp_path / JOB.folder)


@pytest.mark.parametrize("name", ["metrics.json", FAILURE])
def test_a_result_that_is_not_what_was_written_is_refused_by_name(tmp_path, name):
    run = tmp_path / JOB.folder
    run.mkdir(parents=True)
    write_json(run / name, {"tasks": {"ctr": {"ne": 0.9}}, "reason": "step 9"})
    assert read_result(tmp_path / JOB.folder) is not None
    (run / name).write_text((run / name).read_text().replace("9", "8", 1))
    with pytest.raises(ValueError, match=rf"{name}: .*damaged, or was edited.*; remove {run}"):
        read_result(tmp_path / JOB.folder)


def test_a_plan_that_is_not_what_was_written_is_refused(tmp_path):
    write_plan(tmp_path / "plan.json", [JOB])
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace("trainer.seed=0", "trainer.seed=1"))
    with pytest.raises(ValueError, match="damaged, or was edited"):
        read_plan(tmp_path / "plan.json")
