"""What is told of a sweep before any of its jobs is started."""

import pytest
from omegaconf import OmegaConf

from mbrec.study.sweep.plan import plan, without_flag


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


def test_a_sweep_goes_on_with_the_settings_that_it_was_begun_with(tmp_path):
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
