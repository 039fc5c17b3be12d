"""Keeps two jobs from writing to one folder."""

import fcntl
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mbrec import UserError
from mbrec.files import atomic

log = logging.getLogger(__name__)

# Folder -> descriptor of its lock, which ends with the descriptor or the process.
_held: dict[Path, int] = {}


def take(folder: Path) -> bool:
    """Keep other processes out of a folder, until `released_after` or the end of this one.

    What killed processes have not finished writing there is removed.

    Returns:
        whether no other process has it. Where the file system knows no locks: true, and a warning.

    Raises:
        UserError: if a link is in the place of the lock.
    """
    if folder in _held:
        return True
    descriptor = atomic.open_own(folder / ".lock", os.O_RDWR)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return False
    except OSError as error:
        log.warning("%s cannot be locked against other jobs: %s", folder, error)
    else:
        atomic.remove_unfinished(folder)
    _held[folder] = descriptor
    return True


@contextmanager
def alone(folder: Path, what: str) -> Generator[None]:
    """Keep other processes out of a folder meanwhile.

    Args:
        folder: made if it is not there.
        what: that writes to it, such as "study".

    Raises:
        UserError: if another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not take(folder):
        raise UserError(
            f"expected a {what} of its own, got {folder}, which another job writes to; wait for "
            "it, or take another folder"
        )
    with released_after(folder):
        yield


@contextmanager
def released_after(folder: Path) -> Generator[None]:
    """Let others into a folder at the end, if this process took it."""
    try:
        yield
    finally:
        if folder in _held:
            os.close(_held.pop(folder))
