"""Reads what torch.distributed.checkpoint wrote, without running what somebody else wrote.

The format keeps its index as a pickle, and each tensor as a small file of `torch.save`. The index
is read by an unpickler that knows the sixteen names it needs and no other; its content is then
checked: only tensors, inside the files of the checkpoint's manifest, stored as they are.
"""

import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from mbrec.checkpoint.folder import METADATA, File

LARGEST_INDEX = 1 << 30

_INDEX = ["ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"]
_INDEX += ["TensorStorageMetadata", "_MEM_FORMAT_ENCODING"]
_CLASSES: dict[tuple[str, str], Any] = {
    ("pathlib", "PosixPath"): pathlib.PurePosixPath,
    ("pathlib._local", "PosixPath"): pathlib.PurePosixPath,
    ("torch", "Size"): torch.Size,
    # A function that looks a name up in a table of layouts.
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
} | {(metadata.__name__, name): getattr(metadata, name) for name in _INDEX}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if found := _CLASSES.get((module_name, global_name)):
            return found
        dtype = getattr(torch, global_name, None) if module_name == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def read_index(folder: Path, files: Mapping[str, File]) -> Metadata:
    """Return the index of a checkpoint's tensors, checked.

    Args:
        folder: of the checkpoint.
        files: of its manifest.

    Raises:
        ValueError: naming the file and what it should not hold.
    """
    path = folder / METADATA
    try:
        if path.is_symlink() or (size := path.stat().st_size) > LARGEST_INDEX:
            raise ValueError(f"expected a file of at most {LARGEST_INDEX:,} bytes")
        with path.open("rb") as file:
            index = _Unpickler(io.BytesIO(file.read(size))).load()
        _check_index(index, files)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a pickle that is damaged can raise anything
        raise ValueError(
            f"{path}: expected an index of tensors as torch.distributed.checkpoint writes it, and "
            f"nothing that could run, got {type(error).__name__}: {error}"
        ) from error
    return index


class Reader(FileSystemReader):
    """Reads the tensors of a checkpoint; see this module.

    Args:
        folder: of the checkpoint.
        files: of its manifest.
    """

    def __init__(self, folder: Path, files: Mapping[str, File]) -> None:
        super().__init__(folder)
        self._folder, self._files = folder, files

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index, checked; see `read_index`."""
        index = read_index(self._folder, self._files)
        index.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        return index

    def _slice_file(self, file: Any, sinfo: Any) -> IO[bytes]:
        _check_stored(_Window(file, sinfo.offset, sinfo.length), sinfo.length)
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


def _check_index(index: object, files: Mapping[str, File]) -> None:
    if not isinstance(index, Metadata):
        raise ValueError(f"expected Metadata, got {type(index).__name__}")
    if not isinstance(index.state_dict_metadata, dict) or not isinstance(index.storage_data, dict):
        raise ValueError("expected tensors and their places")
    for name, tensor in index.state_dict_metadata.items():
        if not isinstance(name, str) or not isinstance(tensor, TensorStorageMetadata):
            raise ValueError(f"expected a tensor, got an object as {name!r:.100}")
        _check_tensor(name, tensor)
    chunks = {
        (name, tuple(chunk.offsets)): (tensor, chunk)
        for name, tensor in index.state_dict_metadata.items()
        if isinstance(tensor, TensorStorageMetadata)
        for chunk in tensor.chunks
    }
    places = {_place(key): place for key, place in index.storage_data.items()}
    if places.keys() != chunks.keys():
        raise ValueError("expected a place for each piece of each tensor, and no other")
    for key, place in places.items():
        tensor, chunk = chunks[key]
        least = math.prod(chunk.sizes) * tensor.properties.dtype.itemsize
        _check_place(place, files, least)


def _check_tensor(name: str, tensor: TensorStorageMetadata) -> None:
    size = tensor.size
    whole = isinstance(size, torch.Size) and isinstance(tensor.properties.dtype, torch.dtype)
    if not whole or not isinstance(tensor.chunks, list):
        raise ValueError(f"expected a size, a type and pieces of tensor {name!r:.100}")
    elements = 0
    for chunk in tensor.chunks:
        if not isinstance(chunk, ChunkStorageMetadata) or len(chunk.sizes) != len(size):
            raise ValueError(f"expected pieces of tensor {name!r:.100}, got {chunk!r:.100}")
        ends = zip(chunk.offsets, chunk.sizes, size, strict=True)
        if not all(start >= 0 and length >= 0 and start + length <= n for start, length, n in ends):
            raise ValueError(f"expected a piece inside of {name!r:.100}, got {chunk!r:.100}")
        elements += math.prod(chunk.sizes)
    if elements != math.prod(size):
        raise ValueError(f"expected all of tensor {name!r:.100}, got {elements:,} of its elements")


def _place(key: object) -> tuple[str, tuple[int, ...]]:
    if not isinstance(key, MetadataIndex):
        raise ValueError(f"expected the name of a piece, got {key!r:.100}")
    return key.fqn, tuple(key.offset or ())


def _check_place(place: Any, files: Mapping[str, File], least: int) -> None:
    name, offset, length = place.relative_path, place.offset, place.length
    numbers = all(type(number) is int and number >= 0 for number in (offset, length))
    if not isinstance(name, str) or name not in files or not numbers:
        raise ValueError(f"expected a place in a file of the manifest, got {name!r:.100}")
    if offset + length > files[name].bytes or length < least:
        raise ValueError(f"expected {least:,} bytes or more inside of {name}, got {length:,}")
    if getattr(place, "transform_descriptors", None):
        raise ValueError(f"expected tensors stored as they are, got {place.transform_descriptors}")


def _check_stored(stored: io.RawIOBase, length: int) -> None:
    """Refuse a stored tensor that would take more memory than it has bytes."""
    try:
        with zipfile.ZipFile(io.BufferedReader(stored)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"expected a tensor as torch.save writes it: {error}") from error
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > length:
        raise ValueError("expected a tensor stored as it is, got one that is compressed")
