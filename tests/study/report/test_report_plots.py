"""The pictures, read off the figures and not off their pixels."""

import numpy as np
from made_runs import TASKS, make_run

from mbrec.study.report import plots
from mbrec.study.report.events import Line
from mbrec.study.report.plots import Panel
from mbrec.study.report.run_folder import load


def line(values):
    return Line(np.arange(1, len(values) + 1), np.asarray(values, dtype=float))


def names(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_panels_of_figure_2_hold_the_figures_of_the_run(tmp_path):
    run = load(make_run(tmp_path / "run"))
    figure = plots.draw(plots.balance_panels(run.events, run.tasks))
    assert [axes.get_title() for axes in figure.axes] == list(plots.BALANCE_PANELS.values())
    assert names(figure) == list(TASKS)
    for axes, tag in zip(figure.axes, plots.BALANCE_PANELS, strict=True):
        for drawn, task in zip(axes.lines, TASKS, strict=True):
            written = run.events.lines[f"{tag}/{task}"]
            assert np.array_equal(drawn.get_xdata(), written.steps)
            assert np.array_equal(drawn.get_ydata(), written.values)


def test_a_task_has_one_colour_in_all_panels():
    first = Panel("first", {"a": line([1, 2]), "b": line([1, 2])})
    second = Panel("second", {"b": line([1, 2]), "c": line([1, 2])})
    figure = plots.draw([first, second])
    one, two = figure.axes[0].lines[1], figure.axes[1].lines[0]
    assert one.get_color() == two.get_color()
    assert names(figure) == ["a", "b", "c"]


def test_a_long_noisy_line_shows_its_spike_faintly_and_its_median_boldly():
    values = np.full(50_000, 2.0)
    values[33_333] = 9.0
    (axes,) = plots.draw([Panel("loss", {"ctr": line(values)}, noisy=True)]).axes
    faint, bold = axes.lines
    assert (len(faint.get_ydata()) <= 1000, max(faint.get_ydata())) == (True, 9.0)
    assert set(bold.get_ydata()) == {2.0}
    assert bold.get_linewidth() > faint.get_linewidth()


def test_an_explosion_is_drawn_on_an_axis_of_magnitudes():
    calm, loud = np.full(100, 2.0), np.full(100, 2.0)
    loud[-3:] = 1e6
    scales = [
        plots.draw([Panel("loss", {"ctr": line(v)})]).axes[0].get_yscale() for v in (calm, loud)
    ]
    assert scales == ["linear", "log"]


def test_the_start_of_a_line_may_be_cut_off_to_see_its_end():
    values = np.concatenate([[20.0], np.full(20, 0.9)])
    panel = Panel("NE", {"ctr": line(values)}, level=1.0, late=True)
    low, high = plots.draw([panel]).axes[0].get_ylim()
    assert panel.is_cut
    assert 0.8 < low < 0.9 and 1.0 < high < 1.1
    assert not Panel("NE", {"ctr": line(values[1:])}, level=1.0, late=True).is_cut


def test_names_that_would_look_the_same_are_numbered_and_none_is_hidden():
    lines = {name: line([1, 2]) for name in ("日本", "中文", "_x", "$a$", "b" * 90)}
    figure = plots.draw([Panel("loss", lines)])
    shown = names(figure)
    assert shown[:4] == ["?? (1)", "?? (2)", " _x", r"\$a\$"]
    assert len(shown[4]) == 40
    # A character that the font lacks would be a warning, and so an error here.
    assert plots.png(figure).startswith(b"\x89PNG")
