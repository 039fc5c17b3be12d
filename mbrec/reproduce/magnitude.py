"""The paper's claim where it should be easiest: one task's gradients are far larger than others."""

import statistics

from mbrec.report import events
from mbrec.report.verdicts import late_medians
from mbrec.reproduce import paper
from mbrec.reproduce.excess import MERGED, NOTES, excess_table
from mbrec.reproduce.lab import Lab
from mbrec.reproduce.page import Page
from mbrec.reproduce.readings import ours
from mbrec.study.contrast import has_exploded
from mbrec.study.jobs import Job
from mbrec.study.paired import differences, estimate
from mbrec.study.worlds import EQUAL, Setting, World, job, single_task

LOUD = "ctr"
# With it, CTR's median norm under equal weights is some nine times that of the others.
FACTOR = 7


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


def _world(lab: Lab) -> World:
    small = lab.size.synthetic if lab.size.name == "tiny" else ()
    overrides = ("experiment=paper_ads", *small, "data.path=data/synthetic")
    overrides += (f"tasks.{LOUD}.weight={FACTOR}",)
    tuning = ("data.synthetic.seed=18",)
    return World(
        "magnitude", "Ads, CTR nine times louder", ("ctr", "cvr", "conv_imp"), overrides, tuning
    )


def _settings(lab: Lab) -> list[Setting]:
    return OURS[:2] if lab.size.name == "tiny" else [*OURS, *OTHERS]


def tuning_jobs(lab: Lab) -> list[Job]:
    """Return the runs by which static weights are chosen."""
    return lab.static_tuning_jobs(_world(lab))


def jobs(lab: Lab) -> list[Job]:
    """Return the runs of the page, once the tuning runs are done."""
    world = _world(lab)
    settings = [EQUAL, *single_task(world.tasks), lab.tuned_static(world), *_settings(lab)]
    return lab.jobs(world, settings)


def write(lab: Lab) -> Page:
    """Return the page, with what came of the claim."""
    world, static = _world(lab), lab.tuned_static(_world(lab))
    table = excess_table(lab, world, [static, *_settings(lab)])
    told = (static, *_settings(lab)[:3])
    notes = [
        f"`tasks.{LOUD}.weight={FACTOR}`: {_loudness(lab)}.",
        *(f"{setting.name}: {_verdict(lab, setting)}." for setting in told),
        f"Tuned static weights: {static.overrides[1]}, chosen on another log with another seed.",
        "`balancer=multibalance` is `MultiBalance, prior in output, lam 0.3`. Where a row does not "
        "say otherwise: lr 0.1, `stabilize`, `weights_only`, the cosine update. R2: "
        "`trainer.loss_reduction=unmasked`.",
        MERGED,
        "Twice the standard error is less than half the interval (2.8 times with five seeds, 12.7 "
        "with two): a task may be said to lose where no star is shown.",
        *NOTES,
    ]
    title = "One task nine times louder"
    return Page("magnitude", title, table, None, notes, label=paper.SYNTHETIC)


def _loudness(lab: Lab) -> str:
    """Return how much louder the loud task is than the others."""
    world = _world(lab)
    run = job(world, EQUAL, lab.seeds[0])
    if lab.results[run].reason:
        return "equal weights exploded"
    found = events.read(lab.folder / run.folder / "tensorboard")
    norms = late_medians(found.by_task("grad_norm", world.tasks))
    quiet = [task for task in world.tasks if task != LOUD]
    ratios = " and ".join(f"{norms[LOUD] / norms[task]:.1f} times {task}'s" for task in quiet)
    return f"under equal weights {LOUD}'s median norm is {ratios}"


def _verdict(lab: Lab, setting: Setting) -> str:
    """Return whether the dominated tasks gain, and whether any task loses, as the claim has it."""
    world = _world(lab)
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
