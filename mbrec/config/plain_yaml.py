"""The YAML of a run of version 0.1: data, of which nothing is resolved, built or looked up.

Accepted are mappings, lists, strings, numbers, booleans and null, each written out. What makes
YAML a language is refused by name: tags, anchors and aliases, merge keys, several documents.
"""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mbrec import UserError
from mbrec.files import sealed

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
# Of a number: an integer of 60 in each digit takes a minute to read at a million digits.
MAX_DIGITS = 100

_STR = "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_SCALARS = (_STR, *_NUMBERS, "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
# YAML 1.1 would take 1e-8 for a string; OmegaConf, which wrote the file, takes it for a number.
_FLOAT = re.compile(r"^[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
# PyYAML may have been built without libyaml, which is thirty times as fast.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """Resolves scalars as OmegaConf does; dates stay strings, and << is a key as any other."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, regexp) for tag, regexp in resolvers if tag in _SCALARS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are different strings."""
        seen = set()
        for key, _ in node.value:
            if key.tag != _STR:
                _refuse(key, "a string as a key", "something else; quote it")
            if key.value in seen:
                _refuse(key, "each key once", f"'{key.value}' again")
            if key.value == "<<":
                _refuse(key, "every value written out", "the merge key <<")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(_NUMBERS[1], _FLOAT, list("-+0123456789"))


def read(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        UserError: naming the file, and the line with what is no plain data; or if it is not what
            was written.
    """
    text = sealed.read_text(path, MAX_BYTES)
    sealed.check_digest(path, text)
    try:
        _check_events(_Loader(text))
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected YAML, got something else: {reason:.200}") from error
    except _Refusal as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: expected YAML, got something else: {error!s:.200}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a mapping of settings, got something else")
    return found


class _Refusal(Exception):
    """Names the line."""


def _check_events(loader: Any) -> None:
    """Refuse what is no plain data, before anything is built of it."""
    depth = documents = 0
    while loader.check_event():
        event = loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            _refuse(event, "no aliases", f"*{event.anchor}")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            _refuse(event, "no anchors", f"&{event.anchor}")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag:
            _refuse(event, "no tags", event.tag)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            _refuse(event, "one document", "another")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            _refuse(event, f"at most {MAX_DEPTH} values one within another", "more")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_DIGITS:
            tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
            if tag in _NUMBERS:
                _refuse(event, f"numbers of at most {MAX_DIGITS} characters", event.value)


def _refuse(at: yaml.Event | yaml.Node, expected: str, got: str) -> NoReturn:
    got = got if len(got) <= 80 else f"{got[:77]}..."
    assert at.start_mark is not None
    raise _Refusal(f"line {at.start_mark.line + 1}: expected {expected}, got {got}")
