"""A comparison as a page, pictures and JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrec.files.sealed import write_json
from mbrec.study.benchmark import EQUAL, Setting, job, static_grid
from mbrec.study.comparison import TUNED, Comparison
from mbrec.study.estimate import Estimate
from mbrec.study.gains import BETTER, EXPLODED, WORSE, Gains, has_exploded
from mbrec.study.pages import Table, mean_and_deviation, rendered, write
from mbrec.study.plots import gain_bars, pareto, save
from mbrec.study.report.findings import of_results

SINGLE = "single-task models"


def write_pages(found: Comparison, out: Path, conditions: str) -> Path:
    """Write compare.md, .csv, .json and pictures into a folder; return the first."""
    label, tasks = found.benchmark.label, found.benchmark.tasks
    answers = {one.name: found.gains(one) for one in found.compared if one != EQUAL}
    gains = answers | {SINGLE: found.single_task_gain(found.benchmark)}
    against_equal = _against_equal(found, gains)
    page = rendered(
        "comparison.md",
        escape=False,
        label=label,
        answers=answers,
        warnings=_warnings(found),
        against_equal=against_equal.markdown,
        against_single=_against_single(found).markdown,
        verdicts=_verdicts(found).markdown,
        ne=_ne(found).markdown,
        pareto=len(tasks) > 1,
        static=next((one for one in found.compared if one.name == TUNED), None),
        candidates=len(static_grid(tasks)),
        tuning=" ".join(found.benchmark.tuning),
        explosions=found.explosions(),
        has_gauc=bool(found.gauc(EQUAL)),
        has_drop=found.measure,
        conditions=conditions,
    )
    save(gain_bars({label: gains}, "NE gain over equal weights"), out / "compare.png")
    if len(tasks) > 1:
        points = {EQUAL.name: dict.fromkeys(tasks, 0.0)}
        for name, gain in gains.items():
            if gain.average is not None:
                points[name] = {task: one.mean for task, one in gain.by_task.items()}
        picture = pareto(points, "Who trades what", "NE gain over equal weights, %")
        save(picture, out / "pareto.png")
    write(out / "compare.md", page)
    write(out / "compare.csv", against_equal.csv)
    write_json(out / "compare.json", as_json(found))
    return out / "compare.md"


def _warnings(found: Comparison) -> list[str]:
    """Return the faults of the baseline: a gain over a bad baseline says little."""
    first = found.results[job(found.benchmark, EQUAL, found.seeds[0])]
    known = {
        task: {name: value for name, value in figures.items() if value is not None}
        for task, figures in first.tasks.items()
    }
    return of_results(known)


def _ne(found: Comparison) -> Table:
    """Return NE by task, mean and deviation over the seeds."""
    table = Table(["", *found.benchmark.tasks])
    settings = [EQUAL, *found.compared]
    rows = {one.name: found.figures(found.benchmark, one, "ne") for one in settings}
    rows[SINGLE] = found.single_task_figures(found.benchmark, "ne")
    for name, by_task in rows.items():
        cells = (
            EXPLODED if has_exploded({task: values}) else mean_and_deviation(values)
            for task, values in by_task.items()
        )
        table.add(name, *cells)
    return table


def _against_equal(found: Comparison, gains: dict[str, Gains]) -> Table:
    tasks = found.benchmark.tasks
    has_gauc = bool(found.gauc(EQUAL))
    columns = ["", *(f"{task}, NE gain %" for task in tasks), "average", "detectable"]
    columns += [f"{task}, GAUC" for task in tasks] if has_gauc else []
    table = Table([*columns, "QPS drop %"] if found.measure else columns)
    settings = {one.name: one for one in found.compared}
    rows = {EQUAL.name: found.gains(EQUAL), **gains} if EQUAL.name in settings else gains
    for name, gain in rows.items():
        one = settings.get(name)
        detectable = "" if gain.average is None else gain.average.detectable_text
        cells = [name, *(gain.text(task) for task in tasks), gain.text(), detectable]
        if has_gauc:
            gauc = found.gauc(one) if one else {}
            cells += [gauc[task].text(4) if task in gauc else "" for task in tasks]
        if found.measure:
            cells.append(_drop(found, one) if one else "K models")
        table.add(*cells)
    return table


def _drop(found: Comparison, one: Setting) -> str:
    drop = found.drop(one)
    if drop is None:
        return EXPLODED
    return f"{drop['median']:.2f} ({drop['low']:.2f} to {drop['high']:.2f})"


def _against_single(found: Comparison) -> Table:
    tasks = found.benchmark.tasks
    table = Table(["", *(f"{task}, NE gain %" for task in tasks), "average"])
    for one in dict.fromkeys([EQUAL, *found.compared]):
        gain = found.gains(one, over_single=True)
        table.add(one.name, *(gain.text(task) for task in tasks), gain.text())
    return table


def _verdicts(found: Comparison) -> Table:
    table = Table(["", "against equal weights", "negative transfer", "positive transfer"])
    for one in dict.fromkeys([EQUAL, *found.compared]):
        overall = "the baseline" if one == EQUAL else found.gains(one).verdict
        over_single = found.gains(one, over_single=True)
        transfer = (over_single.tasks_that_are(word) for word in (WORSE, BETTER))
        exploded = over_single.text()
        cells = (exploded if t is None else ", ".join(t) or "none shown" for t in transfer)
        table.add(one.name, overall, *cells)
    return table


def as_json(found: Comparison) -> dict[str, Any]:
    """Return all figures of a comparison; null where there is none."""
    methods = {}
    for one in dict.fromkeys([EQUAL, *found.compared]):
        gains, over_single = found.gains(one), found.gains(one, over_single=True)
        methods[one.name] = {
            "overrides": list(one.overrides),
            "gain_over_equal_percent": _gains(gains),
            "gain_over_single_percent": _gains(over_single),
            "gauc_difference": {task: _estimate(e) for task, e in found.gauc(one).items()},
            "verdict": gains.verdict,
            "verdict_by_task": gains.judged,
            "negative_transfer": over_single.tasks_that_are(WORSE),
            "positive_transfer": over_single.tasks_that_are(BETTER),
            "qps_drop_percent": found.drop(one) if one in found.compared else None,
        }
    single = found.single_task_gain(found.benchmark)
    return {
        "tasks": list(found.benchmark.tasks),
        "overrides": list(found.benchmark.overrides),
        "seeds": list(found.seeds),
        "methods": methods,
        "single_task_gain_over_equal_percent": _gains(single),
        "explosions": found.explosions(),
    }


def _gains(found: Gains) -> dict[str, Any]:
    return {
        "exploded": found.exploded,
        "baseline_exploded": found.base_exploded,
        "average": None if found.average is None else _estimate(found.average),
        "tasks": {task: _estimate(gain) for task, gain in found.by_task.items()},
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    fields: Mapping[str, Any] = {"low": None, "high": None, "num": 1, "is_real": False}
    if found.num > 1:
        names = ("low", "high", "num", "is_real", "detectable")
        fields = {name: getattr(found, name) for name in names}
    return {"mean": found.mean, **fields}
