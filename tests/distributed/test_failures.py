"""A failed collective names who does not answer; a failure of one's own is blamed on nobody."""

import signal
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from processes import gone, stop
from torch._C._distributed_c10d import HashStore

from mbrec.distributed import failures
from mbrec.distributed.failures import PeerFailure, named_failures
from mbrec.distributed.process import Runtime

GLOO = "[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"
DEADLINE_S = 60


def failed_collective(text: str = GLOO) -> Exception:
    return dist.DistBackendError(text)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A rank that does not answer is not waited for."""
    monkeypatch.setattr(failures, "ANSWER_S", 0.3)
    monkeypatch.setattr(failures, "WAIT_S", 0.1)


def rank(store: HashStore, number: int = 0, world_size: int = 2) -> Runtime:
    """This process as a rank, which no watch of its own ends."""
    return Runtime(number, world_size, world_size, torch.device("cpu"), store, 600, 600)


class Gone(HashStore):
    """A store whose server has died."""

    def check(self, keys: list[str]) -> bool:
        raise dist.DistNetworkError("connection reset by peer")


OWN = [
    RuntimeError("CUDA error: the launch timed out and was terminated"),
    RuntimeError(GLOO),
    RuntimeError("Connection closed by peer"),
    ValueError("storage timed out"),
    TimeoutError("Timed out waiting 1800000ms for recv operation to complete"),
    ConnectionResetError("Connection reset by peer"),
    RuntimeError(""),
]


@pytest.mark.parametrize("error", OWN, ids=lambda error: str(error)[:20] or "no text")
def test_an_error_of_ones_own_harms_nobody_whatever_its_text(error, store, process):
    peer = process(1)
    with pytest.raises(type(error)) as raised, named_failures(rank(store)):
        raise error
    assert raised.value is error
    assert peer.poll() is None
    text = str(error) or "RuntimeError"
    with (
        pytest.raises(PeerFailure) as told,
        named_failures(rank(store, 1)),
    ):
        raise failed_collective()
    assert str(told.value) == f"rank 0 has failed: {text}"


def test_a_rank_that_does_not_answer_is_named(store):
    with (
        pytest.raises(PeerFailure, match="rank 1 no longer answers"),
        named_failures(rank(store)),
    ):
        raise failed_collective()


def test_a_rank_that_hangs_is_named_and_ended(store, process):
    peer = process(1)
    with pytest.raises(PeerFailure, match="rank 1 no longer"), named_failures(rank(store)):
        raise failed_collective()
    assert peer.wait(DEADLINE_S) == -signal.SIGKILL


def test_a_rank_that_is_stopped_is_named_and_ended_though_it_had_noticed_a_failure(store, process):
    peer = process(1)
    stop(peer)
    with pytest.raises(PeerFailure, match="rank 1 no longer"), named_failures(rank(store)):
        raise failed_collective()
    assert peer.wait(DEADLINE_S) == -signal.SIGKILL


def test_a_rank_that_is_alive_and_late_is_named_and_ends_by_itself(store, process):
    peer = process(1)
    store.set("noticed/1", "")  # its watch answers
    with pytest.raises(PeerFailure, match="rank 1 no longer"), named_failures(rank(store)):
        raise failed_collective()
    assert peer.poll() is None


def test_a_store_that_is_gone_is_told():
    with (
        pytest.raises(PeerFailure, match="torchrun no longer answers"),
        named_failures(Runtime(1, 1, 1, torch.device("cpu"), Gone())),
    ):
        raise failed_collective()


def test_the_rank_that_is_surely_gone_is_named_and_not_a_busy_one(store, process):
    busy, ended = process(1), process(2)
    gone(ended)
    with (
        pytest.raises(PeerFailure, match="rank 2 no longer"),
        named_failures(rank(store, 0, 3)),
    ):
        raise failed_collective()
    assert busy.poll() is None


def test_a_reader_that_was_killed_is_told(store):
    with pytest.raises(ChildProcessError, match="num_workers"), named_failures(rank(store)):
        raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed. ")


def test_a_reader_that_met_the_end_of_shared_memory_is_told(store):
    with pytest.raises(ChildProcessError, match="shm-size"), named_failures(rank(store)):
        raise RuntimeError("DataLoader worker (pid 17) is killed by signal: Bus error. ")


def test_importing_what_commands_show_in_a_line_needs_no_torch():
    modules = "mbrec.distributed.launcher, mbrec.distributed.loopback, mbrec.distributed.shutdown"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)
