"""Checks the files of a prepared data set: `python -m mbrec.reader.verify DIR`.

Every byte is read and compared with the SHA-256 in the manifest, which has a digest of its own.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs
from tqdm import tqdm

from mbrec.columns.manifest import NAME, Manifest, join, load
from mbrec.reader.source import is_hidden, open_store

_PIECE = 1 << 22
# What the project itself puts beside the rows: the picture of `describe`, a simulation's settings.
_BESIDE = ("describe.png", "world.json")


def check_sizes(filesystem: fs.FileSystem, root: str, manifest: Manifest) -> list[str]:
    """Compare the names and sizes of the files with the manifest; nothing is opened.

    Args:
        filesystem: of pyarrow.
        root: the folder of the data set in it.
        manifest: of the data set.

    Returns:
        What is wrong, a line each: files that are missing, have another size, lie outside of the
        folder (by a link), or are Parquet files in the folder of a split and not in the manifest.
    """
    sizes = _list(filesystem, root)
    unknown = _unknown(sizes, manifest)
    splits = tuple(f"{split}/" for split in manifest.splits)
    stray = [name for name in unknown if name.endswith(".parquet") and name.startswith(splits)]
    problems = _compare(filesystem, root, manifest, sizes)
    return [*problems.values(), *(_say_unknown(root, name) for name in stray)]


def verify(filesystem: fs.FileSystem, root: str, manifest: Manifest) -> list[str]:
    """Compare every byte of the files with the manifest, and show how far it is.

    Returns:
        What is wrong, a line each: as with `check_sizes`, and files whose content is another one or
        cannot be read, and any other file that is not in the manifest. Hidden ones do not count.
    """
    sizes = _list(filesystem, root)
    problems = _compare(filesystem, root, manifest, sizes)
    whole = {name: file for name, file in manifest.files.items() if name not in problems}
    total = sum(file.bytes for file in whole.values())
    units: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    with tqdm(total=total, desc="verifying", disable=None, **units) as bar:
        for name, file in whole.items():
            path = join(root, name)
            try:
                found = _sha256(filesystem, path, bar)
            except OSError as error:
                problems[name] = f"{path}: cannot be read: {error}"
                continue
            if found != file.sha256:
                problems[name] = f"{path}: changed: expected SHA-256 {file.sha256}, got {found}"
    unknown = [_say_unknown(root, name) for name in _unknown(sizes, manifest)]
    return [*(problems[name] for name in manifest.files if name in problems), *unknown]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0 if all is as it should be, 1 if not, 2 if it cannot tell."""
    parser = argparse.ArgumentParser(
        prog="python -m mbrec.reader.verify",
        description="Compare the files of a prepared data set with the sizes and SHA-256 in its "
        f"{NAME}. Exits with 1 if a file is missing, changed or unknown.",
    )
    parser.add_argument("root", metavar="DIR", help="folder or URI of the data set")
    root = parser.parse_args(argv).root
    try:
        store = open_store(root)
        manifest = load(store.filesystem, store.root)
        problems = verify(store.filesystem, store.root, manifest)
    except (ValueError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    for line in [*([manifest.warning] if manifest.warning else []), *problems]:
        print(line)
    size = sum(file.bytes for file in manifest.files.values()) / 2**20
    print(f"{root}: {len(manifest.files):,} files, {size:,.1f} MiB, {len(problems):,} problems")
    return 1 if problems else 0


def _list(filesystem: fs.FileSystem, root: str) -> dict[str, int]:
    """Return path -> size of all files below a folder but the manifest."""
    sizes: dict[str, int] = {}
    if isinstance(filesystem, fs.LocalFileSystem):
        # pyarrow would follow links to folders, to wherever they lead.
        for folder, _, names in os.walk(root or "."):
            for path in (Path(folder, name) for name in names):
                if path.is_file():
                    sizes[path.relative_to(root or ".").as_posix()] = path.stat().st_size
    else:
        prefix = f"{root.rstrip('/')}/" if root else ""
        for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True)):
            if info.is_file:
                sizes[info.path.removeprefix(prefix)] = info.size or 0
    sizes.pop(NAME, None)
    return {name: sizes[name] for name in sorted(sizes)}


def _compare(
    filesystem: fs.FileSystem, root: str, manifest: Manifest, sizes: dict[str, int]
) -> dict[str, str]:
    """Return what is wrong with files of the manifest, as far as a listing tells."""
    problems: dict[str, str] = {}
    home = Path(root).resolve() if isinstance(filesystem, fs.LocalFileSystem) else None
    for name, file in manifest.files.items():
        path = join(root, name)
        if home is not None and not (target := (home / name).resolve()).is_relative_to(home):
            problems[name] = f"{path}: expected a file below {home}, got a link to {target}"
        elif name not in sizes:
            problems[name] = f"{path}: missing"
        elif sizes[name] != file.bytes:
            problems[name] = f"{path}: changed: expected {file.bytes} bytes, got {sizes[name]}"
    return problems


def _unknown(sizes: dict[str, int], manifest: Manifest) -> list[str]:
    beside = {*manifest.files, *_BESIDE}
    return [name for name in sizes if name not in beside and not is_hidden(name)]


def _say_unknown(root: str, name: str) -> str:
    return f"{join(root, name)}: unknown: not in the manifest"


def _sha256(filesystem: fs.FileSystem, path: str, bar: "tqdm[Any]") -> str:
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path, compression=None) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
