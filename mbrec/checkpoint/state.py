"""What a checkpoint holds beside tensors, as JSON. Imports no torch.

It may come from anywhere: it is parsed key by key, never composed into a configuration or
instantiated.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mbrec.checkpoint.folder import STATE, verify
from mbrec.config import renamed
from mbrec.files import atomic
from mbrec.files.sealed import read_text

VERSION = 2
# From before vocabularies and evaluation rows were described.
_WITHOUT_CONTENT = 1
LARGEST = 256 << 20


History = list[dict[str, Any]]


@dataclass
class Progress:
    """Where training stands.

    Attributes:
        step: steps done.
        position: which rows are unread, in all readers; see `mbrec.reader.position`.
        learning_rates: of the last step, by optimizer.
        history: the evaluations so far: {"step", "tasks"}.
        guard: batches left out, and how each task stands for the explosion guard.
    """

    step: int
    position: dict[str, Any]
    learning_rates: dict[str, float]
    history: History
    guard: dict[str, Any]


@dataclass
class RunState(Progress):
    """Where a run stands, and what it is of.

    Attributes:
        tasks: names, in row order.
        inputs, tables, plan: see `mbrec.checkpoint.match.Layout`.
        world_size: ranks that wrote it.
        random: state of torch's generators of each rank, in hex: {"cpu": ..., "cuda": ...}.
        balancer: its class, and its state by task name, to be read: the tensors are loaded.
        config: the settings of the run.
        schema_hash: of the columns that the model reads.
        vocabularies: feature -> number and hash of its values; see
            `mbrec.reader.dataset.identify_vocabularies`.
        evaluation: what the rows of the evaluations hold; see `mbrec.reader.content.Content`.
        versions: of the packages that wrote it.
        time: when, in seconds since 1970.
    """

    tasks: list[str]
    inputs: dict[str, int]
    tables: dict[str, list[str]]
    plan: dict[str, str]
    world_size: int
    random: list[dict[str, str]]
    balancer: dict[str, Any]
    config: dict[str, Any]
    schema_hash: str
    vocabularies: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]
    versions: dict[str, str]
    time: float
    config_hash: str = ""

    def __post_init__(self) -> None:
        self.config_hash = self.config_hash or fingerprint(self.config)

    def write(self, folder: Path) -> None:
        """Write `state.json`, durably."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1, allow_nan=False)
        atomic.write_text(folder / STATE, text + "\n")


def read(folder: Path) -> RunState:
    """Read the `state.json` of a checkpoint.

    Raises:
        ValueError: naming the file and the key that is not as it should be.
    """
    path = folder / STATE
    text = read_text(path, LARGEST)
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got something else: {error}") from error
    try:
        return _parse(path, content)
    except RecursionError as error:
        raise ValueError(f"{path}: expected fewer lists inside of lists") from error


def read_verified(folder: Path) -> RunState:
    """Read the `state.json` of a checkpoint, once it is known to be what was written.

    Of the other files the sizes are compared.

    Raises:
        ValueError: naming what is not as it should be.
    """
    if problems := verify(folder, only=[STATE]):
        raise ValueError("\n  ".join(problems))
    return read(folder)


def _parse(path: Path, content: Any) -> RunState:
    version = content.pop("version", None) if isinstance(content, dict) else None
    if type(version) is not int or version not in (VERSION, _WITHOUT_CONTENT):
        raise ValueError(f"{path}: expected the state of a run, version {VERSION}")
    if version == _WITHOUT_CONTENT:
        # Those that would compare them say that they are missing.
        content = {"vocabularies": {}, "evaluation": {}} | content
    kinds = get_type_hints(RunState)
    if content.keys() != kinds.keys():
        raise ValueError(
            f"{path}: expected the keys {', '.join(kinds)}, got {', '.join(map(str, content))}"
        )
    for key, value in content.items():
        if not _fits(value, kinds[key]):
            raise ValueError(f"{path}: expected {kinds[key]} in '{key}', got {value!r:.100}")
    found = RunState(**content)
    if found.config_hash != fingerprint(found.config):
        raise ValueError(f"{path}: expected the config that config_hash belongs to, got another")
    found.config = renamed.current(found.config)
    return found


def fingerprint(content: Any) -> str:
    """Return a short hash of JSON values, whatever the order of their keys.

    >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the settings that differ, as `key: before -> now`.

    >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
    ['a.b: 1 -> 3']
    """
    found = []
    for key in dict.fromkeys([*before, *now]):
        a, b = before.get(key), now.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a} -> {b}")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number that is written here")
    return value


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return True
    if origin is int:
        return type(value) is int and 0 <= value < 1 << 62
    if origin is float:
        return type(value) is float or _fits(value, int)
    if not isinstance(value, origin):
        return False
    parts = value if origin is list else value.values() if origin is dict else ()
    return all(_fits(part, inner[-1]) for part in parts)
