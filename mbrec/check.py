"""Checks a command line before anything is started: `python -m mbrec.check [key=value ...]`.

It prints the folder of the run, where it has a name.
"""

import sys

from mbrec.config.errors import plain_errors
from mbrec.distributed import loopback
from mbrec.job.check import check
from mbrec.study import sweep


def main() -> None:
    """Run the command line."""
    with plain_errors():
        # Before torchrun starts processes that would wait for it.
        loopback.require()
        swept = sweep.without_flag(sys.argv[1:])
        folder = check(sys.argv[1:]) if swept is None else sweep.plan(swept).folder
        if folder is not None:
            print(folder)


if __name__ == "__main__":
    main()
