"""Table 4: the learning rate of MultiBalance's weights on the two feeds data sets."""

from math import sqrt

from mbrec.balance import MultiBalance
from mbrec.study.benchmark import EQUAL, Setting
from mbrec.study.estimate import median_detectable
from mbrec.study.gains import Gains as Contrast
from mbrec.study.jobs import Job
from mbrec.study.pages import Table
from mbrec.study.plots import gain_bars
from research.paper import printed as paper
from research.paper.page import Page
from research.paper.runs import Lab
from research.paper.worlds import multibalance

# The smallest is our default, at batches that are far smaller than the paper's.
RATES = (0.1, *paper.RATES)
# Of each of the feeds data sets.
NUM_TASKS = 4


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
    panels: dict[str, dict[str, Contrast]] = {world.label: {} for world in feeds}
    for rate, setting in zip(RATES, _settings(), strict=True):
        cells = [f"learning rate = {rate:.1f}"]
        for world, printed in zip(feeds, paper.RATES.get(rate, (None, None)), strict=True):
            found = lab.gain(world, setting)
            panels[world.label][f"learning rate {rate:g}"] = found
            cells += [found.text(), "" if printed is None else f"{printed:+.2f}"]
        table.add(*cells)
    averages = [[found.average for found in panel.values()] for panel in panels.values()]
    least = [median_detectable(one for one in panel if one) for panel in averages]
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
        f"Beyond a rate of {_limit(cosine=0.0):.1f} with orthogonal gradients, of "
        f"{_limit(cosine=0.3):.1f} with cosines of .3 and of {_limit(cosine=0.5):.1f} with .5, "
        f"{NUM_TASKS} tasks of equal norms have no stable weights: they jump between tasks. "
        "Other batches than the paper's have other cosines, and other noise.",
    ]
    return Page("table4", "Table 4: impact of the learning rate", table, picture, notes)


def _limit(cosine: float) -> float:
    """Return the largest rate at which the weights of equally long gradients settle.

    Args:
        cosine: of each pair of gradients.
    """
    lam = MultiBalance(num_tasks=NUM_TASKS).prior_strength
    # Around equal weights the update is linear, with the slope kappa; it converges below 2 / kappa.
    length = sqrt((1 - cosine) / NUM_TASKS + cosine)
    return 2 * (1 + lam) * length / (1 - cosine)
