"""How a run stands, for schedulers and people: `status.json` in its folder."""

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mbrec import UserError
from mbrec.config.errors import plain_errors
from mbrec.files.sealed import read_json, write_json

NAME = "status.json"
# As EX_TEMPFAIL of sysexits.h: the same command continues the run.
RESUMABLE_EXIT_CODE = 75
# Maximum age of the file during training.
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
        state: starting; running; resumable (stopped, and the same command continues it); stopped
            (and not saved); finished; failed.
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
        """Write the steps done if the file is old, which shows that the run is alive."""
        if time.monotonic() - self._written > SECONDS:
            self.write(self.state)

    def write(self, state: str, *, reason: str = "") -> None:
        """Write a state, and why the run does not continue."""
        self.state = state
        self._written = time.monotonic()
        if self._path is not None:
            content = {"state": state, "step": self.step, "reason": reason}
            write_json(self._path, {**content, "time": time.time(), "pid": os.getpid()})

    @contextmanager
    def of_failure(self) -> Iterator[None]:
        """Write that the run has failed if it raises."""
        try:
            yield
        except Exception as error:
            self.write("failed", reason=f"{type(error).__name__}: {error}")
            raise


def mark_failed(folder: Path) -> None:
    """Write that a run has failed, after its processes ended without a word.

    Raises:
        UserError: if its status is not what a run wrote.
    """
    content = read_json(folder / NAME)
    reason = content.get("reason") or "its processes ended without a reason"
    write_json(folder / NAME, {**content, "state": "failed", "reason": reason})


def describe(folder: Path) -> str:
    """Return how a run stands, for people.

    Raises:
        UserError: if there is no run, or its status is not what a run wrote.
    """
    if not (folder / NAME).exists():
        raise UserError(f"expected the folder of a run, with {NAME}, got {folder}")
    content = read_json(folder / NAME)
    written = datetime.datetime.fromtimestamp(content.get("time", 0)).strftime("%Y-%m-%d %H:%M:%S")
    reason = f": {content['reason']}" if content.get("reason") else ""
    return f"{content['state']} after step {content['step']:,}, written {written}{reason}"


USAGE = """usage: mbrec status RUN

Prints how the run, or the sweep, in folder RUN stands: starting, running, resumable, stopped,
finished or failed; the steps, or jobs, that are done; when that was written; and a reason."""


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    with plain_errors():
        if len(arguments) != 1:
            raise UserError(f"expected the folder of one run, got {' '.join(arguments)}")
        print(describe(Path(arguments[0])))
