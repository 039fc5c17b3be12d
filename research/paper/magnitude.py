"""The paper's claim where it should be easiest: one task's gradients are far larger than others."""

import statistics

from mbrec.study.benchmark import EQUAL, Setting, job, single_task
from mbrec.study.benchmark import Benchmark as World
from mbrec.study.estimate import differences, estimate
from mbrec.study.gains import has_exploded
from mbrec.study.jobs import Job
from mbrec.study.report import events
from mbrec.study.report.findings import late_medians
from research.paper import printed
from research.paper.excess import MERGED, NOTES, excess_table
from research.paper.page import Page
from research.paper.readings import ours
from research.paper.runs import Lab

LOUD = "ctr"
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


def _worlds(lab: Lab) -> list[World]:
    tiny = lab.size.name == "tiny"
    overrides = ("experiment=paper_ads", *(lab.size.synthetic if tiny else ()))
    overrides += ("data.path=data/synthetic",)
    return [
        World(
            f"magnitude_{factor:g}",
            f"`tasks.{LOUD}.weight={factor:g}`",
            ("ctr", "cvr", "conv_imp"),
            (*overrides, f"tasks.{LOUD}.weight={factor:g}"),
            ("data.synthetic.seed=18",),
        )
        for factor in FACTORS[: 1 if tiny else None]
    ]


def _settings(lab: Lab) -> list[Setting]:
    return OURS[:2] if lab.size.name == "tiny" else [*OURS, *OTHERS]


def tuning_jobs(lab: Lab) -> list[Job]:
    """Return the runs by which static weights are chosen."""
    return [job for world in _worlds(lab) for job in lab.static_tuning_jobs(world)]


def jobs(lab: Lab) -> list[Job]:
    """Return the runs of the page, once the tuning runs are done."""
    found = []
    for world in _worlds(lab):
        settings = [EQUAL, *single_task(world.tasks), lab.tuned_static(world), *_settings(lab)]
        found += lab.jobs(world, settings)
    return found


def write(lab: Lab) -> Page:
    """Return the page, with what came of the claim."""
    worlds = _worlds(lab)
    tables = [excess_table(lab, w, [lab.tuned_static(w), *_settings(lab)]) for w in worlds]
    notes = [
        *(note for world in worlds for note in _outcome(lab, world)),
        "`balancer=multibalance` is `MultiBalance, prior in output, lam 0.3`. Where a row does not "
        "say otherwise: lr 0.1, `stabilize`, `weights_only`, the cosine update. R2: "
        "`trainer.loss_reduction=unmasked`.",
        MERGED,
        "Twice the standard error is less than half the interval (2.8 times with five seeds, 12.7 "
        "with two): a task may be said to lose where no star is shown.",
        *NOTES,
    ]
    page = Page("magnitude", "One task far louder", tables[0], None, notes, label=printed.SYNTHETIC)
    page.more = {w.label: table for w, table in zip(worlds[1:], tables[1:], strict=True)}
    return page


def _outcome(lab: Lab, world: World) -> list[str]:
    """Return what came of the claim on one data set."""
    static = lab.tuned_static(world)
    return [
        f"{world.label}: {_loudness(lab, world)}. Tuned static weights: {static.overrides[1]}, "
        "chosen on another log with another seed.",
        *(
            f"{world.label}, {setting.name}: {_verdict(lab, world, setting)}."
            for setting in (static, *_settings(lab)[:4])
        ),
    ]


def _loudness(lab: Lab, world: World) -> str:
    """Return how much louder the loud task is than the others."""
    run = job(world, EQUAL, lab.seeds[0])
    if lab.results[run].reason:
        return "equal weights exploded"
    found = events.read(lab.folder / run.folder / "tensorboard")
    norms = late_medians(found.by_task("grad_norm", world.tasks))
    quiet = [task for task in world.tasks if task != LOUD]
    ratios = " and ".join(f"{norms[LOUD] / norms[task]:.1f} times {task}'s" for task in quiet)
    return f"under equal weights {LOUD}'s median norm is {ratios}"


def _verdict(lab: Lab, world: World, setting: Setting) -> str:
    """Return whether the dominated tasks gain, and whether any task loses, as the claim has it."""
    base = lab.figures(world, EQUAL, "excess_ne")
    found = lab.figures(world, setting, "excess_ne")
    if has_exploded(found) or has_exploded(base):
        return "a run exploded"
    if len(lab.seeds) == 1:
        return "one seed shows nothing"
    lost = {task: estimate(differences(base[task], found[task])) for task in world.tasks}
    words = []
    for task, difference in lost.items():
        share = 100 * difference.mean / statistics.fmean(base[task])
        words.append(f"{task} {difference.text(4)} ({share:+.0f} %)")
    kept = all(difference.mean <= 2 * difference.error for difference in lost.values())
    quiet = [task for task in world.tasks if task != LOUD]
    gain = all(lost[task].high < 0 for task in quiet)
    return (
        f"excess NE against equal weights {', '.join(words)}; the dominated tasks "
        f"{'gain' if gain else 'do not all gain'}, and "
        f"{'no task loses' if kept else 'a task loses'} more than twice the paired standard error"
    )
