"""Which errors are of a collective is told by their place: real ones of gloo, and what looks so."""

from typing import Any

import pytest
import torch
from ranks import run_ranks

GLOO = "[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"


class Misleading(torch.autograd.Function):
    """Fails in backward by itself, with the text of a collective."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(GLOO)


def kinds(left: str) -> dict[str, Any]:
    """On rank 0, what is said of errors after rank 1 has left: name -> (text, verdict)."""
    import time
    from datetime import timedelta
    from pathlib import Path

    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from mbrec.balance.backward.ranks import start_sum
    from mbrec.distributed import process
    from mbrec.distributed.collective_errors import is_of_collective

    runtime = process.start(timeout_s=2)
    ones = torch.ones(2)
    wrapped = DistributedDataParallel(torch.nn.Linear(2, 1))
    loss = wrapped(ones).sum()
    dist.barrier()
    if runtime.rank == 1:
        Path(left).touch()
        return {}  # and the process ends
    while not Path(left).exists():
        time.sleep(0.02)

    def misleading_backward() -> None:
        Misleading.apply(torch.ones(2, requires_grad=True)).sum().backward()

    def wrong_backward() -> None:
        value = torch.ones(2, requires_grad=True)
        doubled = value * 2
        (doubled * doubled).sum().backward()
        (doubled * doubled).sum().backward()

    def own() -> None:
        raise RuntimeError(GLOO)

    calls = {
        "all_reduce": lambda: dist.all_reduce(ones),
        "barrier": dist.barrier,
        "broadcast of objects": lambda: dist.broadcast_object_list([1], src=1),
        "gathering of objects": lambda: dist.all_gather_object([1, 2], 1),
        "a small sum": lambda: start_sum(ones)(),
        "backward": loss.backward,
        "a new group": lambda: dist.new_group(timeout=timedelta(seconds=2)),
        "own": own,
        "own, wrong shapes": lambda: torch.ones(2) + torch.ones(3),
        "own, wrong arguments": lambda: dist.all_reduce("none"),
        "own, in backward": misleading_backward,
        "own, backward twice": wrong_backward,
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            found[name] = (f"{type(error).__name__}: {error}"[:300], is_of_collective(error))
    return found | {"calls": list(calls)}


def test_the_place_tells_collectives_that_failed_from_errors_of_ones_own(tmp_path):
    found, _ = run_ranks(kinds, 2, tmp_path, str(tmp_path / "left"), group=False)
    assert list(found) == [*found["calls"], "calls"], "each call has failed"
    for name, (text, verdict) in list(found.items())[:-1]:
        assert verdict is not name.startswith("own"), (name, text)


@pytest.mark.parametrize("text", ["Timed out", "gloo", GLOO])
def test_a_text_alone_is_of_no_collective(text):
    from mbrec.distributed.collective_errors import is_of_collective

    assert not is_of_collective(RuntimeError(text))
    with pytest.raises(RuntimeError) as raised:
        raise RuntimeError(text)
    assert not is_of_collective(raised.value)
