"""The KuaiRand experiments on real impressions, from the raw files to the figures promised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    script = str(ROOT / "scripts" / "prepare_kuairand.py")
    subprocess.run([sys.executable, script, RAW, str(out)], check=True, timeout=120)
    return out


def figures(prepared: Path, experiment: str, *overrides: str) -> dict[str, dict[str, float]]:
    """Trains, unless that has been done on this data before, and returns its figures."""
    folder = prepared.parent
    name = "-".join([experiment, *overrides])
    script = str(ROOT / "scripts" / "train.sh")
    metrics = folder / "outputs" / name / "metrics.json"
    if metrics.exists():
        return json.loads(metrics.read_text())["tasks"]
    job = [f"experiment={experiment}", f"data.path={prepared}", f"run.name='{name}'", *overrides]
    done = subprocess.run(
        [script, *job], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Warning" not in done.stderr
    return json.loads(metrics.read_text())["tasks"]


def test_ads_tasks_with_equal_weights_pass_the_floor_on_the_test_days(prepared):
    tasks = figures(prepared, "kuairand_equal")
    assert tasks["ctr"]["count"] == 75_247
    assert tasks["ctr"]["auc"] >= 0.713
    assert tasks["ctr"]["ne"] <= 0.892
    assert tasks["cvr"]["auc"] >= 0.620
    assert tasks["conv_imp"]["auc"] >= 0.714


def test_feeds_tasks_with_equal_weights_pass_the_floor_on_the_test_days(prepared):
    tasks = figures(prepared, "kuairand_feeds_multibalance", "balancer=equal")
    assert tasks["like"]["auc"] >= 0.744


def test_multibalance_trains_on_real_impressions(prepared):
    tasks = figures(prepared, "kuairand_multibalance")
    assert tasks["cvr"]["auc"] >= 0.620
    assert tasks["ctr"]["auc"] >= 0.713


def test_a_history_of_the_videos_shown_before_helps(prepared):
    without = figures(prepared, "kuairand_equal")
    shown = figures(prepared, "kuairand_history_equal")
    assert shown["ctr"]["auc"] >= without["ctr"]["auc"] + 0.001
    assert shown["conv_imp"]["auc"] >= without["conv_imp"]["auc"] + 0.001
