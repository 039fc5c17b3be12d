"""Trains a model.

`mbrec train [key=value ...]` checks a command line, starts the processes of its job and waits for
them. Each of them is `python -m mbrec.train`, which torchrun starts, and which also runs alone.
"""

import os
import sys
import time

from mbrec.job.launch import Signals, launch


def main(arguments: list[str]) -> int:
    """Start a job and wait for its end; return its exit status."""
    # None may be lost while the modules below are imported, which takes longer.
    signals = Signals()

    from mbrec.config import composer
    from mbrec.config.errors import plain_errors
    from mbrec.distributed import loopback
    from mbrec.study import handover

    with plain_errors():
        if composer.asks(arguments):
            composer.show(arguments)
            return 0
        # Before torchrun starts processes that would wait for it.
        loopback.require()
        # One folder for all ranks and all restarts.
        os.environ.setdefault("MBREC_RUN_ID", time.strftime("%Y-%m-%d_%H-%M-%S"))
        found = handover.compose(arguments)
        assert found.folder is not None
        with handover.handed_over(arguments, found) as variables:
            return launch(arguments, found.folder, signals, variables)


def rank(arguments: list[str]) -> int:
    """Train as one of the processes of a job; return its exit status."""
    from mbrec.config import composer
    from mbrec.distributed.interrupt import Interrupt
    from mbrec.study import handover

    if composer.asks(arguments):
        composer.show(arguments)
        return 0
    found = handover.taken_over(arguments)
    composer.configure_logging(found.hydra)
    # torch takes seconds to import, and a signal in them is no reason to lose the run.
    interrupt = Interrupt()
    interrupt.install()

    from mbrec.job import fit

    if isinstance(found, composer.Composed):
        return fit.train(found.config, found.overrides, interrupt)

    from mbrec.study import sweep

    return fit.exit_status(sweep.run(found, interrupt))


if __name__ == "__main__":
    from mbrec.config.errors import plain_errors
    from mbrec.distributed.shutdown import end_processes
    from mbrec.job.status import RESUMABLE_EXIT_CODE

    with plain_errors():
        status = rank(sys.argv[1:])
    end_processes(failed=status not in (0, RESUMABLE_EXIT_CODE))
    sys.exit(status)
