"""Figures of conflict have the values that hand-made Gramians ask for."""

import logging
import math

import pytest
import torch
from torch import Tensor

from mbrec.balance import MGDA, Equal, MultiBalance
from mbrec.monitor.conflicts import ConflictWatch, conflict_figures, mean_cosines, stationarity


def gramian(*rows: list[float]) -> Tensor:
    """Return the Gramian (1, K, K) of one step's gradients."""
    rows_KH = torch.tensor(rows, dtype=torch.float64)
    return (rows_KH @ rows_KH.mT)[None]


def figures(gramian_SKK: Tensor, *weights: float) -> dict[str, float]:
    weights_SK = torch.tensor([weights or [1.0] * gramian_SKK.shape[1]], dtype=torch.float64)
    return {name: v.item() for name, v in conflict_figures(gramian_SKK, weights_SK).items()}


def test_opposed_gradients_conflict_wholly_and_are_stationary():
    found = figures(gramian([3.0, 0.0], [-1.0, 0.0]))
    assert found["share"] == 1.0
    assert found["dominance"] == 3.0
    assert found["stationarity"] == pytest.approx(0.0, abs=1e-6)
    assert found["stationarity_relative"] == pytest.approx(0.0, abs=1e-6)


def test_the_distance_of_orthogonal_gradients_is_that_of_their_hull():
    found = figures(gramian([3.0, 0.0], [0.0, 4.0]), 0.8, 0.3)
    assert found["share"] == 0.0
    assert found["dominance"] == pytest.approx(4 / 3)
    assert found["weighted_dominance"] == pytest.approx(2.4 / 1.2)
    # The height over the hypotenuse of a triangle with legs 3 and 4.
    assert found["stationarity"] == pytest.approx(12 / 5)
    assert found["stationarity_relative"] == pytest.approx(12 / 5 / 3)


def test_gradients_of_one_direction_are_as_far_as_the_smallest():
    found = figures(gramian([2.0, 0.0], [5.0, 0.0], [9.0, 1.0]))
    assert found["stationarity"] == pytest.approx(2.0)
    assert found["stationarity_relative"] == pytest.approx(1.0)


def test_the_share_counts_pairs():
    # a opposes b, c is orthogonal to a and on b's side.
    found = figures(gramian([1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]))
    assert found["share"] == pytest.approx(1 / 3)


def test_a_task_without_a_gradient_takes_no_part():
    idle = figures(gramian([1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]), 0.5, 0.5, 0.5)
    assert idle == pytest.approx(figures(gramian([1.0, 0.0], [-2.0, 0.0]), 0.5, 0.5), abs=1e-6)
    alone = figures(gramian([0.0, 0.0], [3.0, 4.0]))
    assert math.isnan(alone["share"]) and math.isnan(alone["dominance"])
    assert alone["stationarity"] == pytest.approx(5.0)
    assert all(math.isnan(value) for value in figures(torch.zeros(1, 3, 3)).values())


def test_a_weight_of_zero_has_no_ratio():
    found = figures(gramian([1.0, 0.0], [0.0, 2.0]), 1.0, 0.0)
    assert math.isnan(found["weighted_dominance"])
    assert found["dominance"] == 2.0


def test_steps_are_solved_side_by_side_as_the_min_norm_method_solves_each():
    torch.manual_seed(0)
    rows_SKH = torch.randn(40, 4, 6).double() * torch.tensor([1e-6, 1e-5, 1e-4, 1e-5])[:, None]
    rows_SKH[3, 1] = 0.0
    gramian_SKK = rows_SKH @ rows_SKH.mT
    for distance, gramian_KK in zip(stationarity(gramian_SKK), gramian_SKK, strict=True):
        weights_K = MGDA(4)(gramian_KK)
        expected = (weights_K @ gramian_KK @ weights_K).clamp_min(0).sqrt()
        assert distance.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-12)


