"""Forged checkpoints: each tries to run something, to lead elsewhere, or to take much memory."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from forged_pickles import code, pickles, tensors_with_code
from forging import (
    DATA,
    WEIGHT,
    Forged,
    archive,
    chunks,
    edited,
    manifest,
    moved,
    place,
    replaced,
    run_state,
    saved,
    sparse,
    stored,
    text,
    value,
)
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from mbrec.checkpoint import folder

Forge = Callable[[Path, Path], Any]


def drop(name: str) -> Callable[[Metadata], Any]:
    return lambda index: index.state_dict_metadata.pop(name)


def with_object(index: Metadata) -> None:
    index.state_dict_metadata["model.epoch"] = BytesStorageMetadata()
    index.storage_data[MetadataIndex("model.epoch")] = next(iter(index.storage_data.values()))


def twice_in_one_place(index: Metadata) -> None:
    index.state_dict_metadata["model.more"] = index.state_dict_metadata[WEIGHT]
    found = index.storage_data[MetadataIndex(WEIGHT, [0, 0])]
    index.storage_data[MetadataIndex("model.more", [0, 0])] = found


def set_tensor(**changes: Any) -> Forge:
    def edit(index: Metadata) -> None:
        for name, content in changes.items():
            setattr(index.state_dict_metadata[WEIGHT], name, content)

    return edited(edit)


def indices() -> Iterator[Forged]:
    forged: dict[str, Forge] = {
        "an object": edited(with_object),
        "another object in the place of a tensor": edited(
            lambda index: index.state_dict_metadata.update({WEIGHT: BytesStorageMetadata()})
        ),
        "a path that leads out": place(relative_path="../outside/x"),
        "an absolute path": place(relative_path="/etc/passwd"),
        "a file that the manifest has not": place(relative_path="__9_0.distcp"),
        "a path that is bytes": place(relative_path=DATA.encode()),
        "a place before the file": place(offset=-1),
        "a place behind the file": place(offset=1 << 40),
        "a place that is a number of many digits": place(offset=1 << 200),
        "a place that is no number": place(offset=True),
        "more bytes than the file has": place(length=1 << 40),
        "fewer bytes than the tensor": place(length=8),
        "a transformation": place(transform_descriptors=["zstd"]),
        "no tensors": edited(lambda index: Metadata([], None, {})),
        "a dict": edited(lambda index: {"state_dict_metadata": {}, "storage_data": {}}),
        "no such tensor": edited(drop(WEIGHT)),
        "two tensors in one place": edited(twice_in_one_place),
        "no place": edited(lambda index: index.storage_data.clear()),
        "a number as the name": edited(lambda index: index.state_dict_metadata.update({7: 7})),
        "a size of 100 GB": set_tensor(size=torch.Size([1 << 20, 25_000])),
        "a size that is a list": set_tensor(size=[3, 4]),
        "no properties": set_tensor(properties=None),
        "one piece for all": set_tensor(chunks=7),
        "a piece before the tensor": chunks(([-1, 0], [4, 4])),
        "a piece outside of the tensor": chunks(([0, 0], [3, 4]), ([3, 0], [1, 4])),
        "half of a tensor": chunks(([0, 0], [2, 4])),
        "a hole and two pieces over each other": chunks(([0, 0], [2, 4]), ([1, 0], [1, 4])),
        "a piece of fewer dimensions": chunks(([0], [12])),
    }
    for name, forge in forged.items():
        yield Forged(f"an index with {name}", "index", forge)


def legacy_before_archive() -> bytes:
    return saved(torch.zeros(3, 4), _use_new_zipfile_serialization=False) + archive()


def of_one_name() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return archive(("archive/data.pkl", b"\x80\x02N."))


def stored_tensors() -> Iterator[Forged]:
    blobs: dict[str, bytes] = {
        "of more rows": saved(torch.zeros(30, 4)),
        "of fewer rows": saved(torch.zeros(2, 4)) + bytes(64),
        "of another shape": saved(torch.zeros(4, 3)),
        "of another type": saved(torch.zeros(3, 4, dtype=torch.int32)),
        "of a wider type": saved(torch.zeros(3, 4, dtype=torch.float64)),
        "that is a list": saved([torch.zeros(3, 4)]),
        "that is a number": saved(3.5) + bytes(64),
        "that is sparse": saved(torch.zeros(3, 4).to_sparse()),
        "that is a parameter": saved(torch.nn.Parameter(torch.zeros(3, 4))),
        "that is part of another": saved(torch.zeros(30, 4)[:3]),
        "of one element many times": saved(torch.zeros(1).expand(3, 4)),
        "of an older format": saved(torch.zeros(3, 4), _use_new_zipfile_serialization=False),
        "of an older format before an archive": legacy_before_archive(),
        "that is compressed": archive(packed=True),
        "that is a bomb": archive(packed=True, data=bytes(64 << 20)),
        "that claims 100 GB": archive(claimed=100 << 30),
        "with a file that leads out": archive(("archive/../../outside/marker", b"")),
        "with two files of one name": of_one_name(),
        "without its pickle": archive().replace(b"data.pkl", b"data.pkk"),
        "that is no archive": bytes(1024),
        "that is cut": archive()[:-30] + bytes(2),
        "of 100 GB by its pickle": archive(pickled=pickle_of_tensor(25_000 << 20)),
    }
    for name, blob in blobs.items():
        yield Forged(f"a tensor {name}", "tensors", stored(blob))


def pickle_of_tensor(elements: int) -> bytes:
    """Return what torch.save says of a tensor of one row of so many elements."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    body = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + value(elements) + b"tQK\x00"
    body += value((1, elements)) + value((elements, 1)) + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02" + body + b"."


