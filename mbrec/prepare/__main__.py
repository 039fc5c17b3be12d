"""`python -m mbrec.prepare RECIPE IN OUT`: see `mbrec.prepare.command`."""

import sys

from mbrec.prepare.command import main

if __name__ == "__main__":
    sys.exit(main())
