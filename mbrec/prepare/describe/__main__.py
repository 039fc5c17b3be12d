"""Runs `mbrec.prepare.describe.command`."""

import sys

from mbrec.prepare.describe.command import main

if __name__ == "__main__":
    main(sys.argv[1:])
