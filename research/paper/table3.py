"""Table 3: all methods on two feeds data sets and one of ads."""

from mbrec.study.benchmark import Benchmark, Setting
from mbrec.study.jobs import Job
from research.paper import printed as paper
from research.paper.gains import SINGLE, Column, Row, gain_table, picture
from research.paper.page import Page, Part
from research.paper.runs import DEFAULTS, Runs, methods


def tuning_jobs(runs: Runs) -> list[Job]:
    """Return the runs by which settings are chosen."""
    return [job for data_set in runs.data.all for job in runs.tuning_jobs(data_set)]


def _compared(runs: Runs, data_set: Benchmark) -> list[Setting]:
    ours = [DEFAULTS, runs.tuned_multibalance(data_set), runs.tuned_static(data_set)]
    return [*methods(data_set), *ours]


def jobs(runs: Runs) -> list[Job]:
    """Return the runs of the table, once the tuning runs are done."""
    found = []
    for data_set in runs.data.all:
        found += runs.jobs(data_set, [*runs.baselines(data_set), *_compared(runs, data_set)])
    return found


def write(runs: Runs) -> Page:
    """Return the page of the table."""
    feeds_a, feeds_b, ads = runs.data.all
    gains = {
        data_set: {
            **{one.name: runs.gain(data_set, one) for one in _compared(runs, data_set)},
            SINGLE: runs.single_task_gain(data_set),
        }
        for data_set in runs.data.all
    }
    rows = []
    for method in gains[ads]:
        printed = paper.METHODS.get(method, ())
        cells = ["NEX" if value is None else f"{value:+.3f}" for value in printed]
        rows.append(Row(method, {on: by_method[method] for on, by_method in gains.items()}, cells))
    columns = [Column("Feeds A, average", feeds_a), Column("Feeds B, average", feeds_b)]
    columns += [Column(name, ads, task) for name, task in paper.ADS_TASKS.items()]
    published = {
        data_set.label: {m: v for m, row in paper.METHODS.items() if (v := row[place]) is not None}
        for data_set, place in ((feeds_a, 0), (feeds_b, 1), (ads, 5))
    }
    title = "Table 3: NE gain over equal weights, by task, with 95% intervals"
    return Page(
        "table3",
        "Table 3: comparison with baseline methods",
        gain_table(["Method"], [*columns, Column("Ads, average", ads)], rows),
        picture(title, runs.data.all, rows, published),
        _notes(runs),
    )


def _notes(runs: Runs) -> list[str]:
    chosen = []
    for data_set in runs.data.all:
        budget = len(runs.static_tuning_jobs(data_set))
        static, ours = runs.tuned_static(data_set), runs.tuned_multibalance(data_set)
        chosen.append(
            f"{data_set.label}, of {budget} each: {' '.join(static.overrides[1:])}; "
            f"{' '.join(ours.overrides)}"
        )
    return [
        "NE gain in per cent over equal weights (`balancer=equal`), positive is better, mean over "
        "seeds ± half a 95% interval (Student's t on differences paired by seed: same batches, "
        "and the same parameters at the start, but for the heads of single-task models). A star: "
        "the interval excludes zero. Of cells without any effect, one in twenty has a star.",
        "The smallest detectable gain is the true gain that these seeds would have shown with "
        "probability 0.8, as a median over the methods.",
        "MultiBalance and `remove EMA` are the paper's reading (`balancer=multibalance_paper`) "
        f"with the rates it chose: {paper.FEEDS_RATE:g} for feeds, {paper.ADS_RATE:g} for ads.",
        "Tuned: the least NE of one run per setting on rows and with a seed that are not compared "
        "on, among static weights (each task four times up, and down) and among as many settings "
        "of MultiBalance. Chosen: " + ". ".join(chosen) + ".",
    ]


PART = Part(write, jobs, tuning_jobs)
