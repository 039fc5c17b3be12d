"""torchrun that ends with the process that started it.

`python -m mbrec.distributed.launcher PARENT [ARGUMENTS]`, where PARENT is the number of that
process: it may be gone before Python has started.

A script that is killed cannot pass the signal on; its job would run on, unseen. Here torchrun takes
the end of its parent for a SIGTERM: its processes save the run and end.
"""

import os
import signal
import sys
import threading
import time

POLL_S = 0.5


def main() -> None:
    """Run torchrun as long as the parent lives."""
    parent = int(sys.argv.pop(1))
    threading.Thread(target=_end_with, args=[parent], name="parent", daemon=True).start()

    from torch.distributed.run import main as torchrun

    torchrun()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    sys.stderr.write("launcher: the process that started this job is gone; the job stops\n")
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
