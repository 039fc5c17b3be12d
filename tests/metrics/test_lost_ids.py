from typing import Any

import pytest
import torch
from ranks import run_ranks

from mbrec.metrics import lost_ids
from mbrec.metrics.lost_ids import LostIds

CPU = torch.device("cpu")


def counts(*pairs: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(pairs, dtype=torch.float64).T


def test_fraction_is_of_all_ids_since_the_last_time() -> None:
    ids = LostIds(["city", "item"], device=CPU)
    ids.update(counts((1, 4), (0, 8)))
    ids.update(counts((2, 8), (3, 4)))
    assert ids.compute() == {"city": 3 / 12, "item": 3 / 12}
    ids.update(counts((1, 1), (0, 5)))
    assert ids.compute() == {"city": 1.0, "item": 0.0}


def test_feature_without_ids_has_no_fraction() -> None:
    ids = LostIds(["tags", "item"], device=CPU)
    assert ids.compute() == {}
    ids.update(counts((0, 0), (1, 2)))
    assert ids.compute() == {"item": 0.5}


def test_large_counts_are_exact() -> None:
    ids = LostIds(["item"], device=CPU)
    for _ in range(3):
        ids.update(counts((1, 2**40)))
    assert ids.compute() == {"item": 3 / (3 * 2**40)}


def test_without_features_there_is_nothing_and_no_collective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("expected no collective")

    monkeypatch.setattr(lost_ids, "sum_over_ranks", never)
    ids = LostIds([], device=CPU)
    ids.update(None)
    assert ids.compute() == {}


def on_rank() -> list[dict[str, float]]:
    import torch.distributed as dist

    rank = dist.get_rank()
    ids, found = LostIds(["city", "item"], device=CPU), []
    # Rank 0 has more steps, and only rank 1 has cities.
    for _ in range(2 - rank):
        ids.update(counts((0, 0), (1, 4)) if rank == 0 else counts((1, 5), (2, 2)))
    found.append(ids.compute())
    ids.update(counts((rank, 2), (0, 1)))
    found.append(ids.compute())
    # A rank may ask alone for nothing.
    if rank == 0:
        found.append(LostIds([], device=CPU).compute())
    return found


def test_ranks_are_counted_together(tmp_path) -> None:
    first, second = run_ranks(on_rank, 2, tmp_path)
    assert first[:2] == second
    assert second == [{"city": 0.2, "item": 0.4}, {"city": 0.25, "item": 0.0}]
    assert first[2] == {}
