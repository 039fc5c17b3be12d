"""Names the ranks that no longer answer, when a collective has failed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

# Long enough for whoever is alive to notice as well.
WAIT_S = 0.5


class Store(Protocol):
    """A store of torch.distributed."""

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys are there."""
        ...


def silent_ranks(store: Store, rank: int, world_size: int) -> list[int]:
    """Return the ranks that have not noticed the failure as well: dead ones, or stopped ones.

    Args:
        store: of the process group.
        rank: this one, which has noticed it.
        world_size: how many there are.
    """
    try:
        store.set(f"failed/{rank}", "")
        time.sleep(WAIT_S)
        return [r for r in range(world_size) if not store.check([f"failed/{r}"])]
    except RuntimeError:
        # The store itself is gone: torchrun is, or the rank 0 that hosted it.
        return [0] if rank else []


@contextmanager
def named_silence(store: Store, rank: int, world_size: int) -> Iterator[None]:
    """Turn a collective that failed since a rank is gone into an error that names it.

    Raises:
        ConnectionError: naming the ranks.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size == 1 or not (silent := silent_ranks(store, rank, world_size)):
            raise
        names = ", ".join(map(str, silent))
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"rank {names} no longer answers: it has died, is stopped, or took longer than "
            f"runtime.timeout_s ({reason:.200})"
        ) from error
