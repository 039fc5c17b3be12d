"""Tells an error of a collective, which another rank has mostly caused, from any other error."""

import dis
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist
import torchrec

import mbrec

# Frames that call collectives, wait for them, or run a backward pass with collectives in it.
_PLACES = tuple(
    str(Path(str(package.__file__)).parent / below)
    for package, below in (
        (torch, "distributed"),
        (torch, "autograd/graph.py"),
        (torchrec, "distributed"),
        (mbrec, "balance"),
    )
)
# gloo's errors begin with their place in its source; c10d's waits have fixed beginnings.
_BEGINNINGS = ("Gloo connectFullMesh", "Operation timed out!", "Wait timeout", "wait timeout")


def is_of_collective(error: BaseException) -> bool:
    """Return whether a collective has failed.

    The place decides: C++ code that `torch.distributed`, torchrec, the hook or the backward engine
    called. Texts alone decide nothing: a reader's "timed out" concerns no other rank. Within these
    places they tell gloo's errors, which are plain RuntimeErrors, from errors of other operations.
    """
    if isinstance(error, dist.DistError):
        return True
    if type(error) is not RuntimeError or not _was_called_by_a_collective(error.__traceback__):
        return False
    text = str(error)
    return text.startswith(_BEGINNINGS) or "/gloo/" in text.partition("]")[0]


def _was_called_by_a_collective(traceback: TracebackType | None) -> bool:
    """Return whether the innermost frame belongs to a collective and called the code that failed.

    A frame that raises an error itself is Python's: no C++ code has failed there.
    """
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    called = dis.opname[code.co_code[traceback.tb_lasti]].startswith("CALL")
    return called and code.co_filename.startswith(_PLACES)
