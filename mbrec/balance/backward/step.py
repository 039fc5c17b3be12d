"""One forward of the hook, and the one backward that belongs to it."""

from dataclasses import dataclass, field
from typing import Any

import torch

from mbrec.balance.backward.merging import Observed


@dataclass
class Step:
    """What was observed of a forward, and what its backward has changed.

    Attributes:
        merged: whether its backward has been.
        saved: the state before that backward.
    """

    observed: Observed = field(default_factory=Observed)
    merged: bool = False
    saved: Any = None


def inside_backward() -> bool:
    """Return whether autograd is running: a forward then is one that checkpointing repeats."""
    return torch._C._current_graph_task_id() != -1