def add(name: str, **changes: Any) -> Forge:
    """Add an entry to the manifest."""
    entry = {"bytes": 1, "sha256": "0" * 64} | changes
    return manifest(lambda content: content["files"].update({name: entry}))


def texts() -> Iterator[Forged]:
    forged = {
        "a path that leads out": add("../outside/x.distcp"),
        "an absolute path": add("/etc/passwd"),
        "a path with a folder": add("a/__0_0.distcp"),
        "a path with a line end": add("__0_0.distcp\n"),
        "a size of 1 GB": add(DATA, bytes=1 << 30),
        "a size of many digits": add(DATA, bytes=1 << 200),
        "a size before 0": add(DATA, bytes=-1),
        "a size that is NaN": add(DATA, bytes=float("nan")),
        "a size that is a list": add(DATA, bytes=[1]),
        "a hash that is a path": add(DATA, sha256="../../x"),
        "something else in an entry": add(DATA, mode=0o777),
        "an entry twice": manifest(
            lambda c: '{"version": 1, "files": {' + f'"{DATA}": 1, "{DATA}": 2' + "}}\n"
        ),
        "lists in lists": manifest(lambda c: "[" * 100_000 + "]" * 100_000),
        "a list": manifest(lambda c: "[]"),
        "no text": lambda source, _: (source / folder.MANIFEST).write_bytes(b"\xff\xfe{}"),
        "17 MB of nothing": sparse(folder.MANIFEST, 17 << 20),
        "no state": manifest(lambda c: c["files"].pop(folder.STATE)),
        "another version": manifest(lambda c: c.update(version=True)),
    }
    for name, forge in forged.items():
        yield Forged(f"a manifest with {name}", "verify", forge, sealed=False)
    for name in (folder.MANIFEST, folder.STATE, folder.METADATA, DATA):
        pipe = replaced(name, lambda path, _: os.mkfifo(path))
        yield Forged(f"a link as {name}", "verify", moved(name), sealed=False)
        yield Forged(f"a pipe as {name}", "verify", pipe, sealed=False)
        inner = replaced(name, lambda path, _: path.mkdir())
        yield Forged(f"a folder as {name}", "verify", inner, sealed=False)


def literal(key: str, number: str) -> Callable[[dict[str, Any]], str]:
    """Put text in the place of a value, which the json module would not write."""
    return lambda content: json.dumps(content | {key: "here"}).replace('"here"', number)


def states() -> Iterator[Forged]:
    edits: dict[str, Callable[[dict[str, Any]], Any]] = {
        "another config": lambda c: c["config"].update(seed=2),
        "a number as a task": lambda c: c["tasks"].append(7),
        "no tasks": lambda c: c.pop("tasks"),
        "more than it has": lambda c: c.update(command="rm"),
        "a step before 0": lambda c: c.update(step=-1),
        "a step that is true": lambda c: c.update(step=True),
        "a step of many digits": lambda c: c.update(step=1 << 80),
        "a time of many digits": lambda c: c.update(time=10**400),
        "a time of too many digits": literal("time", "1" * 5000),
        "a time that is text": lambda c: c.update(time="now"),
        "NaN": literal("time", "NaN"),
        "NaN where anything may be": literal("position", '{"a": NaN}'),
        "Infinity": literal("history", '[{"a": Infinity}]'),
        "a number past all numbers": literal("position", '{"a": 1e999}'),
        "a version of the future": lambda c: c.update(version=99),
        "a list": lambda c: "[]",
        "no JSON": lambda c: "{",
    }
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    edits |= {f"dicts in dicts as {key}": literal(key, deep) for key in ("config", "tasks")}
    for name, edit in edits.items():
        yield Forged(f"a state with {name}", "state", run_state(edit))
    large = sparse(folder.STATE, 300 << 20)
    yield Forged("a state of 300 MB", "state", large)
    latin = replaced(folder.STATE, lambda path, _: path.write_bytes(b"\xff"))
    yield Forged("a state that is no text", "state", latin)


FORGED = [
    *code(),
    *pickles(),
    *indices(),
    *tensors_with_code(),
    *stored_tensors(),
    *texts(),
    *states(),
]
