"""The folders of checkpoints: their names, what makes one whole, and how it is verified.

Reads and writes plain files; imports no torch, so that looking into a folder takes no time.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mbrec.files import atomic, sealed
from mbrec.files.atomic import UNFINISHED

MANIFEST, STATE, METADATA = "manifest.json", "state.json", ".metadata"
BEST = "best.json"
VERSION = 1
# Kept to be examined, and never resumed from: what does not verify, and what was saved when the
# model was exploding already.
DAMAGED, EXPLODED = ".damaged", ".exploded"

_NAME = re.compile(r"step_(\d{8,12})")
_FILE = re.compile(r"\.metadata|state\.json|__\d{1,6}_\d{1,6}\.distcp")
_LARGEST_MANIFEST = 16 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True)
class File:
    """A file of a checkpoint: its size in bytes, and the SHA-256 of these, in hex."""

    bytes: int
    sha256: str


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint.

    >>> step_folder(Path("run/checkpoint"), 30).name
    'step_00000030'
    """
    return checkpoints / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder.

    Raises:
        ValueError: if that is not the name of one.
    """
    if not (match := _NAME.fullmatch(folder.name)):
        raise ValueError(f"expected a checkpoint (a folder step_NNNNNNNN), got {folder}")
    return int(match[1])


def finished(checkpoints: Path) -> list[Path]:
    """Return the folders of all checkpoints that were finished, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = [path for path in checkpoints.iterdir() if _NAME.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir()), key=step_of)


def leftovers(checkpoints: Path) -> list[Path]:
    """Return what is left of checkpoints that were begun and never finished, or half deleted."""
    if not checkpoints.is_dir():
        return []
    names = {path: path.name.removesuffix(UNFINISHED) for path in checkpoints.iterdir()}
    return sorted(p for p, name in names.items() if name != p.name and _NAME.fullmatch(name))


def quarantined(checkpoints: Path) -> list[Path]:
    """Return the folders of checkpoints that are quarantined, oldest first."""
    found = [p for why in (DAMAGED, EXPLODED) for p in checkpoints.glob(f"step_*{why}*")]
    return sorted(path for path in found if path.is_dir())


def describe(path: Path) -> File:
    """Return what a manifest says of a file."""
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write_manifest(folder: Path, files: dict[str, File]) -> None:
    """Write the manifest of a checkpoint, durably."""
    atomic.write_text(folder / MANIFEST, _text(files))


