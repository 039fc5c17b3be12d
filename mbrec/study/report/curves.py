"""The sections with what every run writes: losses, NE, speed, guards, unknown ids."""

from collections.abc import Mapping, Sequence

import numpy as np

from mbrec.study.report import markup, plots
from mbrec.study.report.events import BLOCKS, MOST_POINTS, Line
from mbrec.study.report.findings import figure, of_evaluations, of_losses
from mbrec.study.report.markup import Section
from mbrec.study.report.plots import Panel
from mbrec.study.report.run_folder import Run

_THINNED = (
    f"Faint: every step, of more than {MOST_POINTS:,} the least and the greatest of each stretch. "
    "Bold: the median (of shares, the mean) of each fiftieth of the steps."
)
_CUT = "A vertical axis that lines leave at the top fits their later half."


def picture(panels: Sequence[Panel], alt: str, *, height: float = 3.4) -> str:
    """Return a picture of panels, with a caption that says what was left out of it."""
    drawn = plots.draw(panels, height=height)
    width, height = drawn.get_size_inches()
    noisy = any(len(line) > 2 * BLOCKS for p in panels if p.noisy for line in p.lines.values())
    cut = any(panel.lines and panel.is_cut for panel in panels)
    told = [text for text, holds in {_THINNED: noisy, _CUT: cut}.items() if holds]
    return markup.picture(plots.png(drawn), (width, height), alt, " ".join(told))


def losses(run: Run) -> Section | None:
    """Return the losses of the training rows."""
    lines = run.events.by_task("loss", run.tasks)
    if not lines:
        return None
    panel = Panel("loss of the training rows, by task", lines, from_zero=True, noisy=True)
    return Section(
        "loss",
        "Loss",
        [
            markup.how(
                "Each task's loss in each step. Levels of different tasks are not comparable: a "
                "rare task has a small loss, and so has the last step of an epoch, which may have "
                "few rows. A rise over many steps means that the learning rates are too large."
            ),
            markup.findings(of_losses(run.events.lines.get("loss"))),
            picture([panel], f"Loss of {', '.join(lines)} over the steps"),
        ],
    )


def entropies(run: Run) -> Section | None:
    """Return NE over the steps, in training and evaluation."""
    train = run.events.by_task("train_ne", run.tasks)
    evaluation = run.events.by_task("evaluation_ne", run.tasks)
    panels = [
        Panel("NE of the training rows", train, level=1.0, late=True),
        Panel("NE of the evaluation rows", evaluation, level=1.0, late=True),
    ]
    if not train and not evaluation:
        return None
    return Section(
        "ne",
        "Normalised entropy (NE)",
        [
            markup.how(
                "Log loss over the entropy of the rate: lower is better, and the dashed 1 is a "
                "constant. Training NE is of the rows between two writings, before the model has "
                "learned from them. Evaluation NE that rises while training NE falls is "
                "overfitting."
            ),
            markup.findings(of_evaluations(evaluation)),
            picture(panels, f"NE of {', '.join(train or evaluation)} over the steps"),
        ],
    )


def speed(run: Run) -> Section | None:
    """Return the throughput and the learning rates."""
    lines = run.events.lines
    rows = {"rows per second": lines["rows_per_second"]} if "rows_per_second" in lines else {}
    rates = run.events.below("learning_rate")
    if not rows and not rates:
        return None
    said = [
        f"The learning rate of {name} ended at {figure(float(line.values[-1]))}."
        for name, line in rates.items()
    ]
    if rows:
        last = float(rows["rows per second"].values[-1])
        said.insert(0, f"The run trained at {last:,.0f} rows per second.")
    return Section(
        "speed",
        "Throughput and learning rates",
        [
            markup.how(
                "Rows per second of all ranks, from the start (or the last resume) up to each "
                "step, without evaluations and saves. The first steps are slower."
            ),
            markup.findings(said),
            picture(
                [
                    Panel("rows per second", rows, from_zero=True),
                    Panel("learning rate", rates, from_zero=True),
                ],
                "Rows per second and learning rates over the steps",
                height=2.8,
            ),
        ],
    )


def guards(run: Run) -> Section | None:
    """Return what the guards have left traces of: batches left out, spikes, roll-backs."""
    skipped = run.events.lines.get("guard/skipped")
    exploded = [name for name in run.put_aside if ".exploded" in name]
    damaged = [name for name in run.put_aside if name not in exploded]
    count = int(run.state.guard.get("skipped", 0)) if run.state else 0
    count = max(count, int(skipped.values.max()) if skipped else 0)
    warned, said = [], []
    if count:
        warned.append(f"{count:,} batches with values that are not finite were left out.")
    if exploded:
        warned.append(f"Training exploded: {', '.join(exploded)} may be spoilt and were put aside.")
    if damaged:
        warned.append(f"These checkpoints did not verify and were put aside: {', '.join(damaged)}.")
    total = run.events.lines.get("loss")
    if total is not None and (found := peak(total)) is not None:
        said.append(found)
    if not warned and not said:
        return None
    body = [
        markup.how(
            "No value that is not finite reaches a parameter. A task's loss of guard.factor (here "
            f"{run.setting('guard.factor')}) times that of predicting the label rate, in "
            f"guard.patience ({run.setting('guard.patience')}) steps, is an explosion "
            f"(guard.explosion={run.setting('guard.explosion')}). The checkpoints that it "
            "quarantined show a roll-back."
        ),
        markup.warnings(warned),
        markup.findings(said if said or count else ["No batch was left out."]),
    ]
    if skipped and len(skipped) > 1:
        panel = Panel("batches left out so far", {"left out": skipped}, from_zero=True)
        body.append(picture([panel], "Batches left out, over the steps", height=2.4))
    return Section("guards", "Guards", body)


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


def unknown(run: Run) -> Section | None:
    """Return the shares of ids outside the vocabularies."""
    return _lost(
        run,
        "out_of_vocabulary",
        ("unknown", "Ids outside the vocabularies"),
        "The share of ids that have no row of their own in the table and share one. A large share "
        "in the evaluation means that the model knows little of these rows; a rising one, that the "
        "vocabulary grows old.",
        "unknown",
    )


def truncated(run: Run) -> Section | None:
    """Return the shares of ids that were cut off lists."""
    return _lost(
        run,
        "truncated",
        ("truncated", "Ids cut off lists"),
        "The share of ids that the model does not see, because their lists are longer than "
        "max_length. Which of a list are kept is set by keep: first or last.",
        "cut off",
    )


def _lost(run: Run, figure: str, names: tuple[str, str], about: str, what: str) -> Section | None:
    """Return a section with the shares of ids that the model does not see for one reason."""
    train, evaluation = run.events.below(figure), run.events.below(f"evaluation_{figure}")
    if not train and not evaluation:
        return None
    panels = [
        Panel("in the training rows", train, from_zero=True, noisy=True),
        Panel("in the evaluation rows", evaluation, from_zero=True),
    ]
    return Section(
        *names,
        [
            markup.how(about),
            markup.findings(_shares(train, evaluation, what)),
            picture(panels, f"Shares of {what} ids over the steps", height=2.8),
        ],
    )


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
