"""The paper's claim where it should be easiest: one task's gradients are far larger than others."""

import statistics

from mbrec.study.benchmark import EQUAL, Benchmark, Setting, job
from mbrec.study.gains import has_exploded
from mbrec.study.jobs import Job
from mbrec.study.report import events
from mbrec.study.report.findings import late_medians
from research.paper import printed
from research.paper.data_sets import ADS
from research.paper.excess import MERGED, NOTES, excess_over, excess_table
from research.paper.page import Page, Part
from research.paper.readings import ours
from research.paper.runs import Runs

DOMINANT = "ctr"
OTHER = tuple(task for task in ADS if task != DOMINANT)
# With these weights CTR's median norm under equal weights is some ten, and some eight, times that
# of the others.
FACTORS = (8.5, 7)
OURS = [
    ours("MultiBalance, prior in output, lam 0.3", prior_in_output="true"),
    ours("MultiBalance, prior in output, lam 1", prior_in_output="true", prior_strength=1),
    ours("MultiBalance, output w, lam 0.3"),
    ours("MultiBalance, output w, lam 0", prior_strength=0),
    ours("MultiBalance, output w, lam 1", prior_strength=1),
    ours(
        "MultiBalance, ema anchor, both, prior in output, lam 1",
        ema="anchor",
        ema_scope="both",
        prior_in_output="true",
        prior_strength=1,
    ),
    ours(
        "MultiBalance, prior in output, lam 0.3, R2",
        "trainer.loss_reduction=unmasked",
        prior_in_output="true",
    ),
    Setting("MultiBalance, the paper's reading, lr 1", ("balancer=multibalance_paper",)),
]
OTHERS = [
    # The scale of MultiBalance's gradient, without its weights.
    Setting("equal weights, mean", ("balancer=equal", "balancer.scale=mean")),
    Setting("equal weights, R2", ("balancer=equal", "trainer.loss_reduction=unmasked")),
    Setting("IMTL-G", ("balancer=imtlg",)),
    Setting("Uncertainty", ("balancer=uncertainty",)),
]


def _data_sets(runs: Runs) -> list[Benchmark]:
    tiny = runs.size.name == "tiny"
    overrides = ("experiment=paper_ads", *(runs.size.synthetic if tiny else ()))
    overrides += ("data.path=data/synthetic",)
    return [
        Benchmark(
            f"magnitude_{factor:g}",
            f"`tasks.{DOMINANT}.weight={factor:g}`",
            ADS,
            (*overrides, f"tasks.{DOMINANT}.weight={factor:g}"),
            ("data.synthetic.seed=18",),
        )
        for factor in FACTORS[: 1 if tiny else None]
    ]


def _settings(runs: Runs) -> list[Setting]:
    return OURS[:2] if runs.size.name == "tiny" else [*OURS, *OTHERS]


def tuning_jobs(runs: Runs) -> list[Job]:
    """Return the runs by which static weights are chosen."""
    return [job for data_set in _data_sets(runs) for job in runs.static_tuning_jobs(data_set)]


def jobs(runs: Runs) -> list[Job]:
    """Return the runs of the page, once the tuning runs are done."""
    found = []
    for data_set in _data_sets(runs):
        found += runs.jobs(data_set, [*runs.baselines(data_set), *_settings(runs)])
    return found


def write(runs: Runs) -> Page:
    """Return the page, with what came of the claim."""
    data_sets = _data_sets(runs)
    tables = [excess_table(runs, on, [runs.tuned_static(on), *_settings(runs)]) for on in data_sets]
    notes = [
        *(note for data_set in data_sets for note in _outcome(runs, data_set)),
        "`balancer=multibalance` is `MultiBalance, prior in output, lam 0.3`. Where a row does not "
        "say otherwise: lr 0.1, `stabilize`, `weights_only`, the cosine update. R2: "
        "`trainer.loss_reduction=unmasked`.",
        MERGED,
        "Twice the standard error is less than half the interval (2.8 times with five seeds, 12.7 "
        "with two): a task may be said to lose where no star is shown.",
        *NOTES,
    ]
    page = Page("magnitude", "One task far louder", tables[0], None, notes, label=printed.SYNTHETIC)
    page.more = {on.label: table for on, table in zip(data_sets[1:], tables[1:], strict=True)}
    return page


def _outcome(runs: Runs, data_set: Benchmark) -> list[str]:
    """Return what came of the claim on one data set."""
    static = runs.tuned_static(data_set)
    return [
        f"{data_set.label}: {_ratios(runs, data_set)}. Tuned static weights: "
        f"{static.overrides[1]}, chosen on another log with another seed.",
        *(
            f"{data_set.label}, {setting.name}: {_verdict(runs, data_set, setting)}."
            for setting in (static, *_settings(runs)[:4])
        ),
    ]


def _ratios(runs: Runs, data_set: Benchmark) -> str:
    """Return how much larger the dominant task's gradients are than those of the others."""
    run = job(data_set, EQUAL, runs.seeds[0])
    if runs.results[run].reason:
        return "equal weights exploded"
    found = events.read(runs.folder / run.folder / "tensorboard")
    norms = late_medians(found.by_task("grad_norm", ADS))
    ratios = " and ".join(f"{norms[DOMINANT] / norms[task]:.1f} times {task}'s" for task in OTHER)
    return f"under equal weights {DOMINANT}'s median norm is {ratios}"


def _verdict(runs: Runs, data_set: Benchmark, setting: Setting) -> str:
    """Return whether the dominated tasks gain, and whether any task loses, as the claim has it."""
    base, found = (runs.figures(data_set, one, "excess_ne") for one in (EQUAL, setting))
    if has_exploded(found) or has_exploded(base):
        return "a run exploded"
    if len(runs.seeds) == 1:
        return "one seed shows nothing"
    lost = dict(zip(found, excess_over(base, found)[1:], strict=True))
    words = []
    for task, difference in lost.items():
        share = 100 * difference.mean / statistics.fmean(base[task])
        words.append(f"{task} {difference.text(4)} ({share:+.0f} %)")
    kept = all(difference.mean <= 2 * difference.error for difference in lost.values())
    gain = all(lost[task].high < 0 for task in OTHER)
    return (
        f"excess NE against equal weights {', '.join(words)}; the dominated tasks "
        f"{'gain' if gain else 'do not all gain'}, and "
        f"{'no task loses' if kept else 'a task loses'} more than twice the paired standard error"
    )


PART = Part(write, jobs, tuning_jobs)