def test_mean_cosines_leave_out_steps_in_which_a_task_is_idle():
    steps = [gramian([2.0, 0.0], [1.0, 0.0]), gramian([1.0, 0.0], [0.0, 0.0])]
    steps.append(gramian([1.0, 0.0], [0.0, 3.0]))
    mean_KK = mean_cosines(torch.cat(steps))
    assert mean_KK.flatten().tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0])


EVERY = 4
EVEN = gramian([1.0, 0.0], [0.0, 1.0])


def watch(
    watched: ConflictWatch, weights: list[list[float]], gramian_1KK: Tensor = EVEN
) -> float | None:
    weights_SK = torch.tensor(weights, dtype=torch.float64)
    watched.update(gramian_1KK.expand(len(weights_SK), -1, -1), weights_SK)
    return watched.vertex().get("conflict/vertex")


@pytest.fixture
def watched() -> ConflictWatch:
    balancer = MultiBalance(2, lr=0.7, prior_strength=0.4, prior_in_output=False)
    return ConflictWatch(["ctr", "like"], balancer, every=EVERY)


def test_a_whole_window_on_a_vertex_warns_once_of_the_task_and_names_the_remedy(watched, caplog):
    on, off = [0.0, 1.0], [0.5, 0.5]
    with caplog.at_level(logging.WARNING):
        assert watch(watched, [on, on]) == 1.0
        assert watch(watched, [off, on, on, on]) == 0.75
        assert caplog.records == []
        # The window goes on over writings.
        assert watch(watched, [on]) == 1.0
        assert watch(watched, [on] * EVERY) == 1.0
    (record,) = caplog.records
    remedies = ("balancer.lr (0.7)", "prior_strength (0.4)", "balancer.prior_in_output=true")
    for part in ("'like'", "99%", f"{EVERY} steps", *remedies):
        assert part in record.getMessage()
    with caplog.at_level(logging.WARNING):
        assert watch(watched, [[1.0, 0.001]] * EVERY) == 1.0
    assert "'ctr'" in caplog.records[1].getMessage()


def test_a_task_that_gets_no_weight_is_told_where_the_others_share_it(caplog):
    watched = ConflictWatch(["a", "b", "c"], MGDA(3), every=EVERY)
    three = torch.eye(3, dtype=torch.float64)[None]
    with caplog.at_level(logging.WARNING):
        assert watch(watched, [[0.5, 1e-5, 0.5]] * EVERY, three) == 1.0
    (record,) = caplog.records
    assert "'b'" in record.getMessage() and "take another balancer" in record.getMessage()


def test_a_step_in_which_a_task_is_idle_does_not_end_its_window(watched, caplog):
    with caplog.at_level(logging.WARNING):
        watch(watched, [[1.0, 0.0]] * (EVERY - 1))
        assert watch(watched, [[1.0, 0.0]], gramian([1.0, 0.0], [0.0, 0.0])) == 0.75
    assert [r.getMessage().split("'")[1] for r in caplog.records] == ["ctr"]


def test_large_weights_of_small_gradients_are_no_vertex(watched, caplog):
    # Both weighted norms are 1: this is what evens out norms.
    with caplog.at_level(logging.WARNING):
        assert watch(watched, [[1e3, 1.0]] * EVERY, gramian([1e-3, 0.0], [0.0, 1.0])) == 0.0
    assert caplog.records == []


def test_constant_weights_are_never_on_a_vertex(caplog):
    watched = ConflictWatch(["a", "b"], Equal(2), every=EVERY)
    assert watch(watched, [[0.0, 1.0]] * EVERY) is None
    assert caplog.records == []


def test_there_is_a_picture_once_the_window_is_full(watched):
    watch(watched, [[0.5, 0.5]] * (EVERY - 1))
    assert watched.cosines() is None
    watch(watched, [[0.5, 0.5]])
    cosines_KK = watched.cosines()
    assert cosines_KK is not None and torch.equal(cosines_KK, torch.eye(2).double())