def read_manifest(folder: Path) -> dict[str, File]:
    """Read the manifest of a checkpoint. It is not trusted: each entry is checked.

    Raises:
        ValueError: naming the file, and what is not as it should be.
    """
    path = folder / MANIFEST
    text = sealed.read_text(path, _LARGEST_MANIFEST)
    try:
        content = json.loads(text)
        files = {name: File(**entry) for name, entry in content["files"].items()}
        fits = content["version"] == VERSION and all(map(_is_entry, files.items()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a manifest of mbrec's, got {text!r:.100}") from error
    # Written again it must be the same text: a bit that flipped anywhere in it is found as well.
    if not fits or _text(files) != text or not {STATE, METADATA} <= files.keys():
        raise ValueError(
            f"{path}: expected a manifest of version {VERSION} with {STATE} and {METADATA}, as "
            f"mbrec writes it, got {text!r:.100}"
        )
    return files


def verify(folder: Path, only: Iterable[str] | None = None) -> list[str]:
    """Return what is wrong with a checkpoint, as messages; nothing if it is whole.

    Sizes are compared for all files, and hashes for all or `only` some.
    """
    if not folder.is_dir() or folder.is_symlink():
        return [f"{folder}: expected the folder of a checkpoint, found none"]
    try:
        files = read_manifest(folder)
    except (OSError, ValueError) as error:
        return [str(error)]
    present = {entry.name: entry for entry in os.scandir(folder)}
    unlisted = sorted(present.keys() - files.keys() - {MANIFEST})
    problems = [f"{folder / n}: expected only files of the manifest, got this" for n in unlisted]
    hashed = files.keys() if only is None else set(only)
    for name, file in files.items():
        path = folder / name
        # A link could lead anywhere; a checkpoint has none.
        if name not in present or not present[name].is_file(follow_symlinks=False):
            problems.append(f"{path}: expected a file of {file.bytes:,} bytes, found none")
        elif problem := _difference(path, file, hashed=name in hashed):
            problems.append(f"{path}: {problem}")
    return problems


def newest_verified(
    sources: Sequence[Path], check: Callable[[Path], list[str]] = verify
) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, and what is wrong with the newer ones.

    `sources` has the oldest first; `check` returns what is wrong with one.
    """
    problems: list[str] = []
    for folder in reversed(sources):
        if not (found := check(folder)):
            return folder, problems
        problems += found
    return None, problems


def publish(unfinished: Path, final: Path) -> None:
    """Give a checkpoint its final name, once all in it is on the disk."""
    sync_folder(unfinished)
    unfinished.rename(final)
    sync_folder(final.parent)


def prune(checkpoints: Path, *, keep: int) -> None:
    """Delete all checkpoints but the newest and the best.

    A folder loses its name first: one that is half deleted is never taken for a checkpoint.
    """
    best = read_best(checkpoints)
    for folder in finished(checkpoints)[:-keep]:
        if step_of(folder) != best:
            doomed = folder.with_name(folder.name + UNFINISHED)
            folder.rename(doomed)
            delete(doomed)


def delete(path: Path) -> None:
    """Delete a folder and all in it; of a link, the link alone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def quarantine(folder: Path, why: str) -> Path:
    """Rename a checkpoint, `DAMAGED` or `EXPLODED`, so that nothing resumes from it."""
    names = (folder.with_name(f"{folder.name}{why}{n or ''}") for n in itertools.count())
    renamed = next(path for path in names if not os.path.lexists(path))
    folder.rename(renamed)
    sync_folder(folder.parent)
    return renamed


def read_best(checkpoints: Path) -> int | None:
    """Return the step that was marked as the best, or None.

    Raises:
        ValueError: if the mark is there and not what was written.
    """
    path = checkpoints / BEST
    if not path.exists():
        return None
    step = sealed.read_json(path, 1 << 16).get("step")
    if type(step) is not int:
        raise ValueError(f"{path}: expected the step of the best checkpoint, got {step!r:.80}")
    return step


def mark_best(checkpoints: Path, step: int, figure: str, value: float) -> None:
    """Mark a step as the best so far: its checkpoint is kept."""
    sealed.write_json(checkpoints / BEST, {"step": step, "figure": figure, "value": value})


def size(folder: Path) -> int:
    """Return the bytes of all files of a checkpoint."""
    return sum(path.lstat().st_size for path in folder.iterdir())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(files: dict[str, File]) -> str:
    entries = {name: asdict(file) for name, file in sorted(files.items())}
    return json.dumps({"version": VERSION, "files": entries}, indent=1) + "\n"


def _difference(path: Path, file: File, *, hashed: bool) -> str | None:
    try:
        if (size := path.stat().st_size) != file.bytes:
            return f"expected {file.bytes:,} bytes, got {size:,}"
        if hashed and (found := describe(path).sha256) != file.sha256:
            return f"expected SHA-256 {file.sha256}, got {found}"
    except OSError as error:  # a disk may not give back what it has
        return f"expected a file that can be read, got {error}"
    return None


def _is_entry(entry: tuple[str, File]) -> bool:
    name, file = entry
    sizes = type(file.bytes) is int and 0 <= file.bytes < 1 << 62
    digest = isinstance(file.sha256, str) and re.fullmatch("[0-9a-f]{64}", file.sha256)
    # The names are those that are written here: none leads out of the folder.
    return bool(_FILE.fullmatch(name) and sizes and digest)
