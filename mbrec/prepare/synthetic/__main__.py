"""Runs `mbrec.prepare.synthetic.command`."""

import sys

from mbrec.prepare.synthetic.command import main

if __name__ == "__main__":
    main(sys.argv[1:])
