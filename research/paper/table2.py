"""Table 2: gradients of parameters against those of the shared representation, on ads."""

from mbrec.config.model import Boundary, Hook
from mbrec.study.benchmark import EQUAL, Setting
from mbrec.study.estimate import median_detectable
from mbrec.study.gains import EXPLODED
from mbrec.study.gains import Gains as Contrast
from mbrec.study.jobs import Job
from mbrec.study.pages import Table
from mbrec.study.plots import gain_bars
from research.paper import printed as paper
from research.paper.page import Page
from research.paper.runs import Lab
from research.paper.table3 import SINGLE
from research.paper.worlds import DEFAULTS, MEASURED_STEPS, multibalance

NOT_AVAILABLE = "N/A"
_MODULES = {"Interaction Module": "interaction", "Numerical Feature Module": "numerical"}


def settings() -> dict[tuple[str, str], Setting]:
    """Return (method, target) -> setting, for the rows of the paper that can be run."""
    found = {}
    for method, target in paper.TARGETS:
        if target in _MODULES:
            at = f"hook.at={_MODULES[target]}"
            name = f"{method}, {target}"
            found[method, target] = Setting(name, (f"balancer={method.lower()}", at))
    found["MultiBalance", "Shared Representation"] = multibalance(paper.ADS_RATE)
    return found


def tuning_jobs(lab: Lab) -> list[Job]:
    """Return the runs by which settings are chosen."""
    return lab.tuning_jobs(lab.worlds.ads)


def jobs(lab: Lab) -> list[Job]:
    """Return the runs of the table, once the tuning runs are done; those that measure come last."""
    ads = lab.worlds.ads
    compared = [*lab.baselines(ads), *settings().values(), DEFAULTS]
    costly = (*settings().values(), DEFAULTS, lab.tuned_static(ads), EQUAL)
    measured = [measuring_job(lab, setting) for setting in costly]
    return [*lab.jobs(ads, compared), *measured, _own_job(lab)]


def measuring_job(lab: Lab, setting: Setting) -> Job:
    """Return the run that measures what a setting costs."""
    overrides = (*lab.size.measured, "data.path=data/synthetic", *setting.overrides)
    return Job(f"overhead/{setting.slug}", (*overrides, "trainer.measure_overhead=true"))


def _own_job(lab: Lab) -> Job:
    """Return the run that measures our defaults on the model of the NE gains."""
    overrides = (*lab.worlds.ads.overrides, *DEFAULTS.overrides, MEASURED_STEPS)
    return Job(f"overhead_ads/{DEFAULTS.slug}", (*overrides, "trainer.measure_overhead=true"))


def write(lab: Lab) -> Page:
    """Return the page of the table."""
    ads = lab.worlds.ads
    columns = ["Method", "Gradient Balance Target", "QPS drop (%)", "paper"]
    for name in paper.ADS_TASKS:
        columns += [f"{name} NE gain (%)", "paper"]
    table, ours = Table(columns), settings()
    gains: dict[str, Contrast] = {}
    for (method, target), printed in paper.TARGETS.items():
        cells = [NOT_AVAILABLE] * (1 + len(paper.ADS_TASKS))
        if setting := ours.get((method, target)):
            gains[setting.name] = lab.gain(ads, setting)
            cells = _cells(lab, setting, gains[setting.name])
        theirs = [NOT_AVAILABLE] * len(cells)
        if printed is not None:
            theirs = [f"{printed[0]:g}", *(f"{value:+.3f}" for value in printed[1:])]
        table.add(method, target, *(c for pair in zip(cells, theirs, strict=True) for c in pair))
    gains |= {DEFAULTS.name: lab.gain(ads, DEFAULTS)}
    static = lab.tuned_static(ads)
    gains |= {static.name: lab.gain(ads, static), SINGLE: lab.single_task_gain(ads)}
    for name, cells in {
        DEFAULTS.name: _cells(lab, DEFAULTS, gains[DEFAULTS.name]),
        static.name: _cells(lab, static, gains[static.name]),
        SINGLE: ["K models", *_tasks(gains[SINGLE])],
        "smallest detectable gain": ["", *_detectable(gains)],
    }.items():
        target = "Shared Representation" if name in (DEFAULTS.name, static.name) else ""
        table.add(name, target, *(c for cell in cells for c in (cell, "")))
    picture = gain_bars({ads.label: gains}, "Table 2: NE gain over equal weights")
    title = "Table 2: balancing parameters and balancing the representation"
    return Page("table2", title, table, picture, _notes(lab))


def _cells(lab: Lab, setting: Setting, gain: Contrast) -> list[str]:
    return [_drop(lab, measuring_job(lab, setting)), *_tasks(gain)]


def _tasks(gain: Contrast) -> list[str]:
    return [gain.text(task) for task in paper.ADS_TASKS.values()]


def _drop(lab: Lab, job: Job) -> str:
    metrics = lab.results[job].metrics
    if "measurement" not in metrics:
        return EXPLODED
    found = metrics["measurement"]["qps_drop_percent"]
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _detectable(gains: dict[str, Contrast]) -> list[str]:
    ended = [gain for gain in gains.values() if gain.by_task]
    tasks = paper.ADS_TASKS.values()
    return [median_detectable(gain.by_task[task] for gain in ended) for task in tasks]


def _notes(lab: Lab) -> list[str]:
    model = " ".join(lab.size.measured)
    return [
        "QPS drop: median and 95 % interval over interleaved blocks of steps with the hook and "
        f"with it bypassed, in a run of its own on synthetic rows (`trainer.measure_overhead=true "
        f"{model}`), a model of another size than that of the NE gains. On the model of the NE "
        f"gains, {lab.worlds.ads.label}, {DEFAULTS.name} cost {_drop(lab, _own_job(lab))} %: the "
        "smaller the model and the batch, the more the fixed part of the hook counts.",
        "`balancer=equal` with the statistics that the monitor asks for: "
        f"{_drop(lab, measuring_job(lab, EQUAL))} %; with `monitor.balance=false` its hook does "
        "nothing.",
        "NE gain in per cent over equal weights, mean over seeds ± half a 95 % interval; a star: "
        "the interval leaves zero out. The smallest detectable gain is the median over the rows.",
        f"{NOT_AVAILABLE}: {categorical_reason()}.",
        "MGDA and MoCo at a module cost K backward passes down to it. Other shared parameters get "
        "the tasks' gradients with the same weights.",
    ]


def categorical_reason() -> str:
    """Return why the categorical module is refused as a target, as a user is told."""
    try:
        Hook(at=Boundary.categorical)
    except ValueError as error:
        return str(error).partition("got categorical: ")[2]
    raise AssertionError("the categorical module is a target")
