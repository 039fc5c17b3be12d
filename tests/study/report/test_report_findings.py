"""The sentences say what the figures are, no more."""

import numpy as np
import pytest

from mbrec.study.report import findings
from mbrec.study.report.curves import peak
from mbrec.study.report.events import Events, Line


def line(*values):
    return Line(np.arange(1, len(values) + 1), np.array(values, dtype=float))


def events(**by_task):
    return Events({f"{n}/{t}": line(*v) for n, tasks in by_task.items() for t, v in tasks.items()})


def test_the_loudest_task_and_its_weight_are_medians_of_the_later_half():
    found = events(
        grad_norm={"ctr": [99, 99, 4.3, 4.3], "cvr": [1, 1, 1, 1]},
        weight={"ctr": [0.9, 0.9, 0.21, 0.21], "cvr": [0.1, 0.1, 0.79, 0.79]},
        weighted_norm={"ctr": [1, 1, 0.9, 0.9], "cvr": [1, 1, 0.79, 0.79]},
    )
    said = findings.of_balance(found, ["ctr", "cvr"], "MultiBalance")
    assert said[0] == (
        "ctr had the largest gradient norm, 4.30 times that of cvr, the smallest (medians over the "
        "later half of the steps); MultiBalance gave it the smallest weight, 0.210."
    )
    assert said[1].startswith("Weighted, the largest norm is 1.14 times the smallest")
    assert said[1].endswith("closer together.")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((0.5, 0.5, 0.5), "gave all tasks the same weight, 0.500"),
        ((0.7, 0.1, 0.2), "gave it the largest weight, 0.700"),
        ((0.3, 0.5, 0.2), "gave it a weight of 0.300; those of the others lie between 0.2"),
    ],
)
def test_the_weight_of_the_loudest_task_has_its_place(weights, said):
    tasks = ["a", "b", "c"]
    norms = {"a": [3.0], "b": [2.0], "c": [1.0]}
    found = events(grad_norm=norms, weight={t: [w] for t, w in zip(tasks, weights, strict=True)})
    assert said in findings.of_balance(found, tasks, "X")[0]


def test_tasks_that_a_balancer_drives_apart_or_ignores_are_named():
    found = events(
        grad_norm={"a": [1.0], "b": [2.0]},
        weight={"a": [0.001], "b": [0.999]},
        weighted_norm={"a": [0.001], "b": [1.998]},
    )
    said = " ".join(findings.of_balance(found, ["a", "b"], "X"))
    assert "further apart" in said
    assert "a had a weight of 0.00100" in said


def test_a_small_weight_that_evens_out_a_large_gradient_is_no_neglect():
    found = events(
        grad_norm={"a": [1000.0], "b": [1.0]},
        weight={"a": [0.001], "b": [0.999]},
        weighted_norm={"a": [1.0], "b": [0.999]},
    )
    assert "hardly learned" not in " ".join(findings.of_balance(found, ["a", "b"], "X"))


def test_a_weight_of_zero_is_no_neglect_where_the_merged_weight_is_none():
    found = events(
        grad_norm={"a": [9.0], "b": [1.0]},
        weight={"a": [0.0], "b": [1.0]},
        effective_weight={"a": [0.12], "b": [0.88]},
    )
    said = " ".join(findings.of_balance(found, ["a", "b"], "X"))
    assert "hardly learned" not in said
    assert "smallest weight, 0.12" in said


def test_one_task_and_a_silent_task_have_no_ratio():
    one = findings.of_balance(events(grad_norm={"a": [1.0]}), ["a"], "X")
    assert one == ["There is one task (a), and nothing to balance."]
    silent = events(grad_norm={"a": [0.0], "b": [1.0]}, weight={"a": [0.5], "b": [0.5]})
    assert findings.of_balance(silent, ["a", "b"], "X") == [
        "a had no gradient in half of the later steps."
    ]


def test_the_most_opposed_pair_is_named_with_how_often_it_is():
    pairs = {("a", "b"): line(*[-0.3, 0.1] * 20), ("a", "c"): line(*[0.2] * 40)}
    (said,) = findings.of_cosines(pairs)
    assert said.startswith("a and b have the lowest mean cosine, -0.100; it is negative in 50 %")
    assert "1 of 2 pairs" in said
    (calm,) = findings.of_cosines({("a", "c"): line(*[0.2] * 40)})
    assert calm.endswith("No pair's mean is below zero by more than its noise.")


def test_a_mean_cosine_below_zero_by_less_than_its_noise_is_no_conflict():
    noise = np.random.default_rng(0).normal(0, 0.1, 400)
    noise -= noise.mean()
    (said,) = findings.of_cosines({("a", "b"): line(*noise - 1e-3)})
    assert "mean cosine, -0.001" in said
    assert said.endswith("No pair's mean is below zero by more than its noise.")
    (said,) = findings.of_cosines({("a", "b"): line(*noise - 0.05)})
    assert "1 of 1 pairs" in said
    (few,) = findings.of_cosines({("a", "b"): line(-0.5, -0.5)})
    assert few.endswith("too few steps to tell it from noise.")


def test_results_that_need_a_second_look_are_named():
    good = {"ne": 0.9, "calibration": 1.05, "rate": 0.5, "count": 10_000.0}
    bad = {"ne": 1.02, "calibration": 0.7, "rate": 0.001, "count": 10_000.0}
    useless, biased, rare = findings.of_results({"fine": good, "rare": bad})
    assert useless.endswith(": rare (1.0200).")
    assert biased == "Positives predicted: rare 30 % too few."
    assert rare.endswith(": rare (10).")
    assert findings.of_results({"fine": good, "unknown": {}}) == []


def test_a_task_that_was_better_before_the_end_is_named():
    (said,) = findings.of_evaluations({"ctr": line(0.9, 0.8, 0.84, 0.84), "cvr": line(0.9, 0.8)})
    assert "ctr after step 2 (NE 0.8000, at the end 5.00 % more)" in said
    assert "cvr" not in said


def test_losses_fall_or_rise_from_the_first_tenth_to_the_last():
    assert (
        "fell by 50.0 %, from 2.00 to 1.00" in findings.of_losses(line(*np.repeat([2, 1], 20)))[0]
    )
    assert "rose by 100.0 %" in findings.of_losses(line(*np.repeat([1, 2], 20)))[0]
    assert findings.of_losses(line(1, 2)) == []


def test_a_spike_of_the_loss_is_found_with_its_step():
    values = np.full(10_000, 0.5)
    values[[3, 6_789]] = 100.0, 4.0
    assert peak(line(*values)) == (
        "The highest loss was 8.00 times the median of up to 100 steps before, in step 6,790."
    )
    assert peak(line(*values[:30])) is None
