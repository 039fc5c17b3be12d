"""Errors that a user can fix are shown in short, not as a stack trace."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mbrec import UserError

# The variable that Hydra itself reads for the same purpose.
FULL_ERROR = "HYDRA_FULL_ERROR"
USER_ERRORS = (UserError, ValueError, OSError, FloatingPointError)
USER_ERRORS += (OmegaConfBaseException, YAMLError)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error that a user can fix into a message and exit status 1.

    With HYDRA_FULL_ERROR=1 the stack trace is shown.
    """
    try:
        yield
    except USER_ERRORS as error:
        if os.environ.get(FULL_ERROR) == "1":
            raise
        tell(error)
        # Not SystemExit: it would wait for the peers, which wait for this rank in a collective.
        os._exit(1)


def tell(error: Exception) -> None:
    """Write an error to stderr: in short what a user can fix, any other with its stack trace."""
    rank = os.environ.get("RANK")
    where = f" (rank {rank})" if rank else ""
    text = f"error{where}: {error}\nSet {FULL_ERROR}=1 for a stack trace.\n"
    if os.environ.get(FULL_ERROR) == "1" or not isinstance(error, USER_ERRORS):
        text = f"error{where}:\n" + "".join(traceback.format_exception(error))
    # One write, so that the messages of several ranks do not mix.
    sys.stderr.write(text)
    sys.stderr.flush()
