"""Writes files whole or not at all. Each is a new file: a link in its place is never followed."""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mbrec import UserError

UNFINISHED = ".tmp"
# Read and write for all, less what the umask takes away: as `open` does it.
MODE = 0o666
_UNFINISHED = re.compile(rf"\.[0-9a-f]{{16}}\..+{re.escape(UNFINISHED)}", re.DOTALL)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` at the end, once it is on the disk.

    Others see the old content or the new one, and nothing between. After an error `path` is as it
    was. If `path` is a link, the link is replaced; what it leads to is not touched.

    Args:
        path: the file. Its folder exists.

    Raises:
        UserError: if there is something else than a file in its place.
        OSError: if it cannot be written.
    """
    if os.path.lexists(path) and not (path.is_symlink() or path.is_file()):
        raise UserError(f"{path}: expected a file, or nothing yet, got a folder or a device")
    # Nobody can have put a link under a name that cannot be guessed.
    unfinished = path.with_name(f".{secrets.token_hex(8)}.{path.name}{UNFINISHED}")
    descriptor = os.open(unfinished, _NEW, MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove the files in a folder that `replacing` has begun in a process that was killed.

    Nobody else may write there meanwhile: see `mbrec.job.run_lock`.
    """
    with os.scandir(folder) as found:
        for entry in found:
            if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; see `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `replacing`."""
    write_bytes(path, text.encode())


def open_own(path: Path, flags: int) -> int:
    """Return the descriptor of a file that is written in place, and made if it is not there.

    Args:
        path: the file.
        flags: of `os.open`, besides those that make it and follow no link.

    Raises:
        UserError: if it is a link.
        OSError: if it cannot be opened.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, MODE)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(
            f"{path}: expected a file, got a link, which is not followed; remove it"
        ) from error


def check_no_links(folder: Path, *below: str) -> None:
    """Refuse links in the place of what will be written below a folder.

    Args:
        folder: may be a link itself: who named it chose where it leads.
        below: files and folders in it; those between are checked as well.

    Raises:
        UserError: naming the link.
    """
    for name in below:
        path = folder
        for part in Path(name).parts:
            path /= part
            if path.is_symlink():
                raise UserError(
                    f"{path}: expected a file or folder, got a link, which is not followed; remove "
                    f"it. To have what is in it elsewhere, move the whole of {folder} there"
                )
