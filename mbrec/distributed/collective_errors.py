"""Tells an error of a collective, which another rank has mostly caused, from any other error."""

import dis
from pathlib import Path
from types import ModuleType, TracebackType

import torch
import torch.distributed as dist
import torchrec

import mbrec

_WITHOUT_PLACE = ("Application timeout caused pair closure", "Gloo connectFullMesh failed")


def _below(package: ModuleType, *names: str) -> tuple[str, ...]:
    return tuple(str(Path(str(package.__file__)).parent / name) for name in names)


# Files whose C++ calls are collectives, or waits for one.
_COLLECTIVES = _below(torch, "distributed/distributed_c10d.py")
_COLLECTIVES += _below(torchrec, "distributed/comm_ops.py")
_COLLECTIVES += _below(mbrec, "balance/backward/ranks.py")
# Places whose C++ calls contain collectives and other operations: there gloo's text decides.
_MIXED = _below(torch, "autograd/graph.py", "distributed", "nn/parallel")
_MIXED += _below(torchrec, "distributed")


def is_of_collective(error: BaseException) -> bool:
    """Return whether a collective has failed.

    The place decides: C++ code that `torch.distributed`, torchrec, the hook or the backward engine
    called. A text alone decides nothing: a reader's "timed out" concerns no other rank. gloo's
    errors are plain RuntimeErrors, most of which begin with their place in its source.
    """
    if isinstance(error, dist.DistError):
        return True
    if type(error) is not RuntimeError:
        return False
    place, text = _caller_of_cpp(error.__traceback__), str(error)
    of_gloo = "/gloo/" in text.partition("]")[0] or text.startswith(_WITHOUT_PLACE)
    return place in _COLLECTIVES or (place.startswith(_MIXED) and of_gloo)


def _caller_of_cpp(traceback: TracebackType | None) -> str:
    """Return the file that called the C++ code which failed; empty if Python raised the error."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    called = dis.opname[code.co_code[traceback.tb_lasti]].startswith("CALL")
    return code.co_filename if called else ""
