"""Figure 2 c-e: gradient norms, task weights and weighted norms over the steps of a run."""

from collections.abc import Sequence

from mbrec.study.benchmark import EQUAL, job
from mbrec.study.gains import EXPLODED
from mbrec.study.jobs import Job
from mbrec.study.pages import Table
from mbrec.study.report import events, plots
from mbrec.study.report.findings import late_medians
from research.paper import printed as paper
from research.paper.page import Page, Part
from research.paper.runs import DEFAULTS, Runs, multibalance

PANELS = {
    "weight": "(d) task weight",
    "effective_weight": "(d) weight as merged",
    "grad_norm": "(c) gradient magnitude",
    "weighted_norm": "(e) weighted gradient magnitude",
}


SETTINGS = [multibalance(paper.ADS_RATE), DEFAULTS, EQUAL]


def jobs(runs: Runs) -> list[Job]:
    """Return the runs of the figure."""
    return [job(runs.data.ads, setting, runs.seeds[0]) for setting in SETTINGS]


def write(runs: Runs) -> Page:
    """Return the page of the figure."""
    tasks = runs.data.ads.tasks
    columns = [f"{title}, {task}" for title in PANELS.values() for task in tasks]
    table = Table(["Run", *columns, "largest / smallest weighted magnitude"])
    pictures = {}
    for setting, run in zip(SETTINGS, jobs(runs), strict=True):
        if runs.results[run].reason:
            table.add(setting.name, *[EXPLODED] * (len(table.columns) - 1))
            continue
        found = events.read(runs.folder / run.folder / "tensorboard")
        pictures[setting.name] = plots.draw(plots.balance_panels(found, tasks))
        table.add(setting.name, *_late(found, tasks))
    printed = [f"{paper.WEIGHTS[task]:g}" for task in tasks]
    # The paper prints magnitudes as curves only.
    table.add("paper (MultiBalance, text)", *printed, *[""] * (3 * len(tasks)), "")
    notes = [
        f"Medians over the later half of one run each on {runs.data.ads.label}. MultiBalance is "
        f"the paper's reading with its rate for ads, {paper.ADS_RATE:g}.",
        "The paper: CTR's magnitude is much larger than the others' and dominates (c); it gets the "
        "lower weight (d); the weighted magnitudes are more alike (e).",
        "Equal weights are a weight of 1 for each task, so the last column is there the imbalance "
        "that balancing starts from.",
        "The task weight is w, what the update gives. As merged, it stands on the gradient: with "
        "the prior where that is merged (mbrec's defaults), with the scale of the averages where "
        "they rescale the gradients (the paper's reading). Step by step (e) is (c) times that.",
    ]
    title = "Figure 2 c-e: what MultiBalance does"
    main = pictures.pop(SETTINGS[0].name, None)
    return Page("figure2", title, table, main, notes, further=pictures)


def _late(found: events.Events, tasks: Sequence[str]) -> list[str]:
    """Return the medians over the later half of the steps, and how far the last are apart."""
    late = {tag: late_medians(found.by_task(tag, tasks)) for tag in PANELS}
    # A method whose own weights are merged has them in one place.
    late["effective_weight"] = late["effective_weight"] or late["weight"]
    cells = [
        f"{by_task[task]:.4g}" if task in by_task else "-"
        for by_task in late.values()
        for task in tasks
    ]
    weighted = late["weighted_norm"].values()
    smallest = min(weighted, default=0.0)
    return [*cells, f"{max(weighted) / smallest:.2f}" if smallest > 0 else "-"]


PART = Part(write, jobs)
