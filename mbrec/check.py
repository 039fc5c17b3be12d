"""Checks a training command line without starting anything: `mbrec check [key=value ...]`."""

import sys

from mbrec.config.errors import plain_errors
from mbrec.distributed import loopback
from mbrec.study import handover

USAGE = """usage: mbrec check [key=value ...]

Composes and checks what `mbrec train` would train, and prints the folder of the run, if it has a
name. The status is 1 if anything is wrong."""


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    with plain_errors():
        loopback.require()
        if (folder := handover.compose(arguments).folder) is not None:
            print(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
