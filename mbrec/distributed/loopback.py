"""A rendezvous for torchrun on one machine, of which nothing is within reach of the network.

`torchrun --standalone` opens a store that listens on every interface, without a password:
anyone who reaches the port can write to it. This one listens on 127.0.0.1. It is found by its name,

    torchrun --rdzv-backend mbrec-loopback --rdzv-endpoint 127.0.0.1:0 --nproc-per-node 2 ...

where the endpoint is what it is anyway; without it torchrun remarks that there is none. Every start
of torchrun imports this file, so it imports nothing heavy.
"""

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore
    from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousParameters

NAME = "mbrec-loopback"
ADDRESS = "127.0.0.1"
ENDPOINT = f"{ADDRESS}:0"
_TIMEOUT_S = 600
_CONNECT_S = 5.0


class LoopbackRendezvous:
    """Has what torch's `RendezvousHandler` has, which it cannot be derived from without torch.

    Each start of the workers gets a store of its own. With one store for all of them, as
    `--standalone` has it, gloo finds addresses of processes that a restart has ended. A client of
    the store waits `timeout_s` for a key.
    """

    def __init__(self, run_id: str, timeout_s: int = _TIMEOUT_S) -> None:
        self._run_id = run_id
        self._timeout = timedelta(seconds=timeout_s)
        self._store: TCPStore | None = None
        self._closed = False

    @property
    def use_agent_store(self) -> bool:
        """Whether the workers use this store, in place of one that rank 0 opens."""
        return True

    def get_backend(self) -> str:
        """Return the name by which torchrun knows it."""
        return NAME

    def get_run_id(self) -> str:
        """Return what `--rdzv-id` says."""
        return self._run_id

    def next_rendezvous(self) -> "RendezvousInfo":
        """Return a new store, for the one node that there is, in place of the one before it."""
        from torch.distributed.elastic.rendezvous.api import (
            RendezvousClosedError,
            RendezvousInfo,
            RendezvousStoreInfo,
        )

        if self._closed:
            raise RendezvousClosedError
        self._store = store = _open_store(self._timeout)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(ADDRESS, store.port))

    def is_closed(self) -> bool:
        """Return whether no workers are to be started any more."""
        return self._closed

    def set_closed(self) -> None:
        """Let no workers be started any more."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """Return 0: there is one node."""
        return 0

    def shutdown(self) -> bool:
        """Leave the store, which closes with its last user."""
        self._closed = True
        self._store = None
        return True


def create(parameters: "RendezvousParameters") -> LoopbackRendezvous:
    """Return the rendezvous of a job.

    Raises:
        ValueError: if the job has more than one node, or another endpoint.
        OSError: if the machine has no loopback interface.
    """
    if parameters.max_nodes != 1:
        raise ValueError(
            f"expected one node with --rdzv-backend {NAME}, got --nnodes up to "
            f"{parameters.max_nodes}; several nodes meet with --rdzv-backend c10d"
        )
    if parameters.endpoint not in ("", ENDPOINT):
        raise ValueError(
            f"expected --rdzv-endpoint {ENDPOINT}, a free port of this machine, with "
            f"--rdzv-backend {NAME}, got {parameters.endpoint}"
        )
    require()
    timeout_s = parameters.get_as_int("timeout", _TIMEOUT_S)
    return LoopbackRendezvous(parameters.run_id, timeout_s or _TIMEOUT_S)


def require() -> None:
    """Check that processes of this machine can reach each other.

    Raises:
        OSError: at once, with what is missing; a job would wait for it for minutes.
    """
    try:
        with socket.socket() as listener, socket.socket() as caller:
            listener.bind((ADDRESS, 0))
            listener.listen()
            caller.settimeout(_CONNECT_S)
            caller.connect(listener.getsockname())
    except OSError as error:
        raise OSError(
            f"expected a loopback interface with the address {ADDRESS}, where the processes of a "
            f"job meet, got: {error}. As root: `ip link set lo up`, and `ip address add "
            f"{ADDRESS}/8 dev lo` where it has no IPv4 address"
        ) from error


def handler() -> "Callable[[RendezvousParameters], LoopbackRendezvous]":
    """Return what makes the rendezvous; named in pyproject.toml, under `torchrun.handlers`."""
    return create


def _open_store(timeout: timedelta) -> "TCPStore":
    from torch._C._distributed_c10d import TCPStore

    # The store would listen on all interfaces; it takes a socket that is bound to one.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((ADDRESS, 0))
        port = listener.getsockname()[1]
        return TCPStore(
            ADDRESS,
            port,
            is_master=True,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
