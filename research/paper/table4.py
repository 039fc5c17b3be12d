"""Table 4: the learning rate of MultiBalance's weights on the two feeds data sets."""

from math import sqrt

from mbrec.balance import MultiBalance
from mbrec.study.benchmark import EQUAL, Setting
from mbrec.study.jobs import Job
from research.paper import printed as paper
from research.paper.data_sets import FEEDS
from research.paper.gains import Column, Row, gain_table, picture
from research.paper.page import Page, Part
from research.paper.runs import Runs, multibalance

# The smallest is our default, at batches that are far smaller than the paper's.
RATES = (0.1, *paper.RATES)


def _settings() -> dict[float, Setting]:
    named = {paper.FEEDS_RATE: "MultiBalance"}  # the run that Table 3 has as well
    return {r: multibalance(r, name=named.get(r, f"learning rate {r:g}")) for r in RATES}


def jobs(runs: Runs) -> list[Job]:
    """Return the runs of the table."""
    settings = [EQUAL, *_settings().values()]
    return [job for data_set in runs.data.all[:2] for job in runs.jobs(data_set, settings)]


def write(runs: Runs) -> Page:
    """Return the page of the table."""
    feeds = runs.data.all[:2]
    rows = [
        Row(
            f"learning rate {rate:g}",
            {data_set: runs.gain(data_set, setting) for data_set in feeds},
            [f"{value:+.2f}" for value in paper.RATES.get(rate, ())],
            (f"learning rate = {rate:.1f}",),
        )
        for rate, setting in _settings().items()
    ]
    headings = ("Feeds A, average", "Feeds B, average")
    published = {
        data_set.label: {f"learning rate {rate:g}": row[place] for rate, row in paper.RATES.items()}
        for place, data_set in enumerate(feeds)
    }
    title = "Table 4: NE gain over equal weights by the learning rate of the weights"
    notes = [
        "Average NE gain of all tasks in per cent over equal weights, mean over seeds ± half a "
        "95% interval; a star: the interval excludes zero. `balancer=multibalance_paper`.",
        "The smallest detectable gain is the median over the rates.",
        f"Beyond a rate of {_limit(cosine=0.0):.1f} with orthogonal gradients, of "
        f"{_limit(cosine=0.3):.1f} with cosines of .3 and of {_limit(cosine=0.5):.1f} with .5, "
        f"{len(FEEDS)} tasks of equal norms have no stable weights: they jump between tasks. "
        "Other batches than the paper's have other cosines, and other noise.",
    ]
    return Page(
        "table4",
        "Table 4: impact of the learning rate",
        gain_table(["Metrics (%)"], list(map(Column, headings, feeds)), rows),
        picture(title, feeds, rows, published),
        notes,
    )


def _limit(cosine: float) -> float:
    """Return the largest rate at which the weights of equally long gradients settle.

    Args:
        cosine: of each pair of gradients.
    """
    lam = MultiBalance(num_tasks=len(FEEDS)).prior_strength
    # Around equal weights the update is linear, with the slope kappa; it converges below 2 / kappa.
    length = sqrt((1 - cosine) / len(FEEDS) + cosine)
    return 2 * (1 + lam) * length / (1 - cosine)


PART = Part(write, jobs)
