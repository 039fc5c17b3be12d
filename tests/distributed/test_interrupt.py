"""All ranks stop before the same batch, whichever is asked to and whenever."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any, cast

import pytest
import torch
from ranks import run_ranks

from mbrec.distributed.interrupt import Interrupt, Interrupted
from mbrec.distributed.lockstep import VOTED_BATCHES


class Shared:
    """A store in memory, as several ranks see it."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key]

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def clone(self) -> "Shared":
        return self

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        assert expected_value == ""
        return self.values.setdefault(key, desired_value.encode())


def ranks(count: int) -> list[Interrupt]:
    """Interrupts of the ranks of one job."""
    store = Shared()
    return [Interrupt(cast(Any, store)) for _ in range(count)]


class Counts:
    """A batch, as far as ranks vote on it."""

    def __init__(self) -> None:
        self.counts_K, self.positives_K = torch.ones(1).double(), torch.zeros(1).double()


def steps_until_a_stop(requests: dict[int, int], lengths: list[int], limit: int | None):
    """Return the batches that this rank takes, and why it stops.

    Args:
        requests: rank -> batches after which it is asked to stop.
        lengths: batches that each rank has.
        limit: of the segment.
    """
    from mbrec.distributed import process
    from mbrec.distributed.lockstep import Lockstep

    runtime = process.start()
    interrupt = Interrupt(runtime.store if runtime.world_size > 1 else None)
    asked = requests.get(runtime.rank)
    if asked == 0:
        interrupt.request(f"rank {runtime.rank}")
    batches = iter([Counts() for _ in range(lengths[runtime.rank])])
    lockstep = Lockstep(batches, Counts, limit=limit, interrupt=interrupt)
    taken = 0
    for _ in lockstep:
        taken += 1
        if taken == asked:
            interrupt.request(f"rank {runtime.rank}")
    if not lockstep.stopped:
        return taken, "", lockstep.exhausted
    try:
        interrupt.stop()
    except Interrupted as stop:
        return taken, str(stop), lockstep.exhausted


def all_stops(cases: list[Any]) -> list[Any]:
    return [steps_until_a_stop(*case) for case in cases]


STOPS: list[tuple[dict[int, int], list[int], int | None]] = [
    *(({rank: after}, [50, 50], None) for rank in (0, 1) for after in (0, 1, 2, 3, 7)),
    ({0: 3, 1: 4}, [50, 50], None),
    ({0: 5}, [3, 50], None),
    ({1: 2}, [50, 50], 9),
    ({1: 2}, [50, 0], None),
]


def test_ranks_stop_before_the_same_batch_soon_after_any_of_them_is_asked(tmp_path):
    first, second = run_ranks(all_stops, 2, tmp_path, STOPS)
    assert first == second
    for (requests, _, _), (taken, reason, exhausted) in zip(STOPS, first, strict=True):
        asked = min(requests.values())
        assert asked <= taken <= asked + 2 * VOTED_BATCHES
        assert reason in {f"rank {rank}" for rank in requests}
        assert not exhausted


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_one_rank_stops_soon_after_it_is_asked(tmp_path, after):
    ((taken, reason, _),) = run_ranks(steps_until_a_stop, 1, tmp_path, {0: after}, [50], None)
    assert after <= taken <= after + 2 * VOTED_BATCHES
    assert reason == "rank 0"


def test_a_request_after_the_last_vote_of_a_segment_counts_in_the_next_one(tmp_path):
    (found,) = run_ranks(all_stops, 1, tmp_path, [({0: 4}, [50], 4), ({0: 0}, [50], 4)])
    assert found == [(4, "", False), (0, "rank 0", False)]


def test_the_first_reason_is_that_of_every_rank():
    first, second = ranks(2)
    for interrupt, reason in ((first, "SIGTERM"), (second, "another")):
        assert not interrupt.vote()
        interrupt.request(reason)
        assert interrupt.vote()
    for interrupt in (first, second):
        with pytest.raises(Interrupted, match=r"^SIGTERM$"):
            interrupt.stop()


def test_a_new_job_keeps_a_request_that_came_before_it():
    interrupt = Interrupt()
    interrupt.request("SIGTERM")
    (other,) = ranks(1)
    interrupt.join(other._store)
    assert not other.requested()
    assert interrupt.vote()
    assert other.requested()
    assert other.reason == "SIGTERM"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    interrupt = Interrupt()
    try:
        interrupt.install()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as torchrun passes on what a terminal has sent to all
        assert interrupt.vote()
        with pytest.raises(Interrupted, match=signal.Signals(number).name):
            interrupt.stop()
    finally:
        signal.set_wakeup_fd(-1)
        for n, handler in before.items():
            signal.signal(n, handler)


# The main thread waits in C for good, as in a collective that another rank never comes to: Python
# handles no signal in it. A thread sends what the test says, and what `printed` says shows.
IN_C = """
import ctypes, os, threading, time
import mbrec.distributed.interrupt as m
{before}
interrupt = m.Interrupt({store})
interrupt.install()
def others():
    os.kill(os.getpid(), 15)
    {then}
threading.Thread(target=others, daemon=True).start()
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
lock(mutex), lock(mutex)
"""


def in_c(**parts: str) -> "subprocess.CompletedProcess[str]":
    parts = {"before": "", "store": "", "then": "", **parts}
    command = [sys.executable, "-c", IN_C.format(**parts)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_second_signal_a_while_later_ends_the_process_at_once_wherever_it_is():
    done = in_c(before="m.PATIENCE_S = 0.1", then="time.sleep(0.3); os.kill(os.getpid(), 15)")
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")


def test_other_ranks_learn_of_a_signal_to_a_rank_that_waits_for_them_in_a_collective():
    store = """
class Store:
    def clone(self):
        return self
    def compare_set(self, key, expected, value):
        print(key, value, flush=True)
        os._exit(0)
"""
    done = in_c(before=store, store="Store()")
    assert (done.returncode, done.stdout) == (0, "interrupt SIGTERM\n")


def test_a_rank_that_waits_finds_the_request_of_another_before_any_vote():
    first, second = ranks(2)
    assert not second.requested()
    assert not second.reason
    first._receive(signal.SIGTERM)
    assert first.requested()
    assert second.requested()
    assert second.reason == "SIGTERM"
    for interrupt in (first, second):
        with pytest.raises(Interrupted, match="SIGTERM"):
            interrupt.stop()


def test_a_request_may_come_from_another_thread():
    interrupt = Interrupt()
    thread = threading.Thread(target=interrupt.request, args=["a full disk"])
    thread.start()
    thread.join()
    assert interrupt.vote()
    with pytest.raises(Interrupted, match="a full disk"):
        interrupt.stop()
