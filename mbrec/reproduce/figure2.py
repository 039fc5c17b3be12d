"""Figure 2 c-e: gradient norms, task weights and weighted norms over the steps of a run."""

import numpy as np

from mbrec.report import events, plots
from mbrec.reproduce import paper
from mbrec.reproduce.lab import Lab
from mbrec.reproduce.page import Page
from mbrec.reproduce.worlds import DEFAULTS, multibalance
from mbrec.study.jobs import Job
from mbrec.study.pages import Table
from mbrec.study.worlds import EQUAL, Setting, job

PANELS = {
    "weight": "(d) task weight",
    "grad_norm": "(c) gradient magnitude",
    "weighted_norm": "(e) weighted gradient magnitude",
}


def _settings() -> list[Setting]:
    return [multibalance(paper.ADS_RATE), DEFAULTS, EQUAL]


def tuning_jobs(lab: Lab) -> list[Job]:
    """Return nothing: no setting is chosen."""
    return []


def jobs(lab: Lab) -> list[Job]:
    """Return the runs of the figure."""
    return [job(lab.worlds.ads, setting, lab.seeds[0]) for setting in _settings()]


def write(lab: Lab) -> Page:
    """Return the page of the figure."""
    tasks = lab.worlds.ads.tasks
    columns = [f"{title}, {task}" for title in PANELS.values() for task in tasks]
    table = Table(["Run", *columns, "largest / smallest weighted magnitude"])
    pictures = {}
    for setting in _settings():
        run = lab.folder / job(lab.worlds.ads, setting, lab.seeds[0]).folder
        found = events.read(run / "tensorboard")
        pictures[setting.name] = plots.draw(plots.balance_panels(found, tasks))
        lines = {tag: found.by_task(tag, tasks) for tag in PANELS}
        late = {
            tag: [float(np.median(by[t].last_half)) for t in tasks] for tag, by in lines.items()
        }
        weighted = late["weighted_norm"]
        cells = [f"{value:.4g}" for values in late.values() for value in values]
        table.add(setting.name, *cells, f"{max(weighted) / min(weighted):.2f}")
    printed = [f"{paper.WEIGHTS[task]:g}" for task in tasks]
    # The paper prints magnitudes as curves only.
    table.add("paper (MultiBalance, text)", *printed, *[""] * (2 * len(tasks)), "")
    main, *others = pictures
    notes = [
        f"Medians over the later half of one run each on {lab.worlds.ads.label}. MultiBalance is "
        f"the paper's reading with its rate for ads, {paper.ADS_RATE:g}.",
        "The paper: CTR's magnitude is much larger than the others' and dominates (c); it gets the "
        "lower weight (d); the weighted magnitudes are more alike (e).",
        "Equal weights are a weight of 1 for each task, so the last column is there the imbalance "
        "that balancing starts from.",
    ]
    page = Page("figure2", "Figure 2 c-e: what MultiBalance does", table, pictures[main], notes)
    page.further = {name: pictures[name] for name in others}
    return page
