"""Table 4: the learning rate of MultiBalance's weights on the two feeds data sets."""

from statistics import median

from mbrec.reproduce import paper
from mbrec.reproduce.lab import Lab
from mbrec.reproduce.page import Page
from mbrec.reproduce.worlds import multibalance
from mbrec.study.jobs import Job
from mbrec.study.pages import Table
from mbrec.study.plots import gain_bars
from mbrec.study.worlds import EQUAL, Setting

# The smallest is our default, at batches that are far smaller than the paper's.
RATES = (0.1, *paper.RATES)


def _settings() -> list[Setting]:
    named = {paper.FEEDS_RATE: "MultiBalance"}  # the run that Table 3 has as well
    return [multibalance(rate, name=named.get(rate, f"learning rate {rate:g}")) for rate in RATES]


def tuning_jobs(lab: Lab) -> list[Job]:
    """Return nothing: no setting is chosen."""
    return []


def jobs(lab: Lab) -> list[Job]:
    """Return the runs of the table."""
    feeds = lab.worlds.all[:2]
    return [job for world in feeds for job in lab.jobs(world, [EQUAL, *_settings()])]


def write(lab: Lab) -> Page:
    """Return the page of the table."""
    feeds = lab.worlds.all[:2]
    table = Table(["Metrics (%)", "Feeds A, average", "paper", "Feeds B, average", "paper"])
    panels: dict[str, dict] = {world.label: {} for world in feeds}
    detectable = {world.label: [] for world in feeds}
    for rate, setting in zip(RATES, _settings(), strict=True):
        cells = [f"learning rate = {rate:.1f}"]
        for world, printed in zip(feeds, paper.RATES.get(rate, (None, None)), strict=True):
            found = lab.gain(world, setting)
            panels[world.label][f"learning rate {rate:g}"] = found
            if found.average is not None:
                detectable[world.label].append(found.average.detectable)
            cells += [found.text(), "" if printed is None else f"{printed:+.2f}"]
        table.add(*cells)
    least = [f"{median(values):.3f}" if values else "-" for values in detectable.values()]
    table.add("smallest detectable gain", least[0], "", least[1], "")
    published = {
        world.label: {f"learning rate {rate:g}": row[place] for rate, row in paper.RATES.items()}
        for place, world in enumerate(feeds)
    }
    title = "Table 4: NE gain over equal weights by the learning rate of the weights"
    picture = gain_bars(panels, title, published=published)
    notes = [
        "Average NE gain of all tasks in per cent over equal weights, mean over seeds ± half a "
        "95 % interval; a star: the interval leaves zero out. `balancer=multibalance_paper`.",
        "The smallest detectable gain is the median over the rates.",
        "The cosine update is stable at a symmetric point only up to a rate of some 2 to 6, "
        "depending on how alike the gradients are; beyond, the weights jump between tasks. The "
        "paper's rates go with much larger batches.",
    ]
    return Page("table4", "Table 4: impact of the learning rate", table, picture, notes)
