"""The jobs of a sweep, and the mistakes that it reports before any of them starts."""

import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mbrec.study.jobs import Job
from mbrec.study.sweep import MAX_NAME, expand, plan, without_flag


def jobs(*words: str) -> list[Job]:
    return expand(OverridesParser.create().parse_overrides(list(words)))


def test_all_combinations_are_jobs_and_the_last_setting_changes_fastest():
    found = jobs("balancer=equal,moco", "trainer.steps=3", "trainer.seed=range(1,3)")
    assert [job.overrides for job in found] == [
        (f"balancer={balancer}", "trainer.steps=3", f"trainer.seed={seed}")
        for balancer in ("equal", "moco")
        for seed in (1, 2)
    ]
    assert found[1].swept == {"balancer": "equal", "trainer.seed": "2"}


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("tasks=[ctr,cvr]", None),
        ("tasks=[ctr,cvr],[ctr]", ["[ctr,cvr]", "[ctr]"]),
        ("data.path='a,b'", None),
        ("data.path='a,b',c", ["'a,b'", "c"]),
        ("optimizer.dense_lr=choice(0.1,1e-3)", ["0.1", "0.001"]),
        ("trainer.steps=null,3", ["null", "3"]),
        ("+experiment=a,b", ["a", "b"]),
    ],
)
def test_commas_in_lists_and_quotes_are_no_sweep(word, values):
    found = [list(job.swept.values()) for job in jobs(word)]
    assert found == ([[]] if values is None else [[value] for value in values])


def test_of_several_values_of_a_setting_the_last_counts():
    (job,) = jobs("balancer=equal,moco", "balancer=pcgrad")
    assert job.overrides == ("balancer=pcgrad",)


def test_a_shuffle_is_the_same_in_every_process():
    word, state = "trainer.seed=shuffle(range(0,50))", random.getstate()
    first = [job.name for job in jobs(word)]
    assert random.getstate() == state
    random.seed(5)
    assert [job.name for job in jobs(word)] == first
    assert sorted(first) != first


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["hydra/launcher=a,b"], "expected one value of a setting of Hydra"),
        (["optimizer.dense_lr=interval(0,1)"], "expected values that can be listed"),
        (["balancer=equal,equal"], "expected each value once, got balancer=equal twice"),
        (["trainer.seed=range(3,3)"], "expected at least one value"),
    ],
)
def test_what_cannot_be_swept_is_refused(words, expected):
    with pytest.raises(ValueError, match=expected):
        jobs(*words)


def test_a_folder_is_named_after_the_values_and_needs_no_quotes():
    found = jobs("balancer=equal,moco", "+x.y=[a,b],a_b", "trainer.steps=1")
    names = [job.name for job in found]
    assert len(set(names)) == 4
    assert all(name.startswith(("balancer-equal--x.y-", "balancer-moco--x.y-")) for name in names)
    for name in names:
        # Hydra reads it as one text, without an equals sign or a comma.
        (parsed,) = OverridesParser.create().parse_overrides([f"resume.path=outputs/{name}"])
        assert parsed.value() == f"outputs/{name}"
    assert jobs("trainer.steps=1")[0].name == "0"


def test_long_names_are_cut_and_still_differ():
    long = "v" * 300
    names = [job.name for job in jobs(f"data.path={long}a,{long}b")]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= MAX_NAME


def test_only_the_flag_makes_a_sweep_and_questions_are_for_hydra():
    assert without_flag(["balancer=equal,moco"]) is None
    assert without_flag(["-m", "a=1,2"]) == ["a=1,2"]
    assert without_flag(["a=1,2", "--multirun"]) == ["a=1,2"]
    assert without_flag(["-m", "a=1,2", "--cfg=job"]) is None
    assert without_flag(["-m", "--info", "defaults"]) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.steps=3,0"], r"job 2 of 2 \(trainer.steps=0\): .*steps to be at least 1"),
        (["balancer=equal,equall"], r"(?s)job 2 of 2 \(balancer=equall\): balancer has no option"),
        (["run.name=a,b"], "expected one run.folder and run.name for all jobs"),
        (["hydra.sweep.dir=x"], "expected run.folder=DIR and run.name=NAME"),
        (["--config-name", "x"], "expected no other option than --config-dir with -m"),
        (["hydra/launcher=submitit"], "hydra/launcher has no option 'submitit'"),
        (["hydra.launcher._target_=a.B"], "expected Hydra's basic launcher and sweeper, got a.B"),
    ],
)
def test_a_sweep_that_could_not_run_is_told_with_the_job_at_fault(words, expected):
    with pytest.raises(ValueError, match=expected):
        plan(words)


def test_values_may_come_from_an_experiment(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "hydra: {sweeper: {params: {trainer.seed: '1,2', trainer.steps: '3,4'}}}\n"
    )
    found = plan(["--config-dir", str(tmp_path), "experiment=mine", "trainer.steps=5"])
    assert [(c.trainer.seed, c.trainer.steps) for c in found.configs] == [(1, 5), (2, 5)]


def test_a_sweep_resumes_with_the_settings_that_it_began_with(tmp_path):
    words = ["balancer=equal,pcgrad", f"run.folder={tmp_path}", "run.name=sweep"]
    begun = plan(words)
    assert begun.folder == tmp_path / "sweep"
    run = tmp_path / "sweep" / begun.jobs[1].name
    run.mkdir(parents=True)
    OmegaConf.save(OmegaConf.structured(begun.configs[1]), run / "config.yaml")
    plan([*words, "monitor.every=3"])
    with pytest.raises(ValueError, match=r"balancer-pcgrad: trainer.epochs: 1 -> 2"):
        plan([*words, "trainer.epochs=2"])


def test_the_folder_of_a_run_is_none_for_a_sweep(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ValueError, match="which is a single run"):
        plan(["trainer.seed=1,2", f"run.folder={tmp_path}", "run.name=run"])
