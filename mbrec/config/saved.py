"""The configuration that a run saves, and that is read back as data: nothing in it is composed.

`config.json` is what is read; `config.yaml` holds the same for people. Runs of version 0.1 have
YAML alone, which is read until 0.3.
"""

import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbrec import UserError
from mbrec.config import plain_yaml, renamed
from mbrec.config.settings import Config, parse
from mbrec.files import atomic, sealed

JSON, YAML = "config.json", "config.yaml"
MAX_BYTES = 1 << 20
_SINGLE = (str, int, float, bool, Enum)


def plain(config: Config) -> dict[str, Any]:
    """Return the settings as JSON has them.

    Raises:
        UserError: if a number is not finite, for which JSON has no text.
    """
    content: Any = OmegaConf.to_container(
        OmegaConf.structured(config), enum_to_str=True, resolve=True
    )
    for where, value in _values(content, ""):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"expected finite numbers in the configuration, got {where}={value}")
    return content


def write(folder: Path, config: Config) -> None:
    """Write the configuration into the folder of a run, as JSON, and as YAML for people."""
    sealed.write_json(folder / JSON, plain(config))
    atomic.write_text(folder / YAML, sealed.with_digest(OmegaConf.to_yaml(plain(config))))


def path_of(run: Path) -> Path | None:
    """Return the file with the configuration of a run, or None where there is none."""
    return next((run / name for name in (JSON, YAML) if (run / name).exists()), None)


def read(path: Path, kind: type = Config) -> dict[str, Any]:
    """Return the settings in a file, which OmegaConf may then merge into a schema.

    Args:
        path: of the file, `.json` or `.yaml`.
        kind: the dataclass that it describes.

    Raises:
        UserError: naming the file, and what is no plain data, has a mapping or a list in the place
            of a single value, or is not what was written.
    """
    as_json = path.suffix == ".json"
    content = sealed.read_json(path, MAX_BYTES) if as_json else plain_yaml.read(path)
    for where, value in _values(content, ""):
        # OmegaConf would resolve it, with what is in the environment for example.
        if isinstance(value, str) and "${" in value:
            expected = "values without ${...}, which is not resolved here"
            raise UserError(f"{path}: expected {expected}, got {value:.80} in {where}")
    try:
        _check_kinds(content, kind, "")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return renamed.current(content)


def load(path: str | Path, overrides: list[str]) -> Config:
    """Return the configuration in a file, with `key=value` overrides.

    Only the overrides, which come from the command line, may refer to the environment or to other
    values (`${...}`).

    Raises:
        UserError: if the file holds more than plain data, or a key or a value does not fit the
            schema.
    """
    return complete(read(Path(path)), overrides, path)


def complete(content: dict[str, Any], overrides: list[str], path: str | Path) -> Config:
    """Return the configuration of settings that were read from a file; see `load`."""
    try:
        schema = OmegaConf.structured(Config)
        node = OmegaConf.merge(schema, content, OmegaConf.from_dotlist(overrides))
        assert isinstance(node, DictConfig)
        return parse(node)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{error.full_key or path}: {reason}") from error


def _values(content: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every single value and key of nested mappings and lists, and where it is."""
    if isinstance(content, dict):
        for key, value in content.items():
            below = f"{where}.{key}" if where else str(key)
            yield below, key
            yield from _values(value, below)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _values(value, f"{where}[{number}]")
    else:
        yield where, content


def _check_kinds(content: Any, kind: Any, where: str) -> None:
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
            _check_kinds(value, of_key, f"{where}.{key}" if where else key)
    elif isinstance(content, list) and origin is list:
        for number, value in enumerate(content):
            _check_kinds(value, inner[0], f"{where}[{number}]")
    elif isinstance(content, dict | list) and isinstance(kind, type) and issubclass(kind, _SINGLE):
        raise UserError(f"expected a single value in {where}, got {str(content)[:80]}")
