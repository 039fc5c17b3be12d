"""Table 3: all methods on two feeds data sets and one of ads."""

from collections.abc import Mapping

from mbrec.study.benchmark import Benchmark as World
from mbrec.study.estimate import median_detectable
from mbrec.study.gains import Gains as Contrast
from mbrec.study.jobs import Job
from mbrec.study.pages import Table
from mbrec.study.plots import gain_bars
from research.paper import printed as paper
from research.paper.page import Page
from research.paper.runs import Lab
from research.paper.worlds import DEFAULTS, methods

SINGLE = "Single-task models"

Gains = dict[str, Contrast]


def tuning_jobs(lab: Lab) -> list[Job]:
    """Return the runs by which settings are chosen."""
    return [job for world in lab.worlds.all for job in lab.tuning_jobs(world)]


def jobs(lab: Lab) -> list[Job]:
    """Return the runs of the table, once the tuning runs are done."""
    found = []
    for world in lab.worlds.all:
        settings = [*lab.baselines(world), *methods(world), DEFAULTS, lab.tuned_multibalance(world)]
        found += lab.jobs(world, settings)
    return found


def gains(lab: Lab, world: World) -> Gains:
    """Return method -> NE gains over equal weights on a data set, the paper's methods first."""
    settings = [*methods(world), DEFAULTS, lab.tuned_multibalance(world), lab.tuned_static(world)]
    found = {setting.name: lab.gain(world, setting) for setting in settings}
    return found | {SINGLE: lab.single_task_gain(world)}


def write(lab: Lab) -> Page:
    """Return the page of the table."""
    feeds_a, feeds_b, ads = lab.worlds.all
    found = {world.label: gains(lab, world) for world in lab.worlds.all}
    columns = ["Method"]
    for name in ("Feeds A, average", "Feeds B, average", *paper.ADS_TASKS, "Ads, average"):
        columns += [name, "paper"]
    table = Table(columns)
    for method in found[ads.label]:
        a, b, c = (found[world.label][method] for world in (feeds_a, feeds_b, ads))
        ours = [a.text(), b.text(), *(c.text(task) for task in paper.ADS_TASKS.values()), c.text()]
        table.add(method, *_beside(ours, paper.METHODS.get(method)))
    table.add("smallest detectable gain", *_beside(_detectable(lab, found)))
    picture = gain_bars(
        found,
        "Table 3: NE gain over equal weights, by task, with 95 % intervals",
        published=_published(lab),
    )
    return Page("table3", "Table 3: comparison with baseline methods", table, picture, _notes(lab))


def _beside(ours: list[str], theirs: tuple[float | None, ...] | None = None) -> list[str]:
    printed = [""] * len(ours)
    if theirs is not None:
        printed = ["NEX" if value is None else f"{value:+.3f}" for value in theirs]
    return [cell for pair in zip(ours, printed, strict=True) for cell in pair]


def _detectable(lab: Lab, found: Mapping[str, Gains]) -> list[str]:
    """Return, column by column, the median over methods of the smallest detectable gain."""
    feeds_a, feeds_b, ads = lab.worlds.all
    columns = [(feeds_a, None), (feeds_b, None), *((ads, t) for t in paper.ADS_TASKS.values())]
    cells = []
    for world, task in (*columns, (ads, None)):
        whole = [c for c in found[world.label].values() if c.average is not None]
        values = [c.by_task[task] if task else c.average for c in whole]
        cells.append(median_detectable(value for value in values if value))
    return cells


def _published(lab: Lab) -> dict[str, dict[str, float]]:
    places = dict(zip((world.label for world in lab.worlds.all), (0, 1, 5), strict=True))
    return {
        label: {m: v for m, row in paper.METHODS.items() if (v := row[place]) is not None}
        for label, place in places.items()
    }


def _notes(lab: Lab) -> list[str]:
    chosen = []
    for world in lab.worlds.all:
        budget = len(lab.static_tuning_jobs(world))
        static, ours = lab.tuned_static(world), lab.tuned_multibalance(world)
        chosen.append(
            f"{world.label}, of {budget} each: {' '.join(static.overrides[1:])}; "
            f"{' '.join(ours.overrides)}"
        )
    return [
        "NE gain in per cent over equal weights (`balancer=equal`), positive is better, mean over "
        "seeds ± half a 95 % interval (Student's t on differences paired by seed: same batches, "
        "and the same parameters at the start, but for the heads of single-task models). A star: "
        "the interval leaves zero out. Of cells without any effect, one in twenty has a star.",
        "The smallest detectable gain is the true gain that these seeds would have shown with "
        "probability 0.8, as a median over the methods.",
        "MultiBalance and `remove EMA` are the paper's reading (`balancer=multibalance_paper`) "
        f"with the rates it chose: {paper.FEEDS_RATE:g} for feeds, {paper.ADS_RATE:g} for ads.",
        "Tuned: the least NE of one run a setting on rows and with a seed that are not compared "
        "on, among static weights (each task four times up, and down) and among as many settings "
        "of MultiBalance. Chosen: " + ". ".join(chosen) + ".",
    ]
