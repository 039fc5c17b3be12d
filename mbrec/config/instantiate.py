"""Objects from `_target_` nodes of the configuration, of mbrec's classes and of named plugins."""

import importlib
import inspect
import re
from typing import Any

from mbrec import UserError
from mbrec.config import renamed

_HINT = (
    "; the package of a class outside mbrec goes on the command line: 'runtime.plugins=[PACKAGE]'"
)
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def balancer(node: dict[str, Any], num_tasks: int, plugins: list[str]) -> Any:
    """Return the `Balancer` that a node describes; see `instantiate`."""
    from mbrec.balance import Balancer

    return instantiate(
        node,
        plugins=plugins,
        kind=Balancer,
        package="mbrec.balance",
        key="balancer._target_",
        num_tasks=num_tasks,
    )


def interaction(node: dict[str, Any], width: int, plugins: list[str]) -> Any:
    """Return the interaction module that a node describes, for inputs of a width."""
    from torch import nn

    return instantiate(
        node,
        width,
        plugins=plugins,
        kind=nn.Module,
        package="mbrec.model.interactions",
        key="model.interaction._target_",
    )


def instantiate(
    node: dict[str, Any],
    *args: Any,
    plugins: list[str],
    kind: type = object,
    package: str = "mbrec",
    key: str = "_target_",
    **kwargs: Any,
) -> Any:
    """Return an object of the class that a `_target_` node names.

    The node may come with a checkpoint. So nothing is imported but what lies in `package` or a
    plugin, nothing is called but a class of that kind, and what the node holds beside `_target_`
    are plain arguments, whatever they are called.

    Args:
        node: `_target_` and keyword arguments.
        args: positional arguments that come before those of the node.
        plugins: packages besides mbrec that the class may come from.
        kind: what the class must be, or be derived from.
        package: where in mbrec the class must be defined.
        key: what errors call the `_target_`.
        kwargs: further keyword arguments.

    Raises:
        UserError: if the node names no such class, or its arguments do not fit.
    """
    target = renamed.current(node).get("_target_")
    found = _find(target, plugins, kind, package, key)
    arguments = {key: value for key, value in node.items() if key != "_target_"}
    try:
        return found(*args, **arguments, **kwargs)
    except TypeError as error:
        raise UserError(
            f"expected arguments that fit {target}, got {arguments}: {error}"
        ) from error


def _find(target: object, plugins: list[str], kind: type, package: str, key: str) -> type:
    roots = {"mbrec", *plugins}
    expected = f"a class of {' or '.join(sorted(roots))} in _target_"
    fitting = f"a {kind.__name__} in {key}"
    # The name is checked before anything is imported, and the class it leads to after that.
    if not isinstance(target, str) or target.split(".")[0] not in roots:
        raise UserError(f"expected {expected}, got {target!r}{_HINT}")
    if not _NAME.fullmatch(target):
        raise UserError(f"expected {expected}, got {target!r}")
    if not _lies_in(target, package, plugins):
        raise UserError(f"expected {fitting}, which is defined in {package}, got {target}{_HINT}")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"expected {expected}, got {target!r}: {error}") from error
    # A name may lead elsewhere: to what its module imports.
    if not inspect.isclass(found) or not _lies_in(found.__module__, "mbrec", plugins):
        raise UserError(f"expected {expected}, got {target!r}{_HINT}")
    if not issubclass(found, kind) or not _lies_in(found.__module__, package, plugins):
        raise UserError(f"expected {fitting}, got {target}")
    return found


def _lies_in(name: str, package: str, plugins: list[str]) -> bool:
    return f"{name}.".startswith(f"{package}.") or name.split(".")[0] in plugins
