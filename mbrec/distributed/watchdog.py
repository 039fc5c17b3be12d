"""Ends a process whose peers have failed and which cannot notice it by itself.

With gloo a rank in a collective notices at once that another one is gone: its connection closes.
With NCCL it waits inside a read from the device, and a rank that waits for a batch is in no
collective at all. So each rank has a thread, independent of the backend, that reads in the store
which failures others have reported, and sees the processes of this machine die.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from mbrec.config.errors import tell
from mbrec.distributed import failures
from mbrec.distributed.processes import Processes

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from mbrec.distributed.process import Runtime

POLL_S = 0.25


class Watch:
    """Watches the other ranks while it is used as a context.

    A failure is left to the main thread for `runtime.patience_s` seconds. If it has not left the
    context by then, the process ends with status 1 and the reason.

    Args:
        runtime: this process.
        last_words: called with the reason, before the end.
        end: ends the process.
    """

    def __init__(
        self,
        runtime: "Runtime",
        *,
        last_words: Callable[[str], None] | None = None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        # A thread that shared the main thread's connection would wait for its answers.
        self._store: Store = cast(Any, runtime.store).clone()  # torch's type stubs lack it
        self._rank = runtime.rank
        self._others = [rank for rank in range(runtime.world_size) if rank != runtime.rank]
        self._processes = Processes(self._store, self._others)
        self._timeout_s, self._patience_s = runtime.timeout_s, runtime.patience_s
        self._last_words, self._end = last_words, end
        self._stopped_since: dict[int, float] = {}
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()

    def _run(self) -> None:
        while not self._left.wait(POLL_S):
            try:
                trouble = self._trouble()
            except RuntimeError:
                trouble = "torchrun no longer answers, or the rank 0 whose store the ranks share"
            if trouble is not None:
                break
        else:
            return
        if self._left.wait(self._patience_s):
            return
        with suppress(RuntimeError):
            trouble = self._known() or trouble
        tell(failures.PeerFailure(trouble))
        if self._last_words is not None:
            self._last_words(f"{failures.PeerFailure.__name__}: {trouble}")
        sys.stdout.flush()
        self._end(1)

    def _trouble(self) -> str | None:
        """Return what is wrong with the job, if anything is."""
        if failures.reports(self._store):
            self._store.set(f"noticed/{self._rank}", "")
            return self._known() or "another rank no longer answers"
        seen = self._processes.look()
        if gone := self._gone_silently(seen.dead):
            return f"rank {', '.join(map(str, gone))} no longer answers: it has died"
        if hung := self._hung(seen.stopped):
            self._processes.kill(hung)
            names = ", ".join(map(str, hung))
            return f"rank {names} no longer answers: it was stopped for {self._timeout_s} s"
        return None

    def _known(self) -> str:
        if text := failures.reported(self._store, self._others):
            return text
        return self._store.get("blamed").decode() if self._store.check(["blamed"]) else ""

    def _gone_silently(self, dead: list[int]) -> list[int]:
        """Return those of dead ranks that had neither finished nor reported a failure."""
        if not dead or self._store.check([f"left/{rank}" for rank in dead]):
            return []
        reports = failures.reports(self._store)
        return [r for r in dead if r not in reports and not self._store.check([f"left/{r}"])]

    def _hung(self, stopped: list[int]) -> list[int]:
        now = time.monotonic()
        self._stopped_since = {rank: self._stopped_since.get(rank, now) for rank in stopped}
        return [r for r, since in self._stopped_since.items() if now - since > self._timeout_s]
