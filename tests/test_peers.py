"""A failed collective names who does not answer; a failure of one's own is not blamed on others."""

import os
import subprocess
import sys

import pytest

from mbrec.peers import dead, end_hung, introduce, named_failures, silent_ranks, suspects


class Shared:
    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


class Gone(Shared):
    def set(self, key: str, value: str) -> None:
        raise RuntimeError("connection reset by peer")


GLOO = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"


def test_ranks_that_have_not_noticed_are_the_silent_ones():
    store = Shared()
    store.set("failed/2", "")
    assert silent_ranks(store, 0, 4) == [1, 3]
    assert silent_ranks(Gone(), 0, 4) is None


@pytest.mark.parametrize("text", [GLOO, "Application timeout caused pair closure", "Timed out"])
def test_a_failed_collective_names_the_silent_rank(text):
    with (
        pytest.raises(ConnectionError, match="rank 1 no longer answers"),
        named_failures(Shared(), 0, 2),
    ):
        raise RuntimeError(text)


def test_a_store_that_is_gone_is_told():
    with (
        pytest.raises(ConnectionError, match="torchrun no longer answers"),
        named_failures(Gone(), 1, 2),
    ):
        raise RuntimeError(GLOO)


def test_another_error_is_not_blamed_on_a_peer():
    with pytest.raises(RuntimeError, match="shape mismatch"), named_failures(Shared(), 0, 2):
        raise RuntimeError("shape mismatch")


def test_the_reason_of_a_rank_that_failed_by_itself_is_told_by_the_others():
    store = Shared()
    with pytest.raises(ValueError, match="row 7"), named_failures(store, 1, 3):
        raise ValueError("part.parquet: row 7")
    with (
        pytest.raises(ConnectionError, match=r"rank 1 has failed: part\.parquet: row 7"),
        named_failures(store, 0, 3),
    ):
        raise RuntimeError(GLOO)


def test_a_busy_rank_is_not_taken_for_the_one_that_is_gone():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    store = Shared()
    introduce(store, 1)
    store.set("process/2", store.values["process/1"].replace(str(os.getpid()), str(gone.pid)))
    assert suspects(store, [1, 2]) == [2]
    # Where nobody is surely gone, and for ranks of other machines, all are named.
    store.set("process/2", "another.host 1")
    assert suspects(store, [1, 2, 3]) == [1, 2, 3]


def test_only_a_process_that_has_ended_is_dead():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    store = Shared()
    introduce(store, 1)
    store.set("process/2", store.values["process/1"].replace(str(os.getpid()), str(gone.pid)))
    store.set("process/3", "another.host 1")
    assert dead(store, [1, 2, 3, 4]) == [2]


def test_a_reader_that_was_killed_is_told():
    with pytest.raises(ChildProcessError, match="num_workers"), named_failures(Shared(), 0, 2):
        raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")


def test_a_process_that_torchrun_did_not_start_is_left_alone():
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    stranger = subprocess.Popen(sleep)
    store = Shared()
    introduce(store, 0)
    assert store.get("process/0").decode().endswith(f" {os.getpid()}")
    # A child of this process is no child of its parent.
    store.set("process/1", store.values["process/0"].replace(str(os.getpid()), str(stranger.pid)))
    store.set("process/2", "another.host 1")
    try:
        end_hung(store, [1, 2, 3])
        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(0.5)
    finally:
        stranger.kill()
        stranger.wait()
