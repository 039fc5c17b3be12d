"""The pictures show every method, and what has no number by name."""

from mbrec.study.gains import compared
from mbrec.study.plots import gain_bars, pareto

BASE = {"ctr": [0.9, 0.91], "cvr": [0.9, 0.92]}
BETTER = compared(BASE, {"ctr": [0.89, 0.90], "cvr": [0.9, 0.91]})
LOST = compared(BASE, {"ctr": [0.89, float("nan")], "cvr": [0.9, float("nan")]})
ONE = compared({"ctr": [0.9], "cvr": [0.9]}, {"ctr": [0.8], "cvr": [0.9]})


def test_every_method_has_a_row_and_an_explosion_its_word():
    panels = {"A": {"mgda": BETTER, "gradvac": LOST}, "B": {"mgda": ONE}}
    figure = gain_bars(panels, "title", published={"A": {"mgda": 0.4, "unknown": 1.0}})
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["mgda", "gradvac"]
    assert [text.get_text() for text in first.texts] == ["NEX"]
    marks = [line for line in first.lines if line.get_label() == "average in the paper"]
    assert [list(line.get_xdata()) for line in marks] == [[0.4]]
    assert not second.texts
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["average", "average in the paper", "ctr", "cvr"]
    figure.canvas.draw()


def test_a_method_that_no_other_beats_on_both_tasks_is_on_the_front():
    points = {
        "best": {"ctr": 1.0, "cvr": 1.0},
        "beaten": {"ctr": 0.5, "cvr": 0.5},
        "other": {"ctr": 2.0, "cvr": -1.0},
    }
    figure = pareto(points, "title", "gain")
    sizes = {line.get_label(): line.get_markersize() for line in figure.axes[0].lines}
    assert sizes["best"] == sizes["other"] > sizes["beaten"]


def test_two_methods_that_did_the_same_are_both_on_the_front():
    points = {name: {"ctr": 1.0, "cvr": 1.0} for name in ("a", "b")} | {"c": {"ctr": 0, "cvr": 0}}
    figure = pareto(points, "title", "gain")
    sizes = {line.get_label(): line.get_markersize() for line in figure.axes[0].lines}
    assert sizes["a"] == sizes["b"] > sizes["c"]
