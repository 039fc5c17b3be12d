"""All ranks stop at the same tick, whoever wishes it and whenever."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.distributed.interrupt import Interrupt, Interrupted


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
    """Interrupts of ranks of one job: of the same key."""
    store, made = Shared(), [Interrupt() for _ in range(count)]
    for interrupt in made:
        interrupt.store, interrupt._key = store, made[0]._key
    return made


def test_one_rank_stops_at_the_next_look():
    interrupt = Interrupt()
    interrupt.check()
    interrupt.request("SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM"):
        interrupt.check()


@given(data=st.data(), count=st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_ranks_that_are_at_most_a_step_apart_stop_after_the_same_one(data, count):
    """Ranks take turns in any order that waiting for each other once a step allows."""
    made, wishes = (
        ranks(count),
        data.draw(st.dictionaries(st.integers(0, count - 1), st.integers(0, 6), min_size=1)),
    )
    ticks, stopped = [0] * count, {}
    while len(stopped) < count:
        running = [r for r in range(count) if r not in stopped]
        slowest = min(ticks[r] for r in range(count))
        # The collectives of step t need every rank: nobody looks again before all have begun it.
        able = [r for r in running if ticks[r] <= slowest]
        rank = data.draw(st.sampled_from(able or running))
        if wishes.get(rank) == ticks[rank]:
            made[rank].request(f"of rank {rank}")
        ticks[rank] += 1
        try:
            made[rank].check()
        except Interrupted:
            stopped[rank] = ticks[rank]
    assert len(set(stopped.values())) == 1


def test_the_first_wish_is_the_one_that_is_told():
    first, second = ranks(2)
    first.request("SIGTERM")
    second.request("another")
    reasons = []
    for _ in range(4):
        for interrupt in (first, second):
            try:
                interrupt.check()
            except Interrupted as stop:
                reasons.append(str(stop))
    assert reasons[:2] == ["SIGTERM", "SIGTERM"]


def test_two_jobs_of_one_process_do_not_see_each_others_wishes():
    store = Shared()
    first, second = Interrupt(store), Interrupt(store)
    first.request("the first")
    for _ in range(5):
        second.check()


def test_a_new_job_counts_anew_and_keeps_a_wish_that_was_not_followed():
    store = Shared()
    interrupt = Interrupt(store)
    interrupt.request("the wish")
    with pytest.raises(Interrupted):
        for _ in range(9):
            interrupt.check()
    # What the job before has agreed on is no tick of this one.
    interrupt.renew(store)
    assert interrupt.wish == "the wish"
    interrupt.check()
    with pytest.raises(Interrupted, match="the wish"):
        for _ in range(3):
            interrupt.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_wish(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    interrupt = Interrupt()
    try:
        interrupt.install()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as torchrun passes on what a terminal has sent to all
        with pytest.raises(Interrupted, match=signal.Signals(number).name):
            interrupt.check()
    finally:
        signal.set_wakeup_fd(-1)
        for n, handler in before.items():
            signal.signal(n, handler)


# The main thread waits in C for good, as in a collective that another rank never comes to: Python
# handles no signal in it. A thread sends what the test says, and what `printed` says shows.
IN_C = """
import ctypes, os, threading, time
import mbrec.interrupt as m
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
    def set(self, key, value):
        print(key, value, flush=True)
        os._exit(0)
"""
    done = in_c(before=store, store="Store()")
    assert (done.returncode, done.stdout) == (0, "interrupt/0 wish SIGTERM\n")


def test_a_rank_that_waits_hears_of_the_wish_of_another_before_any_tick():
    first, second = ranks(2)
    assert not second.wished()
    assert not second.stopping
    first.request("SIGTERM")
    first._receive(signal.SIGTERM)
    assert first.wished()
    assert second.wished()
    assert second.stopping
    for interrupt in (first, second):
        with pytest.raises(Interrupted, match="SIGTERM"):
            interrupt.stop()


def test_a_wish_that_is_kept_for_the_next_job_is_known_to_its_ranks_before_any_tick():
    first, second = ranks(2)
    first.request("SIGTERM")
    for interrupt in (first, second):
        interrupt._key, interrupt._renewed = "a", 0
        interrupt.renew(first.store)
    assert second.wished()


def test_a_wish_may_come_from_another_thread():
    interrupt = Interrupt()
    thread = threading.Thread(target=interrupt.request, args=["a full disk"])
    thread.start()
    thread.join()
    with pytest.raises(Interrupted, match="a full disk"):
        interrupt.check()
