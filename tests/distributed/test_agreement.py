"""All ranks get the same answer, or the same error, or wait for one that is at work."""

import threading
import time

import pytest
import torch.distributed as dist
from processes import gone
from ranks import run_ranks

from mbrec.distributed import agreement, failures
from mbrec.distributed.agreement import after_rank_0
from mbrec.distributed.failures import PeerFailure

DEADLINE_S = 60


class Refusal(ValueError):
    """An error of its own class."""


def answers() -> dict[str, object]:
    """What each way to agree gave on this rank."""
    rank = dist.get_rank()

    def refuse() -> None:
        raise Refusal(f"of rank {rank}")

    found: dict[str, object] = {"made": agreement.from_rank_0(lambda: {"rank": rank})}
    try:
        agreement.from_rank_0(refuse)
    except Refusal as error:
        found["refused"] = str(error)
    found["gathered"] = agreement.gather(rank)
    found["well"] = agreement.first_problem(lambda: None)
    found["of the second"] = agreement.first_problem(refuse if rank else lambda: None)
    return found


def test_every_rank_gets_the_same(tmp_path):
    first, second = run_ranks(answers, 2, tmp_path)
    assert first == second
    assert first == {
        "made": {"rank": 0},
        "refused": "of rank 0",
        "gathered": [0, 1],
        "well": None,
        "of the second": "of rank 1 (rank 1)",
    }


def test_ranks_wait_for_long_work_of_rank_0_until_it_is_done(store, process):
    process(0)
    begun, found = threading.Event(), []

    def wait() -> None:
        begun.set()
        after_rank_0(store, 1, "work", lambda: found.append("twice"), poll_s=0.01)
        found.append("after")

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert begun.wait(DEADLINE_S)
    time.sleep(0.1)
    after_rank_0(store, 0, "work", lambda: found.append("done"))
    thread.join(DEADLINE_S)
    assert found == ["done", "after"]


def test_ranks_do_not_wait_for_a_rank_0_that_has_failed_or_died(store, process):
    writer = process(0)
    failures.report(store, 0, "the disk is full")
    with pytest.raises(PeerFailure, match="rank 0 has failed: the disk is full"):
        after_rank_0(store, 1, "work", list)
    failures.report(store, 0, "")
    gone(writer)
    with pytest.raises(PeerFailure, match="rank 0 no longer answers: it has died"):
        after_rank_0(store, 1, "work", list)


def test_one_process_without_a_group_decides_by_itself():
    assert agreement.from_rank_0(lambda: 3) == 3
