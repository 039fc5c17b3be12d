"""Errors that a user can mend are shown as one line, not as a stack trace."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

# The variable that Hydra itself reads for the same purpose.
FULL_ERROR = "HYDRA_FULL_ERROR"
MENDABLE = (ValueError, OSError, FloatingPointError, OmegaConfBaseException, YAMLError)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error that a user can mend into a message and exit status 1.

    With HYDRA_FULL_ERROR=1 the stack trace is shown.
    """
    try:
        yield
    except MENDABLE as error:
        if os.environ.get(FULL_ERROR) == "1":
            raise
        tell(error)
        # Not SystemExit: it would wait for the peers, which wait for this rank in a collective.
        os._exit(1)


def tell(error: Exception) -> None:
    """Write what went wrong to stderr: what a user can mend in short, else its stack trace."""
    rank = os.environ.get("RANK")
    where = f" (rank {rank})" if rank else ""
    text = f"error{where}: {error}\nSet {FULL_ERROR}=1 for a stack trace.\n"
    if os.environ.get(FULL_ERROR) == "1" or not isinstance(error, MENDABLE):
        text = f"error{where}:\n" + "".join(traceback.format_exception(error))
    # One write, so that the messages of several ranks do not mix.
    sys.stderr.write(text)
    sys.stderr.flush()
