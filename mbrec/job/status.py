"""How a run stands, for schedulers and people: `status.json` in its folder.

`python -m mbrec.job.status RUN` writes that a run has failed whose processes could not say it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mbrec.config.errors import plain_errors
from mbrec.files.sealed import read_json, write_json

NAME = "status.json"
# As EX_TEMPFAIL of sysexits.h: the same command goes on.
RESUMABLE_EXIT_CODE = 75
# So old the file gets while training goes on.
SECONDS = 10.0


class Stepping(Protocol):
    """What counts steps; a trainer."""

    step: int


class Status:
    """Writes how a run stands; to a file on rank 0 alone.

    Args:
        folder: of the run.
        rank: of this process.

    Attributes:
        state: running; resumable (stopped, and the same command goes on); stopped (and not saved);
            finished; failed.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / NAME if rank == 0 else None
        self._trainer: Stepping | None = None
        self.state = "starting"
        self._written = 0.0
        self.write("starting")

    @property
    def step(self) -> int:
        """Steps done."""
        return 0 if self._trainer is None else self._trainer.step

    def follow(self, trainer: Stepping) -> None:
        """Take the steps from a trainer from now on."""
        self._trainer = trainer
        self.write("running")

    def refresh(self) -> None:
        """Write the steps done, now and then: who looks sees that the run is alive."""
        if time.monotonic() - self._written > SECONDS:
            self.write(self.state)

    def write(self, state: str, *, reason: str = "") -> None:
        """Write it.

        Args:
            state: see the attribute.
            reason: why the run does not go on.
        """
        self.state = state
        self._written = time.monotonic()
        if self._path is not None:
            content = {"state": state, "step": self.step, "reason": reason}
            write_json(self._path, {**content, "time": time.time(), "pid": os.getpid()})

    @contextmanager
    def of_failure(self) -> Iterator[None]:
        """Write that the run has failed, if it does."""
        try:
            yield
        except Exception as error:
            self.write("failed", reason=f"{type(error).__name__}: {error}")
            raise


def mark_failed(folder: Path) -> None:
    """Write that a run has failed, after its processes ended without a word.

    Raises:
        ValueError: if its status is not what a run wrote.
    """
    content = read_json(folder / NAME)
    reason = content.get("reason") or "its processes ended without a reason"
    write_json(folder / NAME, {**content, "state": "failed", "reason": reason})


def main() -> None:
    """Run the command line, for `scripts/train.sh`."""
    with plain_errors():
        mark_failed(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
