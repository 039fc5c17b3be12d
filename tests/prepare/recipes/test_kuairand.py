"""The KuaiRand experiments on real impressions, from the raw files to the figures promised."""

import os
from pathlib import Path

import pytest

from mbrec.prepare.recipes.kuairand import RECIPE
from mbrec.study import launch
from mbrec.study.jobs import Job

RAW = os.environ.get("MBREC_KUAIRAND_RAW", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Path(RAW) / "user_features_pure.csv.gz").exists() or not RAW,
        reason="MBREC_KUAIRAND_RAW does not name a folder with the KuaiRand-Pure files",
    ),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("kuairand") / "prepared"
    RECIPE.prepare(Path(RAW), out)
    return out


SETTINGS = {
    "equal": ("experiment=kuairand_equal",),
    "feeds": ("experiment=kuairand_feeds_multibalance", "balancer=equal"),
    "multibalance": ("experiment=kuairand_multibalance",),
    "history": ("experiment=kuairand_history_equal",),
}


@pytest.fixture(scope="module")
def trained(prepared):
    """The figures of each setting: ordinary runs, in processes that start once for all of them."""
    jobs = {
        name: Job(name, (*overrides, f"data.path={prepared}"))
        for name, overrides in SETTINGS.items()
    }
    results = launch.run(list(jobs.values()), prepared.parent / "runs")
    return {name: results[job].tasks for name, job in jobs.items()}


def test_ads_tasks_with_equal_weights_pass_the_floor_on_the_test_days(trained):
    tasks = trained["equal"]
    assert tasks["ctr"]["count"] == 75_247
    assert tasks["ctr"]["auc"] >= 0.713
    assert tasks["ctr"]["ne"] <= 0.892
    assert tasks["cvr"]["auc"] >= 0.620
    assert tasks["conv_imp"]["auc"] >= 0.714


def test_feeds_tasks_with_equal_weights_pass_the_floor_on_the_test_days(trained):
    tasks = trained["feeds"]
    assert tasks["like"]["auc"] >= 0.744


def test_multibalance_trains_on_real_impressions(trained):
    tasks = trained["multibalance"]
    assert tasks["cvr"]["auc"] >= 0.620
    assert tasks["ctr"]["auc"] >= 0.713


def test_a_history_of_the_videos_shown_before_helps(trained):
    without, shown = trained["equal"], trained["history"]
    assert shown["ctr"]["auc"] >= without["ctr"]["auc"] + 0.001
    assert shown["conv_imp"]["auc"] >= without["conv_imp"]["auc"] + 0.001
