"""Reads the tensors of a checkpoint: each is checked before torch unpacks it."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from mbrec.checkpoint.folder import File
from mbrec.checkpoint.metadata import Piece, kinds, pieces_of, read_index, unpickle

# A type that `torch.save` has a class of storages for, by the name of that class.
_STORAGES = {
    f"{kind}Storage": dtype
    for kind, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_TENSOR = kinds(
    ("torch._utils", "_rebuild_tensor_v2"),
    ("collections", "OrderedDict"),
    *(("torch", name) for name in _STORAGES),
)


class Reader(FileSystemReader):
    """Reads the tensors of a checkpoint, whose manifest lists the `files`; see this module."""

    def __init__(self, folder: Path, files: Mapping[str, File]) -> None:
        super().__init__(folder)
        self._folder, self._files = folder, files
        self._pieces: dict[tuple[str, int], Piece] = {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index, checked; see `read_index`."""
        index = read_index(self._folder, self._files)
        index.storage_meta = StorageMeta(load_id=self.load_id)
        pieces = pieces_of(index.state_dict_metadata)
        for key, place in index.storage_data.items():
            self._pieces[place.relative_path, place.offset] = pieces[key]
        return index

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        window = _Window(file, sinfo.offset, sinfo.length)
        _check_stored(window, *self._pieces[sinfo.relative_path, sinfo.offset])
        return super()._slice_file(file, sinfo)


class _Window(io.RawIOBase):
    """A stretch of a file, as zipfile wants to see it (torch's own view cannot seek to its end)."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        self._file.seek(self._start + self._at)
        content = self._file.read(max(0, min(len(buffer), self._length - self._at)))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


class TensorsOnly(DefaultLoadPlanner):
    """Loads tensors, and refuses objects: those would be unpickled."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"expected a tensor, got an object as {read_item.dest_index.fqn}")


def _check_stored(stored: _Window, dtype: torch.dtype, size: tuple[int, ...]) -> None:
    """Refuse what is not one tensor of a type and size, stored as it is.

    Raises:
        ValueError: else torch would take more memory than there are bytes, or convert or cut it.
    """
    try:
        found = _read_stored(stored)
    except Exception as error:  # what is damaged can raise anything
        raise ValueError(
            f"expected a tensor as torch.save writes it, got {type(error).__name__}: {error}"
        ) from error
    if found != (dtype, size):
        raise ValueError(f"expected {dtype} {list(size)}, got {found[0]} {list(found[1])}")


def _read_stored(stored: _Window) -> Piece:
    # torch looks here for what it is: another, older format could stand before an archive.
    if stored.read(4) != b"PK\x03\x04":
        raise ValueError("something else")
    with zipfile.ZipFile(io.BufferedReader(stored)) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values())
        if packed or len(entries) < len(archive.infolist()) or ".." in "".join(entries):
            raise ValueError("files that are compressed, have one name, or lead out of it")
        content = unpickle(archive.read(entries["data.pkl"]), _TENSOR, "BINPERSID")
    if type(content).__name__ != "_rebuild_tensor_v2":
        raise ValueError(f"{type(content).__name__}, no tensor")
    (_, kind, key, _, elements), offset, size, stride, *_ = content.args
    if not all(type(n) is int and n >= 0 for n in (elements, offset, *size, *stride)):
        raise ValueError("sizes that are no numbers")
    dtype = _STORAGES[kind.__name__]
    wanted = math.prod(size)
    reached = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    once = offset == 0 and elements == wanted and (wanted == 0 or reached == wanted)
    if not once or entries[f"data/{key}"].file_size != wanted * dtype.itemsize:
        raise ValueError("a tensor that is part of another")
    return dtype, tuple(size)
