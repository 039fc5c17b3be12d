"""Table 1: where the parameters of a ranking model are."""

from collections.abc import Sequence

from hydra import compose, initialize_config_module
from matplotlib.figure import Figure

from mbrec.config import settings as configuration
from mbrec.study.benchmark import EQUAL, job
from mbrec.study.jobs import Job
from mbrec.study.pages import Table
from research.paper import printed
from research.paper.page import Page, Part
from research.paper.runs import Runs

# Models whose tables are known without data: name -> overrides.
MODELS = {
    "default job": (),
    "bench": ("experiment=bench",),
    "default job, 5 M users": ("data/preset=bench",),
    "bench, 5 M users": ("experiment=bench", "data/preset=bench"),
}


def jobs(runs: Runs) -> list[Job]:
    """Return a run of each data set, which counts its parameters."""
    return [job(data_set, EQUAL, runs.seeds[0]) for data_set in runs.data.all]


def write(runs: Runs) -> Page:
    """Return the page of the table."""
    counts = {name: parameters(overrides) for name, overrides in MODELS.items()}
    for data_set, run in zip(runs.data.all, jobs(runs), strict=True):
        # Of a run that exploded nothing is known but that.
        metrics = runs.results[run].metrics
        counts |= {data_set.label: metrics["parameters"]} if metrics else {}
    table = Table(["", *counts, *(f"paper: {name}" for name in printed.PARAMETERS)])
    theirs = [list(row) for row in zip(*printed.PARAMETERS.values(), strict=True)]
    others = [sum(c.values()) - c["categorical"] for c in counts.values()]
    table.add("Parameters of Other Modules", *(f"{count:,}" for count in others), *theirs[0])
    categorical = [c["categorical"] for c in counts.values()]
    table.add("Parameters of Categorical Module", *(f"{n:,}" for n in categorical), *theirs[1])
    ratios = [100 * n / (n + other) for n, other in zip(categorical, others, strict=True)]
    table.add("Ratio of Categorical Module", *(f"{ratio:.2f}%" for ratio in ratios), *theirs[2])
    notes = [
        "Why balancing at parameters stops at the tables: they hold almost all parameters, and "
        "each row's gradient is applied inside backward. Any run prints its split at its start.",
        "The public models are as small as their data; with the paper's number of ids the share "
        "goes to its figures. The columns with 5 M users are counted, not trained.",
        "`bench` is `experiment=bench`, whose dense part has the size that ranking models have.",
    ]
    return Page("table1", "Table 1: parameters by module", table, _picture(counts), notes)


def parameters(overrides: Sequence[str]) -> dict[str, int]:
    """Return the parameters by module of a model of the synthetic world; nothing is trained."""
    from mbrec.job import build
    from mbrec.model.ranker import count_parameters

    with initialize_config_module("mbrec.configs", version_base="1.3"):
        config = configuration.parse(compose("train", overrides=list(overrides)))
    return count_parameters(build.ranker(config, 1, with_hook=False))


def _picture(counts: dict[str, dict[str, int]]) -> Figure:
    figure = Figure(figsize=(9, 0.5 * len(counts) + 1.2), layout="constrained")
    axis = figure.subplots()
    left = [0.0] * len(counts)
    for module in dict.fromkeys(module for found in counts.values() for module in found):
        shares = [100 * found.get(module, 0) / sum(found.values()) for found in counts.values()]
        axis.barh(list(counts), shares, left=left, label=module)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axis.set(
        xlabel="share of the parameters, %", title="Table 1: parameters by module", xlim=(0, 100)
    )
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


PART = Part(write, jobs)
