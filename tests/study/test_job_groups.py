"""Jobs one after the other in the same processes: what one leaves behind, and how ranks agree."""

import gc
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from mbrec.distributed.interrupt import Interrupt, Interrupted
from mbrec.study import job_groups


def sum_of_ranks(runtime: Any) -> float:
    value = torch.tensor(float(runtime.rank + 1))
    dist.all_reduce(value, group=dist.new_group())
    return value.item()


def all_fail(runtime: Any) -> None:
    dist.all_reduce(torch.ones(1), async_op=True)  # still under way when the job is over
    raise ValueError(f"no such thing on {runtime.rank}\nand more")


def rank_one_fails(runtime: Any) -> None:
    group = dist.new_group()
    if runtime.rank == 1:
        raise KeyError("alone")
    dist.all_reduce(torch.ones(1), group=group)


def rank_one_fails_at_the_end(runtime: Any) -> None:
    dist.barrier()
    if runtime.rank == 1:
        raise OSError("full")


def run_jobs() -> dict[str, Any]:
    """What several jobs in a row gave on this rank."""
    job_groups.GRACE_S = 0.2
    interrupt = Interrupt()
    found = job_groups.JobGroups(interrupt, timeout_s=30)
    held: list[Any] = []

    def leaves_a_model(runtime: Any) -> None:
        model = torch.nn.Linear(2, 2)
        model.cycle = model.group = [model, dist.new_group()]
        held.append(weakref.ref(model))
        raise FloatingPointError("spoilt")

    def run(job: Any) -> tuple[Any, ...]:
        gc.disable()  # what is freed is freed by `JobGroups`
        outcome = found.run(job, timeout_s=30)
        gc.enable()
        return outcome.state, outcome.value, outcome.reason, dist.is_initialized()

    jobs = [sum_of_ranks, all_fail, sum_of_ranks, rank_one_fails, rank_one_fails_at_the_end]
    answers = {"shared": found.share(lambda: {"rank": found.rank})}
    answers |= {"runs": [run(job) for job in [*jobs, sum_of_ranks]]}
    answers |= {"leaving": run(leaves_a_model), "left": held[0]() is not None}
    try:
        found.share(_refuse)
    except ValueError as error:
        answers["refused"] = str(error)
    if found.rank == 1:
        interrupt.request("SIGTERM")  # too late for the job that this one ends with
    answers["late"] = [run(sum_of_ranks), run(sum_of_ranks)]
    return answers


def _refuse() -> None:
    raise OSError("no folder")


def be_stopped() -> tuple[str, str]:
    def job(runtime: Any) -> None:
        raise Interrupted("SIGINT")

    outcome = job_groups.JobGroups(Interrupt(), timeout_s=30).run(job, timeout_s=30)
    return outcome.state, outcome.reason


def end_before_the_other(seen: str) -> str:
    """What rank 0 is told, while rank 1 stays in a job."""
    job_groups.SPARE_S = 0.0

    def job(runtime: Any) -> None:
        while runtime.rank == 1 and not Path(seen).exists():
            time.sleep(0.02)

    try:
        job_groups.JobGroups(Interrupt(), timeout_s=30).run(job, timeout_s=1)
    except job_groups.RanksLost as lost:
        return str(lost)
    finally:
        Path(seen).touch()
    return "went on"


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    return run_ranks(run_jobs, 2, tmp_path_factory.mktemp("groups"), group=False)


def test_a_job_has_a_group_of_its_own_and_none_is_left(answers):
    for answer in answers:
        for index in (0, 2, 5):
            assert answer["runs"][index] == ("finished", 3.0, "", False)


def test_what_every_rank_raises_is_an_outcome_with_its_first_line(answers):
    for answer in answers:
        assert answer["runs"][1] == ("failed", None, "ValueError: no such thing on 0", False)


def test_a_rank_that_fails_alone_does_not_leave_the_others_waiting(answers):
    # Rank 0 was in a collective that rank 1 never came to; its reason is not the cause.
    for answer in answers:
        assert answer["runs"][3] == ("failed", None, "KeyError: 'alone'", False)
        assert answer["runs"][4] == ("failed", None, "OSError: full", False)


def test_a_job_that_failed_has_left_no_model(answers):
    for answer in answers:
        assert answer["leaving"] == ("failed", None, "FloatingPointError: spoilt", False)
        assert not answer["left"]


def test_what_rank_zero_makes_or_why_it_cannot_is_known_to_all(answers):
    assert [answer["shared"] for answer in answers] == [{"rank": 0}] * 2
    assert [answer["refused"] for answer in answers] == ["no folder"] * 2


def test_a_wish_to_stop_that_comes_too_late_for_a_job_stops_before_the_next(answers):
    for answer in answers:
        assert [state for state, *_ in answer["late"]] == ["finished", "interrupted"]
        assert answer["late"][1][2] == "SIGTERM"


def test_a_job_that_was_interrupted_says_so(tmp_path):
    assert run_ranks(be_stopped, 1, tmp_path, group=False) == [("interrupted", "SIGINT")]


def test_a_rank_that_does_not_come_back_ends_all_jobs(tmp_path):
    told = run_ranks(end_before_the_other, 2, tmp_path, str(tmp_path / "seen"), group=False)
    assert "rank 1 has not ended the job" in told[0]
