"""A rank that cannot notice a failure of another one by itself is ended, with the reason."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from processes import gone, stop
from torch._C._distributed_c10d import HashStore

from mbrec.distributed import failures, watchdog
from mbrec.distributed.process import Runtime
from mbrec.distributed.processes import introduce

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(watchdog, "POLL_S", 0.02)


class Watched:
    """A watch of rank 0 of two, whose end is noted."""

    def __init__(self, store: Any, *, patience_s: float = 0.0, timeout_s: float = 600) -> None:
        self.said: list[str] = []
        self.ended = threading.Event()
        introduce(store, 0)
        runtime = Runtime(0, 2, 2, torch.device("cpu"), store, timeout_s, patience_s)
        self.watch = watchdog.Watch(
            runtime, last_words=self.said.append, end=lambda code: self.ended.set()
        )

    def ends(self) -> str:
        with self.watch:
            assert self.ended.wait(DEADLINE_S)
        return self.said[0]

    def leaves_after(self, what: Callable[[], object]) -> None:
        """Let the main thread leave once something is so; the process must go on."""
        with self.watch:
            waited = threading.Event()
            for _ in range(3000):
                if what():
                    break
                waited.wait(0.02)
            else:
                raise AssertionError("waited in vain")
        self.watch._thread.join(DEADLINE_S)
        assert not self.watch._thread.is_alive()
        assert not self.ended.is_set()


def test_a_failure_that_another_rank_has_reported_ends_a_rank_that_waits(store, capfd):
    introduce(store, 1)
    watched = Watched(store)
    failures.report(store, 1, "part.parquet: row 7")
    assert watched.ends() == "PeerFailure: rank 1 has failed: part.parquet: row 7"
    assert "rank 1 has failed: part.parquet: row 7" in capfd.readouterr().err


def test_whoever_notices_it_by_itself_in_time_is_left_alone(store):
    introduce(store, 1)
    watched = Watched(store, patience_s=600)
    failures.report(store, 1, "part.parquet: row 7")
    watched.leaves_after(lambda: store.check(["noticed/0"]))


def test_a_rank_that_died_is_named(store, process):
    gone(process(1))
    assert Watched(store).ends() == "PeerFailure: rank 1 no longer answers: it has died"


def test_a_rank_that_has_finished_first_has_not_died(store, process):
    peer, polls = process(1), []
    store.set("left/1", "")
    gone(peer)
    watched = Watched(store)
    whole = watched.watch._trouble
    watched.watch._trouble = lambda: polls.append(0) or whole()
    watched.leaves_after(lambda: len(polls) > 2)


def test_a_rank_that_stays_stopped_is_ended_and_named(store, process):
    peer = process(1)
    stop(peer)
    told = Watched(store, timeout_s=0.1).ends()
    assert told == "PeerFailure: rank 1 no longer answers: it was stopped for 0.1 s"
    assert peer.wait(DEADLINE_S) == -9


def test_who_is_to_blame_is_told_by_the_rank_that_knows(store):
    introduce(store, 1)
    watched = Watched(store)
    store.set("blamed", "rank 0 no longer answers: it took longer")
    failures.report(store, 1, "")
    assert watched.ends() == "PeerFailure: rank 0 no longer answers: it took longer"


class Counting(HashStore):
    """A store that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def clone(self) -> Any:
        return SimpleNamespace(check=self.check, get=self.get, append=cast(Any, self).append)

    def check(self, keys: list[str]) -> bool:
        self.asked += 1
        return super().check(keys)

    def get(self, key: str) -> bytes:
        self.asked += 1
        return super().get(key)


@pytest.mark.parametrize("world_size", [2, 64])
def test_a_watch_asks_the_store_once_a_poll_however_many_ranks_there_are(world_size):
    store = Counting()
    for rank in range(world_size):
        introduce(store, rank)
    watched = watchdog.Watch(Runtime(0, world_size, world_size, torch.device("cpu"), store))
    asked = []
    for _ in range(3):
        before = store.asked
        assert watched._trouble() is None
        asked.append(store.asked - before)
    assert asked == [3, 1, 1]  # the first one reads who the others are


def test_a_store_that_is_gone_ends_a_rank():
    class Gone(HashStore):
        def clone(self) -> Any:
            return SimpleNamespace(check=self.check)

        def check(self, keys: list[str]) -> bool:
            raise dist.DistNetworkError("connection reset by peer")

    assert "torchrun no longer answers" in Watched(Gone()).ends()
