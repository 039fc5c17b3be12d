"""What lies below the hook in the autograd graph."""

import re
from collections.abc import Iterable
from typing import NoReturn

from torch import Tensor, nn

# FBGEMM's table lookups are named after the optimizer they apply; "none" and "dense" apply none.
_FUSED_LOOKUP = re.compile(r"SplitLookupFunction_(?!none|dense)(\w+?)_Op")
_IN_BACKWARD = "_in_backward_optimizers"


def refuse(found: str) -> NoReturn:
    """Refuse gradients that are scaled or split up, where something applies them at once.

    Raises:
        ValueError: that names what `updates_in_backward` found.
    """
    raise ValueError(
        "expected no table that updates itself inside backward under a loss scale or gradient "
        f"accumulation, got {found}: such a table would apply the scaled gradient, or one "
        "update a micro-batch; use bfloat16 and a larger batch, or an optimizer of its own "
        "for the tables"
    )


def updates_in_backward(tensors: Iterable[Tensor]) -> str | None:
    """Return what below some tensors applies an optimizer inside backward, or None."""
    seen, waiting = set(), [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if fused := _FUSED_LOOKUP.search(node.name()):
            return f"an embedding lookup with fused {fused[1]}"
        if hasattr(getattr(node, "variable", None), _IN_BACKWARD):
            return "a parameter under apply_optimizer_in_backward"
        waiting.extend(child for child, _ in node.next_functions)
    return None


def fused_parameters(module: nn.Module) -> list[str]:
    """Return the parameters of a module that an optimizer updates inside backward."""
    return [name for name, param in module.named_parameters() if hasattr(param, _IN_BACKWARD)]
