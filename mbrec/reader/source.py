"""Finds and opens data files: on this machine, or wherever pyarrow or fsspec can read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from mbrec.columns.manifest import NAME, Manifest

_COPYING = "._COPYING_"


@dataclass(frozen=True)
class Store:
    """A folder of a file system.

    Attributes:
        filesystem: of pyarrow.
        root: the folder's path in it.
        name: the folder as the user wrote it.
        manifest: of the data set, if it has one that was read: what its files have to be.
    """

    filesystem: fs.FileSystem
    root: str
    name: str
    manifest: Manifest | None = field(default=None, compare=False)

    @property
    def is_local(self) -> bool:
        """Whether the files are on this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, relative: str) -> str:
        """Return the path of a file below the folder, for the file system."""
        return f"{self.root}/{relative}" if self.root else relative

    def display(self, relative: str) -> str:
        """Return the path of a file below the folder, as a user would write it."""
        between = "/" if self.name and not self.name.endswith("/") else ""
        return f"{self.name}{between}{relative}"

    def exists(self, relative: str) -> bool:
        """Return whether there is a file of that name below the folder."""
        return self.filesystem.get_file_info(self.path(relative)).type == fs.FileType.File

    def find(self, patterns: Sequence[str]) -> list[str]:
        """Return the files that match the patterns, relative to the folder, sorted by pattern.

        `*` stays within a folder; `**/` is any number of folders. Names that are hidden (see
        `is_hidden`) match no wildcard in their place, or at their beginning: `train/*` leaves out
        `train/_temporary`, `train/_temporary/*` and `train/_t*` do not.

        Raises:
            ValueError: naming a pattern that matches nothing; or a link that leads out of the
                folder, of a data set on this machine that has a manifest.
        """
        chosen: list[str] = []
        for pattern in patterns:
            matches = sorted(name for name in self._list(pattern) if _matches(name, pattern))
            if not matches:
                raise ValueError(f"expected Parquet files at {self.display(pattern)}, found none")
            chosen += matches
        if self.is_local and self.exists(NAME):
            self.check_links(chosen)
        return list(dict.fromkeys(chosen))

    def check_links(self, names: Sequence[str]) -> None:
        """Refuse links that lead out of a folder on this machine.

        Raises:
            ValueError: naming the link, and where it leads.
        """
        home = Path(self.root).resolve()
        for name in names:
            if not (target := (home / name).resolve()).is_relative_to(home):
                raise ValueError(
                    f"{self.display(name)}: expected a file below {home}, got a link to {target}"
                )

    def _list(self, pattern: str) -> list[str]:
        """Return the files below the folders that a pattern names before its first wildcard."""
        *folders, last = pattern.split("/")
        fixed = list(takewhile(lambda part: not set(part) & set("*?["), folders))
        base = self.path("/".join(fixed)) if fixed else self.root
        recursive = len(folders) > len(fixed) or last == "**"
        if fixed and self.filesystem.get_file_info(base).type != fs.FileType.Directory:
            return []
        selector = fs.FileSelector(base, recursive=recursive, allow_not_found=True)
        prefix = f"{self.root.rstrip('/')}/"
        found = self.filesystem.get_file_info(selector)
        return [info.path.removeprefix(prefix) for info in found if info.is_file]


def is_hidden(path: str) -> bool:
    """Return whether a file below a data set's folder is not, or not yet, one of its files.

    The rule is Spark's: some part of its path begins with `.`, or with `_` and has no `=` (which
    the folder of a partition has), or ends with `._COPYING_`. Writers put uncommitted files there
    (`_temporary/`), logs and summaries.
    """
    return any(map(_is_hidden_part, path.split("/")))


LOCAL = Store(fs.LocalFileSystem(), "", "")


def open_store(path: str) -> Store:
    """Return the folder at a local path or a URI.

    pyarrow reads `s3://`, `gs://`, `hdfs://` and `file://`; any other scheme is fsspec's, if that
    and its package for the scheme are installed. Credentials come from the environment, options
    from the URI, as those libraries document.

    Raises:
        ValueError: if nothing can read the URI, or it chains several.
    """
    if "://" not in path:
        return Store(fs.LocalFileSystem(), str(PurePosixPath(path)), path)
    try:
        filesystem, root = fs.FileSystem.from_uri(path)
    except (pa.ArrowException, OSError) as error:
        if "Unrecognized filesystem" not in str(error):
            reason = str(error).splitlines()[0]
            raise ValueError(f"expected the URI of a folder, got {path}: {reason}") from error
        filesystem, root = _from_fsspec(path)
    return Store(filesystem, root.rstrip("/"), path)


def _from_fsspec(path: str) -> tuple[fs.FileSystem, str]:
    import fsspec

    if "::" in path:
        # It would read one file system out of another: archives, caches, and lists of references,
        # which are templates that it runs.
        raise ValueError(f"expected the URI of a folder, got {path}, which chains several with ::")
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        scheme = path.partition("://")[0]
        raise ValueError(f"{path}: nothing installed reads {scheme}://: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), str(root)


def _matches(name: str, pattern: str) -> bool:
    """Match folder by folder, `**` any number of them."""
    return _match_parts(name.split("/"), pattern.split("/"))


def _match_parts(name: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        hidden = (skip for skip, part in enumerate(name, 1) if _is_hidden_part(part))
        most = next(hidden, len(name) + 1)
        return any(_match_parts(name[skip:], pattern[1:]) for skip in range(most))
    return bool(name) and _match_part(name[0], pattern[0]) and _match_parts(name[1:], pattern[1:])


def _match_part(name: str, pattern: str) -> bool:
    """Match a name, of which a wildcard is never what makes it hidden."""
    is_copying = name.endswith(_COPYING)
    spelled_out = pattern.endswith(_COPYING) if is_copying else name[:1] == pattern[:1]
    return (spelled_out or not _is_hidden_part(name)) and fnmatchcase(name, pattern)


def _is_hidden_part(name: str) -> bool:
    # Hadoop's `-put` renames a file when it is complete.
    return (
        name.startswith(".")
        or (name.startswith("_") and "=" not in name)
        or name.endswith(_COPYING)
    )
