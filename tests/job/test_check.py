"""What `mbrec.config.composer` tells before any process of a job is started."""

import subprocess
import sys

import pytest

from mbrec.job.check import check


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["balancer.lr=abc"], "expected lr to be a number"),
        (["balancer=static", "balancer.weights=[1,2]"], "expected weights to be 3 finite numbers"),
        (["balancer=static"], "expected a value for balancer.weights"),
        (["balancer=graddrop", "hook.lag=1"], "expected lag=0 and accumulate=1 for GradDrop"),
        (["balancer=moco", "hook.at=representation"], "hook.at=interaction or numerical"),
        (["balancer=mgda", "hook.at=categorical"], "the N/A of the paper's Table 2"),
        (["hook.lag=2"], "expected hook.lag to be 0 or 1, got 2"),
        (["balancer=custom", "balancer._target_=mine.Own"], r"'runtime\.plugins=\[PACKAGE\]'"),
        (["balancer._target_=mbrec.config.tasks.Task"], "expected a Balancer in balancer._target_"),
    ],
)
def test_a_balancer_that_no_rank_could_build_is_told_before_one_starts(overrides, expected):
    with pytest.raises(ValueError, match=expected):
        check(overrides)


@pytest.mark.parametrize(
    "overrides", [[], ["balancer=moco"], ["balancer=mgda", "hook.at=numerical", "trainer.steps=3"]]
)
def test_what_a_job_can_run_passes(overrides):
    check(overrides)


def test_several_values_without_a_sweep_are_told_what_they_could_mean():
    with pytest.raises(ValueError, match=r"balancer, got equal,moco: -m sweeps .*\[equal,moco\]"):
        check(["balancer=equal,moco"])


def test_a_run_is_not_put_into_the_folder_of_a_sweep(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.csv").touch()
    with pytest.raises(ValueError, match=r"run\.name=sweep, which is a sweep"):
        check([f"run.folder={tmp_path}", "run.name=sweep"])


def test_other_settings_are_checked_without_torch():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchrec']));"
        "from mbrec.job.check import check; check(['trainer.steps=3'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_simulated_data_is_not_written_into_a_data_set(tmp_path):
    check([f"data.path={tmp_path}"])
    (tmp_path / "manifest.json").touch()
    with pytest.raises(ValueError, match=r"which holds a data set; to train on that: data=NAME"):
        check([f"data.path={tmp_path}"])


@pytest.mark.parametrize(
    ("word", "meant"), [("PCGrad", "pcgrad"), ("ConFIG", "config"), ("multibalnce", "multibalance")]
)
def test_the_name_of_a_class_leads_to_its_word(word, meant):
    with pytest.raises(ValueError, match=f"(?m)^Did you mean {meant}\\?$"):
        check([f"balancer={word}"])
