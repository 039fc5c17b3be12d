"""Tools to forge checkpoints: whole by their manifest, and meant to do harm."""

import io
import json
import os
import pickle
import resource
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from saving import Plain
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from mbrec.checkpoint import folder, state, tensors

DATA = "__0_0.distcp"
WEIGHT = "model.bottom.weight"


@dataclass(frozen=True)
class Forged:
    """A checkpoint that must be refused.

    Attributes:
        name: what is wrong with it.
        refused_by: who finds it, and nobody before: verify, state, index or tensors.
        forge: given the folder of a whole checkpoint and an empty one outside, makes it.
        sealed: whether the manifest is written anew, so that it fits what was forged.
    """

    name: str
    refused_by: str
    forge: Callable[[Path, Path], Any]
    sealed: bool = True

    def make(self, whole: Path, folder: Path) -> tuple[Path, Path]:
        """Return the forged checkpoint, and the folder outside of it that it may aim at."""
        source, outside = folder / "checkpoint/step_00000001", folder / "outside"
        shutil.copytree(whole, source)
        outside.mkdir()
        self.forge(source, outside)
        if self.sealed:
            seal(source)
        return source, outside


def seal(source: Path) -> None:
    """Write the manifest that belongs to the files of a checkpoint."""
    files = {p.name: folder.describe(p) for p in source.iterdir() if p.name != folder.MANIFEST}
    folder.write_manifest(source, files)


def examine(source: Path) -> tuple[str, str]:
    """Return who refuses a checkpoint, of those whom a resumed run asks, and why."""
    if problems := folder.verify(source):
        return "verify", problems[0]
    steps: dict[str, Callable[[], Any]] = {
        "state": lambda: state.read(source),
        "index": lambda: tensors.inspect(source),
        "tensors": lambda: tensors.read(source, tensors.collect(Plain(), None)),  # type: ignore
    }
    for name, step in steps.items():
        try:
            step()
        except ValueError as error:
            return name, str(error)
    return "nobody", ""


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """Let this process have no more memory than that on top of what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def unchanged(*kinds: type) -> Iterator[None]:
    """Fail if a class has other attributes than before, and take them back."""
    before = [dict(vars(kind)) for kind in kinds]
    try:
        yield
    finally:
        changed = []
        for kind, attributes in zip(kinds, before, strict=True):
            for name in vars(kind).keys() - attributes.keys():
                delattr(kind, name)
                changed.append(f"{kind.__name__}.{name}")
            for name in [name for name in attributes if vars(kind)[name] is not attributes[name]]:
                setattr(kind, name, attributes[name])
                changed.append(f"{kind.__name__}.{name}")
        assert changed == []


# Pickles, put together from their parts.


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def named(module: str, name: str) -> bytes:
    """Put the thing of a name on the stack; the name may have dots."""
    return text(module) + text(name) + b"\x93"


def value(content: Any) -> bytes:
    """Put lists, text and numbers on the stack."""
    return pickle.dumps(content, 3)[2:-1]


def called(module: str, name: str, *args: Any) -> bytes:
    return named(module, name) + value(args) + b"R"


def whole(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


def index_of(body: bytes) -> Callable[[Path, Path], Any]:
    """Forge the index: a pickle of nothing but this."""
    return lambda source, outside: (source / folder.METADATA).write_bytes(whole(body))


def hidden(body: bytes) -> bytes:
    """Return an index with something where nobody looks."""
    start = named("torch.distributed.checkpoint.metadata", "Metadata") + b")\x81}("
    return start + text("state_dict_metadata") + b"}" + text("planner_data") + body + b"ub"


def edited(edit: Callable[[Metadata], Any]) -> Callable[[Path, Path], Any]:
    """Forge the index: a good one that was changed."""

    def forge(source: Path, outside: Path) -> None:
        path = source / folder.METADATA
        index = pickle.loads(path.read_bytes())
        changed = edit(index)
        path.write_bytes(pickle.dumps(index if changed is None else changed))

    return forge


def place(**changes: Any) -> Callable[[Path, Path], Any]:
    """Forge the index: where a tensor is."""

    def edit(index: Metadata) -> None:
        found = index.storage_data[MetadataIndex(WEIGHT, [0, 0])]
        for name, content in changes.items():
            setattr(found, name, content)

    return edited(edit)


def chunks(*pieces: tuple[list[int], list[int]]) -> Callable[[Path, Path], Any]:
    """Forge the index: the pieces of a tensor; all in the places of the first."""

    def edit(index: Metadata) -> None:
        tensor = index.state_dict_metadata[WEIGHT]
        first = index.storage_data.pop(MetadataIndex(WEIGHT, [0, 0]))
        kind = type(tensor.chunks[0])
        tensor.chunks = [kind(torch.Size(o), torch.Size(s)) for o, s in pieces]
        index.storage_data |= {MetadataIndex(WEIGHT, offsets): first for offsets, _ in pieces}

    return edited(edit)


# What is stored of a tensor.


def stored(content: Callable[[Path], bytes] | bytes) -> Callable[[Path, Path], Any]:
    """Forge what is stored of a tensor."""

    def forge(source: Path, outside: Path) -> None:
        blob = content if isinstance(content, bytes) else content(outside)
        end = (source / DATA).stat().st_size
        with (source / DATA).open("ab") as file:
            file.write(blob)
        place(offset=end, length=len(blob))(source, outside)

    return forge


def saved(content: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def archive(
    *more: tuple[str, bytes],
    data: bytes = bytes(48),
    pickled: bytes | None = None,
    packed: bool = False,
    claimed: int | None = None,
) -> bytes:
    """Return an archive as torch.save writes it, of a tensor of 3 x 4, with changes."""
    with zipfile.ZipFile(io.BytesIO(saved(torch.zeros(3, 4)))) as good:
        files = {name: good.read(name) for name in good.namelist()}
    files["archive/data/0"] = data
    if pickled is not None:
        files["archive/data.pkl"] = pickled
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as target:
        for name, content in [*files.items(), *more]:
            target.writestr(name, content)
        if claimed is not None:
            entry = next(e for e in target.filelist if e.filename == "archive/data/0")
            entry.file_size = entry.compress_size = claimed
    return file.getvalue()


# Text.


def manifest(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], Any]:
    """Forge the manifest: a good one that was changed, as mbrec would write it."""

    def forge(source: Path, outside: Path) -> None:
        path = source / folder.MANIFEST
        content = json.loads(path.read_text())
        changed = edit(content)
        text = changed if isinstance(changed, str) else json.dumps(content, indent=1) + "\n"
        path.write_text(text)

    return forge


def run_state(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], Any]:
    """Forge the state: a good one that was changed."""

    def forge(source: Path, outside: Path) -> None:
        path = source / folder.STATE
        content = json.loads(path.read_text())
        changed = edit(content)
        path.write_text(changed if isinstance(changed, str) else json.dumps(content))

    return forge


def sparse(name: str, size: int) -> Callable[[Path, Path], Any]:
    """Make a file as large as wanted, which takes no disk."""
    return lambda source, outside: os.truncate(source / name, size)


def replaced(name: str, make: Callable[[Path, Path], Any]) -> Callable[[Path, Path], Any]:
    """Put something else in the place of a file: make(place, outside)."""

    def forge(source: Path, outside: Path) -> None:
        (source / name).unlink()
        make(source / name, outside)

    return forge


def moved(name: str) -> Callable[[Path, Path], Any]:
    """Move a file outside, and leave a link to it."""

    def forge(source: Path, outside: Path) -> None:
        target = shutil.move(source / name, outside / "moved")
        (source / name).symlink_to(target)

    return forge
