"""YAML that comes with a checkpoint: data, of which nothing is resolved, built or looked up.

Accepted are mappings, lists, strings, numbers, booleans and null, each written out. What makes
YAML a language is refused by name: tags, anchors and aliases, merge keys, several documents, and
the interpolations (`${...}`) that OmegaConf would add.
"""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from mbrec.config import renamed
from mbrec.files import sealed

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
# Of a number: an integer of 60 in each digit takes a minute to read at a million digits.
MAX_DIGITS = 100

_STR = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_SCALARS = (_STR, *_NUMBERS, "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
_SINGLE = (str, int, float, bool, Enum)
# YAML 1.1 would take 1e-8 for a string; OmegaConf, which wrote the file, takes it for a number.
_FLOAT = re.compile(r"^[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")


# Resolves scalars as OmegaConf does; dates stay strings. PyYAML may have been built without
# libyaml, which is thirty times as fast.
_Loader: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in _SCALARS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_NUMBERS[1], _FLOAT, list("-+0123456789"))


def read(path: str | Path, kind: type) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, which OmegaConf may then merge into a schema.

    Args:
        path: of the file.
        kind: the dataclass that it describes.

    Raises:
        ValueError: naming the file, and the line or key with what is no plain data, or has a
            mapping or list in the place of a single value; or if it is not what mbrec wrote.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a YAML file, found none")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES:,} bytes of YAML, got more")
    try:
        text = content.decode("utf-8-sig")
        sealed.check_digest(path, text)
        found = _Reader(path, text).document()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected YAML, got something else: {reason}") from error
    try:
        _check_values(found, kind, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return renamed.current(found)


def _check_values(content: Any, kind: Any, where: str) -> None:
    """Refuse a mapping or a list in the place of a single value.

    OmegaConf, which checks the rest, lets them pass within a `dict[str, str]` or a `list[str]`.
    """
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(content, dict) and (is_dataclass(kind) or origin is dict):
        hints = {} if origin is dict else get_type_hints(kind)
        for key, value in content.items():
            of_key = inner[1] if origin is dict else hints.get(key, Any)
            _check_values(value, of_key, f"{where}.{key}" if where else key)
    elif isinstance(content, list) and origin is list:
        for number, value in enumerate(content):
            _check_values(value, inner[0], f"{where}[{number}]")
    elif isinstance(content, dict | list) and isinstance(kind, type) and issubclass(kind, _SINGLE):
        raise ValueError(f"expected a single value in {where}, got {str(content)[:80]}")


class _Reader:
    """Builds values from the events of the parser, one after the other: it stops at the first."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._loader = _Loader(text)
        self._events = self._checked()

    def document(self) -> dict[str, Any]:
        """Return the one document, a mapping."""
        event = next(self._events, None)
        if not isinstance(event, yaml.MappingStartEvent):
            self._refuse(event, "a mapping of settings", "something else")
        content = self._value(event, 1)
        for event in self._events:
            self._refuse(event, "one document", "another")
        assert isinstance(content, dict)
        return content

    def _checked(self) -> Iterator[yaml.Event]:
        documents = 0
        while self._loader.check_event():
            event = self._loader.get_event()
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if event.tags:
                    self._refuse(event, "no tags", "a %TAG directive")
                if documents > 1:
                    self._refuse(event, "one document", "another")
            elif isinstance(event, yaml.AliasEvent):
                self._refuse(event, "every value written out", f"the alias *{event.anchor}")
            elif isinstance(event, yaml.NodeEvent):
                if event.anchor is not None:
                    self._refuse(event, "no anchors", f"&{event.anchor}")
                tagged = isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
                if tagged and event.tag is not None:
                    self._refuse(event, "no tags", event.tag)
                yield event
            elif isinstance(event, yaml.CollectionEndEvent):
                yield event

    def _value(self, event: yaml.Event, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if depth > MAX_DEPTH:
            self._refuse(event, f"at most {MAX_DEPTH} values one within another", "more")
        if isinstance(event, yaml.SequenceStartEvent):
            return list(self._items(depth))
        return self._mapping(depth)

    def _items(self, depth: int) -> Iterator[Any]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._value(event, depth + 1)

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                self._refuse(event, "a string as a key", "something else; quote it")
            if key in found:
                self._refuse(event, "each key once", f"'{key}' again")
            # A plain << merges in YAML 1.1; nothing here is merged.
            if key == "<<":
                self._refuse(event, "every value written out", "the merge key <<")
            found[key] = self._value(next(self._events), depth + 1)
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        tag = self._loader.resolve(yaml.ScalarNode, text, event.implicit)
        if tag == _STR:
            if "${" in text:
                self._refuse(event, "values without ${...}, which is not resolved here", text)
            return text
        if tag in _NUMBERS and len(text) > MAX_DIGITS:
            self._refuse(event, f"numbers of at most {MAX_DIGITS} characters", text)
        try:
            return self._loader.construct_object(yaml.ScalarNode(tag, text))
        except ValueError:
            self._refuse(event, "a number", text)

    def _refuse(self, event: yaml.Event | None, expected: str, got: str) -> NoReturn:
        got = got if len(got) <= 80 else f"{got[:77]}..."
        line = event.start_mark.line + 1 if event else 1
        raise ValueError(f"{self._path}: line {line}: expected {expected}, got {got}")
