"""Small files that are read back: each has the digest of its content, which is verified then.

A digest finds damage and edits. It proves nothing about who wrote a file.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrec import UserError
from mbrec.files import atomic

log = logging.getLogger(__name__)

KEY = "sha256"
LARGEST = 256 << 20
_FIRST_LINE = (
    "# sha256 {} of all below. Settings are changed on the command line, with key=value.\n"
)
_BEGINNING = _FIRST_LINE.partition("{}")[0]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all, with its digest as the last key.

    Raises:
        UserError: if a number in it is not finite.
        OSError: if it cannot be written.
    """
    # As it will be read: keys are strings, and tuples lists.
    plain = json.loads(json.dumps(content, allow_nan=False))
    assert KEY not in plain
    text = json.dumps({**plain, KEY: digest(plain)}, indent=2)
    atomic.write_text(path, text + "\n")


def read_json(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """Return what `write_json` wrote, without the digest.

    Without a digest, as earlier versions wrote them, a file is read with a warning.

    Args:
        path: of the file.
        largest: bytes that it may have.

    Raises:
        UserError: if it is something else, or its content is not what was written.
    """
    text = read_text(path, largest)
    try:
        content = json.loads(text)
        written = content.pop(KEY, None) if isinstance(content, dict) else None
        found = digest(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, got something else: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping, got {content!r:.80}")
    _compare(path, written, found, f'remove "{KEY}" from it')
    return content


def with_digest(text: str) -> str:
    """Return YAML after a first line with its digest."""
    return _first_line(text) + text


def check_digest(path: Path, text: str) -> None:
    """Compare YAML with the digest in its first line; without one, it passes with a warning.

    Args:
        path: where the text is from.
        text: all of it.

    Raises:
        UserError: if the text is not what was written.
    """
    first, newline, rest = text.partition("\n")
    written = first + newline if first.startswith(_BEGINNING) else None
    _compare(path, written, _first_line(rest), "remove its first line")


def read_text(path: Path, largest: int) -> str:
    """Return the content of a text file that is no link and not larger than it may be.

    Raises:
        UserError: naming the file.
    """
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path}: expected a file, found none")
    if (found := path.stat().st_size) > largest:
        raise UserError(f"{path}: expected at most {largest:,} bytes, got {found:,}")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text, got other bytes: {error}") from error


def _compare(path: Path, written: object, found: str, accept: str) -> None:
    if written is None:
        log.warning("%s has no SHA-256, as of an earlier version: damage goes unnoticed", path)
    elif written != found:
        raise UserError(
            f"{path}: expected the content that mbrec wrote, got another one, which does not have "
            f"the SHA-256 in the file: it is damaged, or was edited. Restore it from a copy; to "
            f"use it as it is, {accept}"
        )


def _first_line(text: str) -> str:
    return _FIRST_LINE.format(hashlib.sha256(text.encode()).hexdigest())


def digest(content: Any) -> str:
    """Return the digest of JSON values, however they are laid out."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
