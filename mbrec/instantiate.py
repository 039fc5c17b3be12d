"""Objects from `_target_` nodes of the configuration, of mbrec's classes and of named plugins."""

import importlib
import inspect
from typing import Any

_HINT = (
    "; the package of a class outside mbrec goes on the command line: 'runtime.plugins=[PACKAGE]'"
)


def instantiate(node: dict[str, Any], *args: Any, plugins: list[str], **kwargs: Any) -> Any:
    """Return an object of the class that a `_target_` node names.

    Args:
        node: `_target_` and keyword arguments.
        args: positional arguments that come before those of the node.
        plugins: packages besides mbrec that the class may come from.
        kwargs: further keyword arguments.

    Raises:
        ValueError: if the node names no class of mbrec or a plugin, or its arguments do not fit.
    """
    allowed = {"mbrec", *plugins}
    target = node.get("_target_")
    expected = f"a class of {' or '.join(sorted(allowed))} in _target_"
    # The name is checked before anything is imported, and the class it leads to after that.
    if not isinstance(target, str) or target.split(".")[0] not in allowed:
        raise ValueError(f"expected {expected}, got {target!r}{_HINT}")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"expected {expected}, got {target!r}: {error}") from error
    if not inspect.isclass(found) or found.__module__.split(".")[0] not in allowed:
        raise ValueError(f"expected {expected}, got {target!r}{_HINT}")
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    try:
        return found(*args, **arguments, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"expected arguments that fit {target}, got {arguments}: {error}"
        ) from error
