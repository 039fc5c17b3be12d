"""The views of what every run writes: losses, NE, speed, guards, lost ids."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbrec.study.report.events import Line
from mbrec.study.report.findings import figure, of_evaluations, of_losses
from mbrec.study.report.plots import Panel, picture
from mbrec.study.report.run_folder import Run


def losses(run: Run) -> dict[str, Any] | None:
    """Return the losses of the training rows."""
    lines = run.events.by_task("loss", run.tasks)
    if not lines:
        return None
    panel = Panel("loss of the training rows, by task", lines, from_zero=True, noisy=True)
    return {
        "findings": of_losses(run.events.lines.get("loss")),
        "picture": picture([panel], f"Loss of {', '.join(lines)} over the steps"),
    }


def entropies(run: Run) -> dict[str, Any] | None:
    """Return NE over the steps, in training and evaluation."""
    train = run.events.by_task("train_ne", run.tasks)
    evaluation = run.events.by_task("evaluation_ne", run.tasks)
    if not train and not evaluation:
        return None
    panels = [
        Panel("NE of the training rows", train, level=1.0, late=True),
        Panel("NE of the evaluation rows", evaluation, level=1.0, late=True),
    ]
    return {
        "findings": of_evaluations(evaluation),
        "picture": picture(panels, f"NE of {', '.join(train or evaluation)} over the steps"),
    }


def speed(run: Run) -> dict[str, Any] | None:
    """Return the throughput and the learning rates."""
    lines = run.events.lines
    rows = {"rows per second": lines["rows_per_second"]} if "rows_per_second" in lines else {}
    rates = run.events.below("learning_rate")
    if not rows and not rates:
        return None
    said = [
        f"The run trained at {float(line.values[-1]):,.0f} rows per second."
        for line in rows.values()
    ]
    said += [
        f"The learning rate of {name} ended at {figure(float(line.values[-1]))}."
        for name, line in rates.items()
    ]
    panels = [
        Panel("rows per second", rows, from_zero=True),
        Panel("learning rate", rates, from_zero=True),
    ]
    alt = "Rows per second and learning rates over the steps"
    return {"findings": said, "picture": picture(panels, alt, height=2.8)}


def guards(run: Run) -> dict[str, Any] | None:
    """Return the traces of the guards: batches left out, spikes, roll-backs."""
    skipped = run.events.lines.get("guard/skipped")
    exploded = [name for name in run.put_aside if ".exploded" in name]
    damaged = [name for name in run.put_aside if name not in exploded]
    count = int(run.state.guard.get("skipped", 0)) if run.state else 0
    count = max(count, int(skipped.values.max()) if skipped else 0)
    warned = []
    if count:
        warned.append(f"{count:,} batches with values that are not finite were left out.")
    if exploded:
        warned.append(f"Training exploded: {', '.join(exploded)} may be spoilt and were put aside.")
    if damaged:
        warned.append(f"These checkpoints did not verify and were put aside: {', '.join(damaged)}.")
    total = run.events.lines.get("loss")
    highest = None if total is None else peak(total)
    if not warned and highest is None:
        return None
    settings = ("factor", "patience", "explosion")
    drawn = None
    if skipped and len(skipped) > 1:
        panel = Panel("batches left out so far", {"left out": skipped}, from_zero=True)
        drawn = picture([panel], "Batches left out, over the steps", height=2.4)
    return {
        "guard": {name: run.setting(f"guard.{name}") for name in settings},
        "warnings": warned,
        "findings": [highest] if highest else [] if count else ["No batch was left out."],
        "picture": drawn,
    }


def peak(total: Line, window: int = 100) -> str | None:
    """Return how far the loss ever rose above the median of the steps before, or None.

    Args:
        total: the summed loss.
        window: steps that the median is of.
    """
    if len(total) < 40:
        return None
    # Of long runs a median every few steps will do.
    at = np.unique(np.linspace(20, len(total) - 1, 2000).astype(int))
    worst, where = 0.0, 0
    for start, stop in zip(at, [*at[1:], len(total)], strict=True):
        median = float(np.median(total.values[max(0, start - window) : start]))
        highest = int(start + total.values[start:stop].argmax())
        if median > 0 and total.values[highest] / median > worst:
            worst, where = float(total.values[highest]) / median, highest
    if not worst:
        return None
    return (
        f"The highest loss was {figure(worst)} times the median of up to {window} steps before, in "
        f"step {total.steps[where]:,}."
    )


def lost(run: Run, kind: str, word: str) -> dict[str, Any] | None:
    """Return the shares of ids that the model does not see for one reason.

    Args:
        run: the run.
        kind: the reason: a tag.
        word: for the ids that it loses.
    """
    train, evaluation = run.events.below(kind), run.events.below(f"evaluation_{kind}")
    if not train and not evaluation:
        return None
    panels = [
        Panel("in the training rows", train, from_zero=True, noisy=True),
        Panel("in the evaluation rows", evaluation, from_zero=True),
    ]
    return {
        "findings": _shares(train, evaluation, word),
        "picture": picture(panels, f"Shares of {word} ids over the steps", height=2.8),
    }


def _shares(train: Mapping[str, Line], evaluation: Mapping[str, Line], what: str) -> list[str]:
    said = []
    for name in dict.fromkeys([*evaluation, *train]):
        parts = [
            f"{100 * lines[name].values[-1]:.2f} % of the {kind} rows' ids"
            for kind, lines in (("last training", train), ("evaluation", evaluation))
            if name in lines
        ]
        said.append(f"{name}: {' and '.join(parts)} were {what}.")
    return said
