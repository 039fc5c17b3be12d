"""What rank 0 reads, or why it cannot, is the same on every rank."""

from typing import Any

import pytest
import torch.distributed as dist

from mbrec.distributed.rank_0 import from_rank_0


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What rank 0 has broadcast; the ranks are run one after another."""
    told: list[Any] = []

    def broadcast(objects: list[Any], src: int) -> None:
        assert src == 0
        if dist.get_rank() == 0:
            told[:] = objects
        objects[:] = told

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    return told


def on_rank(rank: int, read: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    return from_rank_0(read)


def fail() -> Any:
    raise ValueError("a.parquet: expected rows, got none")


def test_every_rank_has_what_the_first_one_reads(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert on_rank(0, lambda: {"a": 1}, monkeypatch) == {"a": 1}
    assert on_rank(1, fail, monkeypatch) == {"a": 1}, "expected no other rank to read"
    assert len(sent) == 1


def test_every_rank_is_refused_what_the_first_one_cannot_read(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1):
        with pytest.raises(ValueError, match=r"^a.parquet: expected rows, got none$"):
            on_rank(rank, fail if rank == 0 else dict, monkeypatch)
    assert len(sent) == 1


def test_one_process_without_a_group_reads_by_itself() -> None:
    assert from_rank_0(lambda: 3) == 3
