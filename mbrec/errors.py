"""Errors that a user can mend are shown as one line, not as a stack trace."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

# The variable that Hydra itself reads for the same purpose.
FULL_ERROR = "HYDRA_FULL_ERROR"


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an error that a user can mend into a message and exit status 1.

    With HYDRA_FULL_ERROR=1 the stack trace is shown.
    """
    try:
        yield
    except (ValueError, OSError, FloatingPointError, OmegaConfBaseException, YAMLError) as error:
        if os.environ.get(FULL_ERROR) == "1":
            raise
        rank = os.environ.get("RANK")
        where = f" (rank {rank})" if rank else ""
        # One write, so that the messages of several ranks do not mix.
        sys.stderr.write(f"error{where}: {error}\nSet {FULL_ERROR}=1 for a stack trace.\n")
        sys.stderr.flush()
        # Not SystemExit: it would wait for the peers, which wait for this rank in a collective.
        os._exit(1)
