"""The bar that shows how far training or an evaluation is."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(name: str, total: int, *, shown: bool, done: int = 0) -> "tqdm[Any]":
    """Return a bar of steps; where nobody watches it (a log file) it moves every ten seconds."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    bar = {"total": total, "initial": done, "unit": "step", "desc": name}
    return tqdm(**bar, disable=not shown, mininterval=interval)
