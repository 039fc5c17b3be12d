"""A sweep of real jobs on two processes: one that fails, one that is interrupted."""

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from processes import Job, with_signal
from ranks import run_ranks
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mbrec.balance.balancer import GramianBalancer
from mbrec.config.settings import parse
from mbrec.distributed import process
from mbrec.distributed.interrupt import Interrupt

TINY = ["data/preset=tiny", "monitor.progress=false", "trainer.global_batch_size=256"]
TINY += ["model.embedding_dim=16", "trainer.steps=8", "trainer.evaluate_every=4"]


class FailsOnRankOne(GramianBalancer):
    """Weighs once, and then no more on one of the ranks."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.calls = 0

    def weigh(self, gramian_KK, active_K, ok, losses_K):
        self.calls += 1
        if self.calls == 2 and os.environ["RANK"] == "1":
            raise ValueError("spoilt on rank 1")
        return torch.ones_like(gramian_KK[0])


def sweep(words: list[str], folder: str) -> tuple[str, int]:
    """How a sweep ends on this rank, and how many groups it leaves."""
    from mbrec.study import job_groups
    from mbrec.study.sweep import plan, run

    job_groups.GRACE_S = 0.2
    os.chdir(folder)
    state = run(plan(words), Interrupt())
    return state, len(torch.distributed.distributed_c10d._world.pg_map)


def alone(words: list[str], folder: str) -> dict[str, Any]:
    from mbrec.job import fit

    os.chdir(folder)
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        config = parse(compose("train", overrides=words))
    return fit.train_one(config, words, process.start(), Interrupt())


@pytest.fixture(scope="module")
def swept(tiny_data, tmp_path_factory):
    """The folder of a sweep whose second job fails on rank 1, and what the ranks returned."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "conf" / "balancer").mkdir(parents=True)
    file = folder / "conf" / "balancer" / "failing.yaml"
    file.write_text(f"_target_: {__name__}.FailsOnRankOne\n")
    words = [*TINY, f"data.path={tiny_data}", "run.name=sweep", f"runtime.plugins=[{__name__}]"]
    words += ["balancer=equal,failing,multibalance", "--config-dir", str(folder / "conf")]
    return folder, run_ranks(sweep, 2, folder, words, str(folder), group=False)


def rows(sweep: Path) -> dict[str, dict[str, str]]:
    with (sweep / "sweep.csv").open() as file:
        return {line["folder"].rpartition("/")[2]: line for line in csv.DictReader(file)}


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_a_job_that_fails_on_one_rank_is_marked_and_the_others_are_trained(swept):
    folder, ended = swept
    assert ended == [("failed", 0)] * 2
    found = rows(folder / "outputs/sweep")
    assert {name: row["state"] for name, row in found.items()} == {
        "balancer-equal": "finished",
        "balancer-failing": "failed",
        "balancer-multibalance": "finished",
    }
    assert found["balancer-failing"]["reason"] == "ValueError: spoilt on rank 1"
    for name in ("balancer-equal", "balancer-multibalance"):
        ne = metrics(folder / "outputs/sweep" / name)["tasks"]["ctr"]["ne"]
        assert float(found[name]["ne_ctr"]) == ne
        assert list((folder / "outputs/sweep" / name / "tensorboard").iterdir())
    status = json.loads((folder / "outputs/sweep/status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", 2)
    assert status["reason"] == "failed: balancer-failing"


@pytest.mark.slow
def test_a_job_gives_the_numbers_in_a_sweep_that_it_gives_alone(swept, tiny_data, tmp_path):
    words = [*TINY, f"data.path={tiny_data}", "run.name=alone", "balancer=multibalance"]
    one, _ = run_ranks(alone, 2, tmp_path, words, str(tmp_path))
    found = metrics(swept[0] / "outputs/sweep/balancer-multibalance")
    assert [entry["step"] for entry in found["history"]] == [4, 8]
    assert found["history"] == one["history"]


@pytest.mark.slow
def test_an_interrupted_sweep_resumes_with_the_same_command(tiny_data, tmp_path):
    options = ["trainer.steps=4,150", "trainer.epochs=3", "checkpoint.every=2"]
    run = tmp_path / "outputs/job"
    saves = run / "trainer.steps-150" / "checkpoint"
    with Job(tmp_path, tiny_data, ["-m", *options], None) as job:
        job.wait_for(lambda job: any(re.fullmatch(r"step_\d+", p.name) for p in saves.glob("*")))
        with_signal(job.process.pid, signal.SIGTERM)
        assert job.end() == 75
        assert "goes on with run.name=job" in job.text
        assert job.status["state"] == "resumable"
    first = metrics(run / "trainer.steps-4")
    states = {name: row["state"] for name, row in rows(run).items()}
    assert states == {"trainer.steps-4": "finished", "trainer.steps-150": "interrupted"}
    saved = max(int(path.name[5:]) for path in saves.glob("step_*"))
    assert 0 < saved < 150
    events = run / "trainer.steps-150" / "tensorboard"
    before = set(events.iterdir())
    words = ["data/preset=tiny", f"data.path={tiny_data}", "run.name=job", *options]
    words += ["monitor.progress=false", "trainer.global_batch_size=128"]
    assert run_ranks(sweep, 2, tmp_path, words, str(tmp_path), group=False) == [("finished", 0)] * 2
    assert [row["state"] for row in rows(run).values()] == ["finished"] * 2
    assert metrics(run / "trainer.steps-4") == first
    assert metrics(run / "trainer.steps-150")["step"] == 150
    later = [path for path in events.iterdir() if path not in before]
    steps = [event.step for path in later for event in EventFileLoader(str(path)).Load()]
    assert min(step for step in steps if step) == saved + 1
