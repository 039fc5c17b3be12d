"""Processes that are signalled, die or hang, in every place (R1, R8, R9, R10)."""

import json
import random
import signal
import time

import pytest
from processes import Job, parent_of, with_signal

from mbrec.checkpoint import folder

LONG = ["trainer.epochs=1000", "checkpoint.every=10", "checkpoint.keep=3"]
# So often that a signal mostly meets an evaluation.
EVALUATING = ["trainer.epochs=1000", "trainer.evaluate_every=1", "checkpoint.every=10"]


def saved(job: Job) -> bool:
    return bool(job.steps)


def assert_resumable(job: Job) -> None:
    assert job.status["state"] == "resumable", job.text[-3000:]
    newest, problems = folder.newest_verified(folder.finished(job.run / "checkpoint"))
    assert newest is not None and not problems
    assert folder.step_of(newest) == job.status["step"]


def gone(job: Job, seconds: float = 5.0) -> bool:
    """Whether no process of the job is left, after a while at most."""
    end = time.monotonic() + seconds
    while job.members() and time.monotonic() < end:
        time.sleep(0.05)
    return not job.members()


@pytest.mark.parametrize(
    ("name", "options", "number"),
    [
        ("training", [*LONG, "data.num_workers=1"], signal.SIGTERM),
        ("evaluation", EVALUATING, signal.SIGINT),
    ],
)
def test_a_signal_saves_the_run_within_seconds_and_the_same_command_goes_on(
    tiny_data, tmp_path, figure, nightly, fault_seed, name, options, number
):
    """The signal goes to every process, readers included, as a scheduler or a terminal sends it."""
    choose, slowest, repeats = random.Random(fault_seed), 0.0, 5 if nightly else 1
    for attempt in range(repeats):
        with Job(tmp_path, tiny_data, options, torchrun=None) as job:
            before = job.steps[-1] if attempt else 0
            job.wait_for(lambda job, before=before: any(step > before for step in job.steps))
            time.sleep(choose.random() / 2)
            start = time.monotonic()
            for pid in job.members():
                with_signal(pid, number)
            job.wait_for(lambda job: job.status["state"] == "resumable", 60)
            slowest = max(slowest, time.monotonic() - start)
            assert job.end() == 75
            assert_resumable(job)
            assert gone(job)
            assert "mbrec/training/trainer.py" not in job.text  # the traces are of torchrun alone
    assert slowest < 30  # the figure tells how long; this only that it was not a time-out
    figure("R10", **{f"{name}_seconds": round(slowest, 2), f"{name}_signals": repeats})
    if name == "evaluation" and not nightly:
        return
    step = job.status["step"]
    ends = [f"trainer.steps={step + 20}", "trainer.evaluate_every=null"]
    with Job(tmp_path, tiny_data, [*options, *ends], torchrun=None) as job:
        assert job.end() == 0, job.text[-3000:]
        assert f"resumed at step {step}" in job.text
        assert job.status["state"] == "finished"


@pytest.mark.nightly
def test_a_second_signal_ends_the_job_at_once_and_what_was_saved_stays(tiny_data, tmp_path):
    with Job(tmp_path, tiny_data, LONG, torchrun=[]) as job:
        job.wait_for(saved)
        (rank_0, rank_1) = (job.ranks()[rank] for rank in (0, 1))
        with_signal(rank_1, signal.SIGSTOP)  # so that the save cannot end
        with_signal(rank_0, signal.SIGTERM)
        time.sleep(2.5)
        with_signal(rank_0, signal.SIGTERM)
        with_signal(rank_1, signal.SIGKILL)
        assert job.end() != 0
        newest, _ = folder.newest_verified(folder.finished(job.run / "checkpoint"))
        assert newest is not None


@pytest.mark.parametrize(
    "rank",
    [pytest.param(0, marks=pytest.mark.nightly), pytest.param(1, marks=pytest.mark.sentinel)],
)
def test_a_rank_that_is_killed_ends_the_job_and_is_named(tiny_data, tmp_path, figure, rank):
    with Job(tmp_path, tiny_data, LONG, torchrun=[]) as job:
        job.wait_for(saved)
        ranks = job.ranks()
        start = time.monotonic()
        with_signal(ranks[rank], signal.SIGKILL)
        job.wait_for(lambda job: not job.ranks(), 20)
        survivors = time.monotonic() - start
        assert job.end(20) != 0
        ended = time.monotonic() - start
        assert f"rank {rank} no longer answers" in job.text, job.text[-3000:]
        assert gone(job)
        newest, _ = folder.newest_verified(folder.finished(job.run / "checkpoint"))
        assert newest is not None
    assert survivors < 25
    assert ended < 25
    figure("R8", **{f"killed_rank_{rank}_seconds": round(ended, 2), "left_behind": 0})
    figure("R8", **{f"survivors_of_rank_{rank}_seconds": round(survivors, 2)})


