"""Reads what torch.distributed.checkpoint wrote, without running any code in it.

The format keeps its index as a pickle, and each tensor as a small file of `torch.save`, which has
a pickle in it as well. Both are read by an unpickler that makes nothing but inert records, of the
few names that it knows; what they hold is checked, and the index is then built from plain
values: only tensors, inside the files of the checkpoint's manifest, stored as they are.
"""

import io
import itertools
import math
import pickle
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from mbrec.checkpoint.folder import METADATA, File

LARGEST_INDEX = 1 << 30

# The type and the size of what is stored in one place.
Piece = tuple[torch.dtype, tuple[int, ...]]


class Record:
    """What the unpickler makes in the place of an object: its arguments and attributes, no more.

    That the attributes are taken here keeps a pickle from setting those of a class, whose objects
    are in use elsewhere.
    """

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "Record":
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


Kinds = Mapping[tuple[str, str], type[Record]]


def kinds(*names: tuple[str, str]) -> Kinds:
    """Return a class of records for each name, of a module and of what is in it."""
    return {name: type(name[1], (Record,), {}) for name in names}


_CLASSES = ["ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"]
_CLASSES += ["TensorStorageMetadata", "_MEM_FORMAT_ENCODING"]
_INDEX = kinds(
    *((metadata.__name__, name) for name in _CLASSES),
    (filesystem.__name__, "_StorageInfo"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
)
# What both need. LONG_BINPUT is not among it: ten bytes of it can take 64 GiB of memory.
_OPCODES = {"PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "BINGET", "LONG_BINGET"}
_OPCODES |= {"GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "NONE", "NEWTRUE", "NEWFALSE"}
_OPCODES |= {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_OPCODES |= {"EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST", "APPEND"}
_OPCODES |= {"APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"}


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, known: Kinds) -> None:
        super().__init__(io.BytesIO(content))
        self._known = known

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if found := self._known.get((module_name, global_name)):
            return found
        # Not `getattr`: torch imports some of its modules when they are asked for.
        dtype = vars(torch).get(global_name) if module_name == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def unpickle(content: bytes, known: Kinds, *more: str) -> Any:
    """Return what a pickle holds, with records for all that is no list, dict, text or number.

    Args:
        content: the pickle.
        known: the names that it may have.
        more: opcodes that it may have, besides those of a checkpoint's index.
    """
    last, memo = "", dict[Any, str]()
    for opcode, arg, _ in pickletools.genops(content):
        name = opcode.name
        if name not in _OPCODES and name not in more:
            raise pickle.UnpicklingError(f"it does {name}")
        if name in ("MEMOIZE", "BINPUT"):
            memo[len(memo) if arg is None else arg] = last
        # A tuple of twice one tuple of twice one tuple ...: small, and its hash takes a lifetime.
        elif name.endswith("BINGET") and memo[arg].startswith("TUPLE"):
            raise pickle.UnpicklingError("it has one tuple in several places")
        last = name
    return _Unpickler(content, known).load()


def read_index(folder: Path, files: Mapping[str, File]) -> Metadata:
    """Return the index of a checkpoint's tensors, checked; its manifest lists the `files`.

    Raises:
        ValueError: naming the file and what it should not hold.
    """
    path = folder / METADATA
    try:
        if path.is_symlink() or (size := path.stat().st_size) > LARGEST_INDEX:
            raise ValueError(f"expected a file of at most {LARGEST_INDEX:,} bytes")
        with path.open("rb") as file:
            return _index(unpickle(file.read(size), _INDEX), files)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a pickle that is damaged can raise anything
        raise ValueError(
            f"{path}: expected an index of tensors as torch.distributed.checkpoint writes it, and "
            f"nothing that could run, got {type(error).__name__}: {error}"
        ) from error


def _index(record: Any, files: Mapping[str, File]) -> Metadata:
    """Build the index from what its pickle holds."""
    fields = _fields(record, "Metadata")
    tensors, stored = fields.get("state_dict_metadata"), fields.get("storage_data")
    if type(tensors) is not dict or type(stored) is not dict:
        raise ValueError("expected tensors and their places")
    index = Metadata({name: _tensor(name, found) for name, found in tensors.items()})
    pieces = pieces_of(index.state_dict_metadata)
    places = {_key(key): _place(place, files) for key, place in stored.items()}
    if places.keys() != pieces.keys() or len(places) != len(stored):
        raise ValueError("expected a place for each piece of each tensor, and no other")
    for key, place in places.items():
        dtype, size = pieces[key]
        if place.length < (least := math.prod(size) * dtype.itemsize):
            raise ValueError(f"expected {least:,} bytes or more of {key.fqn}, got {place.length:,}")
    ordered = sorted(places.values(), key=lambda place: (place.relative_path, place.offset))
    for one, other in itertools.pairwise(ordered):
        # Else a small file could say that it holds many large tensors.
        if one.relative_path == other.relative_path and one.offset + one.length > other.offset:
            raise ValueError(f"expected one tensor in each place of {one.relative_path}, got two")
    index.storage_data = places
    return index


def _fields(record: Any, name: str) -> dict[str, Any]:
    """Return the attributes that an object of a class would get."""
    if type(record).__name__ != name or not isinstance(record, Record):
        raise ValueError(f"expected {name}, got {type(record).__name__}")
    if type(record.state) is not dict:
        raise ValueError(f"expected the attributes of {name}, got {type(record.state).__name__}")
    return record.state


def _tensor(name: Any, record: Any) -> TensorStorageMetadata:
    if type(name) is not str or type(record).__name__ != "TensorStorageMetadata":
        raise ValueError(f"expected tensors, got an object as {_text(name)}")
    fields = _fields(record, "TensorStorageMetadata")
    properties, size, found = (fields.get(key) for key in ("properties", "size", "chunks"))
    state = properties.state if isinstance(properties, Record) else None
    dtype = state[0] if type(state) is tuple and state else None
    if not isinstance(dtype, torch.dtype) or type(found) is not list:
        raise ValueError(f"expected a type and pieces of tensor {name!r:.100}")
    chunks = []
    for chunk in found:
        parts = _fields(chunk, "ChunkStorageMetadata")
        chunks.append(ChunkStorageMetadata(_size(parts.get("offsets")), _size(parts.get("sizes"))))
    whole = _size(size)
    filled = [chunk for chunk in chunks if math.prod(chunk.sizes)]
    if any(len(c.offsets) != len(whole) or len(c.sizes) != len(whole) for c in chunks) or not (
        _tiles(filled, whole) if math.prod(whole) else not filled
    ):
        raise ValueError(f"expected the whole of tensor {name!r:.100}, each element of it once")
    return TensorStorageMetadata(TensorProperties(dtype), whole, chunks)


def _tiles(chunks: Sequence[ChunkStorageMetadata], size: Sequence[int], dim: int = 0) -> bool:
    """Return whether pieces cut straight through, along one dimension after the other, are all."""
    if dim == len(size):
        return len(chunks) == 1

    def stretch(chunk: ChunkStorageMetadata) -> tuple[int, int]:
        return chunk.offsets[dim], chunk.sizes[dim]

    end = 0
    for (start, length), part in itertools.groupby(sorted(chunks, key=stretch), stretch):
        if start != end or not _tiles(list(part), size, dim + 1):
            return False
        end += length
    return end == size[dim]


def _size(record: Any) -> torch.Size:
    args = record.args if isinstance(record, Record) and type(record).__name__ == "Size" else ()
    numbers = args[0] if len(args) == 1 and type(args[0]) is tuple else None
    if numbers is None or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise ValueError("expected a size, got something else")
    return torch.Size(numbers)


def pieces_of(tensors: Mapping[str, Any]) -> dict[MetadataIndex, Piece]:
    """Return the pieces of all tensors of an index."""
    return {
        MetadataIndex(name, chunk.offsets): (tensor.properties.dtype, tuple(chunk.sizes))
        for name, tensor in tensors.items()
        for chunk in tensor.chunks
    }


def _key(record: Any) -> MetadataIndex:
    fields = _fields(record, "MetadataIndex")
    if type(fields.get("fqn")) is not str:
        raise ValueError("expected the name of a tensor in the key of a place")
    return MetadataIndex(fields["fqn"], _size(fields.get("offset")))


def _place(record: Any, files: Mapping[str, File]) -> filesystem._StorageInfo:
    fields = _fields(record, "_StorageInfo")
    name, offset, length = (fields.get(key) for key in ("relative_path", "offset", "length"))
    if type(name) is not str or name not in files or type(offset) is not int:
        raise ValueError(f"expected a place in a file of the manifest, got {_text(name)}")
    if type(length) is not int or min(offset, length) < 0 or offset + length > files[name].bytes:
        raise ValueError(f"expected a place inside of {name}, got another, at {offset}")
    if fields.get("transform_descriptors"):
        raise ValueError("expected tensors stored as they are, got some that were transformed")
    return filesystem._StorageInfo(name, offset, length)


def _text(name: Any) -> str:
    # Of what is no text it says the type alone: lists inside of lists could be long.
    return f"{name!r:.100}" if type(name) is str else f"a {type(name).__name__}"
