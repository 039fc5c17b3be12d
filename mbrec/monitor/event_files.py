"""TensorBoard's event files: their names and order in the folder of a run, and their records."""

import re
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

_MARK = "tfevents"
_NUMBER = re.compile(r"\.(\d{6})\.[0-9a-f]{16}(?:\.\w+)?$")
# A record: its length and the checksum of that, its bytes and the checksum of these.
_HEAD, _SUM = struct.Struct("<QI"), struct.Struct("<I")
_BLOCK = 1 << 16


def suffix(folder: Path, ending: str = "") -> str:
    """Return how the name of the next event file in a folder ends.

    TensorBoard's names begin with the time. The added number keeps the files in order when a clock
    is set back. The random digits after it cannot be guessed, so no link waits for the file.

    Args:
        folder: of the event files; it may not be there yet.
        ending: what the file's name ends with, such as `.hparams`.
    """
    number = max((_number(path) for path in in_order(folder)), default=0) + 1
    return f".{number:06d}.{secrets.token_hex(8)}{ending}"


def in_order(folder: Path) -> list[Path]:
    """Return the event files of a folder in the order in which they were begun."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _MARK in path.name and path.is_file()]
    return sorted(found, key=lambda path: (_number(path), path.name))


def records(path: Path) -> Iterator[bytes | None]:
    """Yield the records of an event file, and None for each stretch of it that is damaged.

    After damage, reading continues at the next record whose checksums fit. The last record, which
    a kill may have cut off, is left out without a None.
    """
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + _HEAD.size <= size:
            length = _length(_read(file, at, _HEAD.size))
            if length is None:
                yield None
                at = _next(file, at + 1, size)
                continue
            end = at + _HEAD.size + length + _SUM.size
            if end > size:
                return
            content = _read(file, at + _HEAD.size, length)
            (expected,) = _SUM.unpack(_read(file, end - _SUM.size, _SUM.size))
            yield content if masked_crc32c(content) == expected else None
            at = end


def _next(file: BinaryIO, at: int, size: int) -> int:
    """Return the place of the next head of a record from `at` on; the size if there is none."""
    while at + _HEAD.size <= size:
        block = _read(file, at, min(_BLOCK, size - at))
        # Records have less than 4 GiB: the upper half of a length is 0.
        zeros = block.find(bytes(4), 4)
        while 4 <= zeros <= len(block) - _HEAD.size + 4:
            start = zeros - 4
            length = _length(block[start : start + _HEAD.size])
            if length is not None and at + start + length < size:
                return at + start
            zeros = block.find(bytes(4), zeros + 1)
        at += max(1, len(block) - _HEAD.size + 1)
    return size


def _length(head: bytes) -> int | None:
    length, expected = _HEAD.unpack(head)
    return length if masked_crc32c(head[:8]) == expected else None


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _number(path: Path) -> int:
    """Return the number in the name of an event file; 0 if an earlier version wrote it."""
    found = _NUMBER.search(path.name)
    return int(found[1]) if found else 0
