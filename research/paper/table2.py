"""Table 2: gradients of parameters against those of the shared representation, on ads."""

from mbrec.config.model import Boundary, Hook
from mbrec.study.benchmark import EQUAL, Setting
from mbrec.study.gains import EXPLODED
from mbrec.study.jobs import Job
from research.paper import printed as paper
from research.paper.data_sets import MEASURED_STEPS
from research.paper.gains import NOT_AVAILABLE, SINGLE, Column, Row, gain_table, picture
from research.paper.page import Page, Part
from research.paper.runs import DEFAULTS, Runs, multibalance

MODULES = {"Interaction Module": "interaction", "Numerical Feature Module": "numerical"}
SHARED = "Shared Representation"


def settings() -> dict[tuple[str, str], Setting]:
    """Return (method, target) -> setting, for the rows of the paper that can be run."""
    found = {
        (method, target): Setting(
            f"{method}, {target}", (f"balancer={method.lower()}", f"hook.at={MODULES[target]}")
        )
        for method, target in paper.TARGETS
        if target in MODULES
    }
    return {**found, ("MultiBalance", SHARED): multibalance(paper.ADS_RATE)}


def jobs(runs: Runs) -> list[Job]:
    """Return the runs of the table; those that measure come last."""
    ads = runs.data.ads
    compared = [*runs.baselines(ads), *settings().values(), DEFAULTS]
    costly = (*settings().values(), DEFAULTS, runs.tuned_static(ads), EQUAL)
    measured = [measuring_job(runs, setting) for setting in costly]
    return [*runs.jobs(ads, compared), *measured, _own_job(runs)]


def measuring_job(runs: Runs, setting: Setting) -> Job:
    """Return the run that measures what a setting costs."""
    overrides = (*runs.size.measured, "data.path=data/synthetic", *setting.overrides)
    return Job(f"overhead/{setting.slug}", (*overrides, "trainer.measure_overhead=true"))


def _own_job(runs: Runs) -> Job:
    """Return the run that measures our defaults on the model of the NE gains."""
    overrides = (*runs.data.ads.overrides, *DEFAULTS.overrides, MEASURED_STEPS)
    return Job(f"overhead_ads/{DEFAULTS.slug}", (*overrides, "trainer.measure_overhead=true"))


def write(runs: Runs) -> Page:
    """Return the page of the table."""
    ads, ours, rows = runs.data.ads, settings(), []
    for (method, target), printed in paper.TARGETS.items():
        theirs = [NOT_AVAILABLE] * 4
        if printed is not None:
            theirs = [f"{printed[0]:g}", *(f"{value:+.3f}" for value in printed[1:])]
        setting, name, gains, drop = ours.get((method, target)), "", {}, NOT_AVAILABLE
        if setting:
            name, gains = setting.name, {ads: runs.gain(ads, setting)}
            drop = _drop(runs, measuring_job(runs, setting))
        rows.append(Row(name, gains, theirs[1:], (method, target, drop, theirs[0])))
    for setting in (DEFAULTS, runs.tuned_static(ads)):
        labels = setting.name, SHARED, _drop(runs, measuring_job(runs, setting)), ""
        rows.append(Row(setting.name, {ads: runs.gain(ads, setting)}, labels=labels))
    labels = SINGLE, "", "K models", ""
    rows.append(Row(SINGLE, {ads: runs.single_task_gain(ads)}, labels=labels))
    return Page(
        "table2",
        "Table 2: balancing parameters and balancing the representation",
        gain_table(
            ["Method", "Gradient Balance Target", "QPS drop (%)", "paper"],
            [Column(f"{name} NE gain (%)", ads, task) for name, task in paper.ADS_TASKS.items()],
            rows,
        ),
        picture("Table 2: NE gain over equal weights", [ads], rows),
        _notes(runs),
    )


def _drop(runs: Runs, job: Job) -> str:
    metrics = runs.results[job].metrics
    if "measurement" not in metrics:
        return EXPLODED
    found = metrics["measurement"]["qps_drop_percent"]
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _notes(runs: Runs) -> list[str]:
    model = " ".join(runs.size.measured)
    return [
        "QPS drop: median and 95% interval over interleaved blocks of steps with the hook and "
        f"with it bypassed, in a run of its own on synthetic rows (`trainer.measure_overhead=true "
        f"{model}`), a model of another size than that of the NE gains. On the model of the NE "
        f"gains, {runs.data.ads.label}, {DEFAULTS.name} cost {_drop(runs, _own_job(runs))}%: the "
        "smaller the model and the batch, the more the fixed part of the hook counts.",
        "`balancer=equal` with the statistics that the monitor asks for: "
        f"{_drop(runs, measuring_job(runs, EQUAL))}%; with `monitor.balance=false` its hook does "
        "nothing.",
        "NE gain in per cent over equal weights, mean over seeds ± half a 95% interval; a star: "
        "the interval excludes zero. The smallest detectable gain is the median over the rows.",
        f"{NOT_AVAILABLE}: {categorical_reason()}.",
        "MGDA and MoCo at a module cost K backward passes down to it. Other shared parameters get "
        "the tasks' gradients with the same weights.",
    ]


def categorical_reason() -> str:
    """Return why the categorical module is refused as a target, as the configuration says it."""
    try:
        Hook(at=Boundary.categorical)
    except ValueError as error:
        return str(error).partition("got categorical: ")[2]
    raise AssertionError("the categorical module is a target")


PART = Part(write, jobs, lambda runs: runs.tuning_jobs(runs.data.ads))
