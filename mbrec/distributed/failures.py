"""Names the rank that has failed or no longer answers, and ends the processes that hang."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from torch._C._distributed_c10d import Store

from mbrec.distributed.collective_errors import is_of_collective
from mbrec.distributed.processes import Processes, add

if TYPE_CHECKING:
    from mbrec.distributed.process import Runtime

# Every rank that is alive notices a failure within this time, on a busy machine as well.
ANSWER_S = 5.0
# The reason of a rank that has failed by itself arrives within this time.
WAIT_S = 0.5
POLL_S = 0.05


class PeerFailure(ConnectionError):
    """Another rank has failed, has died or no longer answers; this one is sound."""


def report(store: Store, rank: int, reason: str) -> None:
    """Report to the other ranks that this one has failed; without a reason if another caused it."""
    add(store, "reports", json.dumps([rank, reason[:1000]]) + "\n")


def reports(store: Store) -> dict[int, str]:
    """Return the ranks that have failed, with the last report of each."""
    if not store.check(["reports"]):
        return {}
    return dict(json.loads(line) for line in store.get("reports").decode().splitlines())


def reported(store: Store, ranks: Sequence[int]) -> str:
    """Return what a rank that has failed by itself has reported; empty if none has."""
    found = reports(store)
    failed = [rank for rank in ranks if found.get(rank)]
    return f"rank {failed[0]} has failed: {found[failed[0]]}" if failed else ""


@contextmanager
def named_failures(
    runtime: "Runtime", *, last_words: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Report to the other ranks why this one fails; name the rank whose failure this one meets.

    A watch runs meanwhile, which ends this process where it cannot notice a failure by itself: see
    `mbrec.distributed.watchdog`.

    Args:
        runtime: this process.
        last_words: called with the reason if the watch ends this process.

    Raises:
        PeerFailure: naming the ranks that do not answer, or what another one has reported.
        ChildProcessError: if a reader process has died.
    """
    from mbrec.distributed.watchdog import Watch

    store, rank = runtime.store, runtime.rank
    watch = Watch(runtime, last_words=last_words) if runtime.world_size > 1 else nullcontext()
    try:
        with watch:
            yield
            store.set(f"left/{rank}", "")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("DataLoader worker"):
            raised: Exception | None = _of_reader(reason)
        elif isinstance(error, PeerFailure):
            raised = error
        elif is_of_collective(error):
            raised = _failure_of_another(store, rank, runtime.world_size, reason)
        else:
            raised = None
        with suppress(RuntimeError):  # without a store no other rank can be reached
            if isinstance(raised, PeerFailure):
                report(store, rank, "")
            else:
                report(store, rank, str(raised or error) or type(error).__name__)
                # They cannot end by themselves, as all others do.
                processes = Processes(store, set(range(runtime.world_size)) - {rank})
                processes.kill(processes.look().stopped)
        if raised is None or raised is error:
            raise
        raise raised from error


def _of_reader(reason: str) -> ChildProcessError:
    remedy = (
        "a reader process that is killed has mostly taken too much memory: lower data.num_workers "
        "or data.shuffle_rows"
    )
    if "Bus error" in reason:
        remedy = (
            "shared memory (/dev/shm) has run out: give the container more (docker run "
            "--shm-size 8g), or set data.num_workers=0"
        )
    return ChildProcessError(f"{reason}; {remedy}")


def _failure_of_another(
    store: Store, rank: int, world_size: int, reason: str
) -> PeerFailure | None:
    others = [other for other in range(world_size) if other != rank]
    try:
        report(store, rank, "")
        processes = Processes(store, others)
        silent = _silent(store, processes, others)
        if text := reported(store, others):
            return PeerFailure(text)
        seen = processes.look()
        late = [other for other in others if other not in reports(store)]
        found = [*seen.dead, *seen.stopped] or silent or late
        if not found:
            return None
        # Those that answer end by themselves.
        processes.kill([other for other in found if other in silent])
        names = ", ".join(map(str, sorted(set(found))))
        text = (
            f"rank {names} no longer answers: it has died, is stopped, or took longer than "
            "runtime.timeout_s"
        )
        store.set("blamed", text)
        return PeerFailure(f"{text} ({reason:.200})")
    except RuntimeError:
        return PeerFailure(
            f"torchrun no longer answers, or the rank 0 whose store the ranks share ({reason})"
        )


def _silent(store: Store, processes: Processes, others: Sequence[int]) -> list[int]:
    """Return the ranks on which neither the main thread nor the watch has noticed a failure.

    A process that is alive notices soon; one that hangs, is stopped or is gone does not.
    """
    start, silent = time.monotonic(), list(others)
    while True:
        found = reports(store)
        silent = [r for r in silent if r not in found and not store.check([f"noticed/{r}"])]
        waited = time.monotonic() - start
        if any(found.get(other) for other in others) or waited > ANSWER_S:
            return silent
        seen = processes.look()
        if waited > WAIT_S and {*silent} <= {*seen.dead, *seen.stopped}:
            return silent
        time.sleep(POLL_S)
