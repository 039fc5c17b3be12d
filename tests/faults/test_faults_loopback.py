"""A job on one machine listens on loopback alone, and starts again after a rank was killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousHandler,
    RendezvousParameters,
    rendezvous_handler_registry,
)

from mbrec.distributed import loopback

LISTEN = "0A"
# 127.0.0.1 and ::1 as the kernel writes them; the latter also as 127.0.0.1 in IPv6.
LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}
JOB = """
import os, signal, sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from mbrec.distributed import process

folder, victim = Path(sys.argv[1]), int(sys.argv[2])
runtime = process.start(timeout_s=60)
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
found = torch.ones(1)
dist.all_reduce(found)
assert found.item() == 2
(folder / f"joined_{attempt}_{runtime.rank}").touch()
if victim < 0:
    time.sleep(300)
if attempt == "0":
    if runtime.rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(300)
dist.barrier()
dist.destroy_process_group()
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def job(tmp_path):
    """Starts torchrun on two ranks, and ends whatever is left of them."""
    (tmp_path / "job.py").write_text(JOB)
    started: list[subprocess.Popen[bytes]] = []

    def start(victim: int, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += ["--rdzv-backend", loopback.NAME, "--rdzv-endpoint", loopback.ENDPOINT]
        command += options
        command += [str(tmp_path / "job.py"), str(tmp_path), str(victim)]
        unset = {"GLOO_SOCKET_IFNAME", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"}
        env = {key: value for key, value in os.environ.items() if key not in unset}
        env |= {"OMP_NUM_THREADS": "1"}
        with (tmp_path / "printed").open("w") as printed:
            started.append(subprocess.Popen(command, env=env, stdout=printed, stderr=printed))
        return started[-1]

    yield start
    for process in started:
        left = list(tree(process.pid))
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
        for pid, born in left:
            if start_of(pid) == born and pid != process.pid:
                os.kill(pid, signal.SIGKILL)


def start_of(pid: int) -> str | None:
    """Return when a process started, which tells it from a later one of the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def tree(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the processes that a process started, itself first."""
    born = start_of(pid)
    if born is None:
        return
    yield pid, born
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from tree(int(child))


def listeners(pid: int) -> set[tuple[int, str]]:
    """Return process and address of every socket of a process tree that listens."""
    owners: dict[str, int] = {}
    for member, _ in tree(pid):
        for fd in Path(f"/proc/{member}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:["):
                owners[target[8:-1]] = member
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == LISTEN and rest[5] in owners:
                found.add((owners[rest[5]], address.partition(":")[0]))
    return found


def wait_until_joined(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 180
    while not all((folder / f"joined_0_{rank}").exists() for rank in range(2)):
        assert process.poll() is None, (folder / "printed").read_text()[-4000:]
        assert time.monotonic() < deadline, "the ranks did not join in time"
        time.sleep(0.2)


def test_a_socket_that_listens_elsewhere_would_be_seen():
    with socket.create_server(("0.0.0.0", 0)):
        assert (os.getpid(), "00000000") in listeners(os.getpid())


def test_it_has_all_that_torchrun_asks_of_a_rendezvous():
    asked = {name for name in dir(RendezvousHandler) if not name.startswith("_")}
    assert asked <= set(dir(loopback.LoopbackRendezvous))


@pytest.mark.parametrize("endpoint", ["", loopback.ENDPOINT])
def test_torchrun_knows_it_by_its_name(endpoint):
    parameters = RendezvousParameters(loopback.NAME, endpoint, "job", 1, 1)
    made = rendezvous_handler_registry.create_handler(parameters)
    assert (made.get_backend(), made.get_run_id()) == (loopback.NAME, "job")
    assert made.use_agent_store


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys; import mbrec.distributed.loopback;"
        "assert not {'torch', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_each_start_of_the_workers_has_a_store_of_its_own():
    rendezvous = loopback.create(RendezvousParameters(loopback.NAME, "", "job", 1, 1, timeout=5))
    first, second = rendezvous.next_rendezvous(), rendezvous.next_rendezvous()
    assert (first.rank, first.world_size) == (second.rank, second.world_size) == (0, 1)
    first.store.set("key", "of the first")
    assert not second.store.check(["key"])
    places = [info.bootstrap_store_info for info in (first, second)]
    assert places[0] != places[1]
    assert {place.master_addr for place in places if place} == {"127.0.0.1"}
    rendezvous.shutdown()
    assert rendezvous.is_closed()
    with pytest.raises(RendezvousClosedError):
        rendezvous.next_rendezvous()


@pytest.mark.parametrize(
    ("endpoint", "nodes", "expected"),
    [
        ("", 2, "expected one node .*, got --nnodes up to 2"),
        ("host:29500", 1, "expected --rdzv-endpoint 127.0.0.1:0, .* got host:29500"),
    ],
)
def test_what_would_need_the_network_is_refused(endpoint, nodes, expected):
    with pytest.raises(ValueError, match=expected):
        loopback.create(RendezvousParameters(loopback.NAME, endpoint, "job", 1, nodes))


@pytest.mark.slow
def test_while_a_job_runs_it_listens_on_loopback_alone(job, tmp_path, figure):
    process = job(-1)
    wait_until_joined(process, tmp_path)
    found = listeners(process.pid)
    assert len({pid for pid, _ in tree(process.pid)}) == 3
    assert process.pid in {pid for pid, _ in found}
    assert {address for _, address in found} <= LOOPBACK
    figure("S4", listeners=len(found), beyond_loopback=0)
    assert (tmp_path / "printed").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [pytest.param(1, marks=pytest.mark.nightly), 0])
def test_a_job_whose_rank_was_killed_starts_again_and_ends_well(victim, job, tmp_path):
    process = job(victim, "--max-restarts", "1")
    process.wait(timeout=240)
    printed = (tmp_path / "printed").read_text()
    assert process.returncode == 0, printed[-4000:]
    # The other rank may have been ended before it could say that it had joined.
    expected = {f"joined_0_{victim}", "joined_1_0", "joined_1_1"}
    assert expected <= {path.name for path in tmp_path.glob("joined_*")}
    assert "Exception while registering" not in printed
