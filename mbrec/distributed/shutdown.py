"""How a process leaves the others. Imports no torch: a command that shows its help has none."""

import gc
import os
import sys


def end_processes(*, failed: bool = False) -> None:
    """Leave the process group, if this process ever joined one; after a failure, end at once.

    Ranks that wait in a collective for one that has failed never come to leave the group.
    """
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            if failed:
                sys.stdout.flush()
                os._exit(1)
            # A model is a cycle that holds its groups: one that is left when the interpreter ends
            # can crash gloo's threads, which then look for it.
            gc.collect()
            dist.destroy_process_group()