def test_a_rank_that_hangs_ends_the_job_after_the_time_out_and_is_named(
    tiny_data, tmp_path, figure
):
    options = [*LONG, "runtime.timeout_s=4"]
    with Job(tmp_path, tiny_data, options, torchrun=[]) as job:
        job.wait_for(saved)
        start = time.monotonic()
        with_signal(job.ranks()[1], signal.SIGSTOP)
        assert job.end(60) != 0
        seconds = time.monotonic() - start
        assert "rank 1 no longer answers" in job.text, job.text[-3000:]
        assert gone(job)
    assert seconds < 4 + 25  # torchrun alone would wait 30 s more for it
    figure("R8", time_out_seconds=4, hung_rank_seconds=round(seconds, 2))


BROKEN = """
import os
import torch.distributed as dist
from mbrec.balance import MultiBalance

class Broken(MultiBalance):
    def weigh(self, *args):
        if self.step == 15 and dist.get_rank() == 1:
            if os.environ["HOW"] == "exit":
                os._exit(0)
            raise RuntimeError("broken on purpose")
        return super().weigh(*args)
"""


@pytest.mark.parametrize(
    ("how", "told"),
    [("exit", "rank 1 no longer"), pytest.param("raise", "on purpose", marks=pytest.mark.nightly)],
)
def test_a_rank_that_leaves_or_fails_ends_the_job(tiny_data, tmp_path, monkeypatch, how, told):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HOW", how)
    options = [*LONG, "balancer=custom", "balancer._target_=broken.Broken"]
    with Job(tmp_path, tiny_data, [*options, "runtime.plugins=[broken]"], torchrun=[]) as job:
        assert job.end(60) != 0
        assert told in job.text, job.text[-3000:]
        assert gone(job)
        newest, _ = folder.newest_verified(folder.finished(job.run / "checkpoint"))
        assert newest is not None
        assert folder.step_of(newest) == 10


def test_a_killed_launcher_leaves_no_process(tiny_data, tmp_path):
    with Job(tmp_path, tiny_data, LONG, torchrun=[]) as job:
        job.wait_for(saved)
        with_signal(job.process.pid, signal.SIGKILL)
        assert gone(job, 10), job.text[-3000:]
        assert "torchrun no longer answers" in job.text


def test_a_killed_reader_process_is_named(tiny_data, tmp_path):
    with Job(tmp_path, tiny_data, [*LONG, "data.num_workers=1"], torchrun=[]) as job:
        job.wait_for(saved)
        ranks = set(job.ranks().values())
        readers = [pid for pid in job.members() if parent_of(pid) in ranks]
        assert len(readers) >= 2
        with_signal(readers[0], signal.SIGKILL)
        assert job.end(60) != 0
        assert "a reader process that is killed" in job.text, job.text[-3000:]
        assert gone(job)


@pytest.mark.timeout(1200)  # thirty jobs, nightly
def test_a_restart_after_a_kill_goes_on_at_the_first_try_and_ends_as_if_nothing_had_been(
    tiny_data, tmp_path, figure, nightly, fault_seed
):
    options = ["trainer.steps=40", "trainer.epochs=9", "trainer.evaluate_every=20"]
    options += ["checkpoint.every=10", "checkpoint.keep=2"]
    (tmp_path / "undisturbed").mkdir()
    with Job(tmp_path / "undisturbed", tiny_data, options, torchrun=[]) as job:
        assert job.end() == 0, job.text[-3000:]
        expected = json.loads((job.run / "metrics.json").read_text())["history"]
    repeats = 30 if nightly else 1
    for repeat in range(repeats):
        (tmp_path / str(repeat)).mkdir()
        with Job(tmp_path / str(repeat), tiny_data, options, ["--max-restarts", "1"]) as job:
            job.wait_for(saved)
            with_signal(job.ranks()[(repeat + fault_seed) % 2], signal.SIGKILL)
            assert job.end() == 0, job.text[-3000:]
            assert "resumed at step" in job.text
            found = json.loads((job.run / "metrics.json").read_text())["history"]
        assert found == expected
    figure("R9", restarts=repeats, recovered_at_the_first=repeats, same_result=repeats)
