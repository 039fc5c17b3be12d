"""A comparison as a page, pictures and JSON."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrec.files.sealed import write_json
from mbrec.study.benchmark import EQUAL, Setting, job, static_grid
from mbrec.study.comparison import TUNED, Comparison
from mbrec.study.estimate import Estimate
from mbrec.study.gains import BETTER, EXPLODED, WORSE, Gains, has_exploded
from mbrec.study.pages import Table, write
from mbrec.study.plots import gain_bars, pareto, save
from mbrec.study.report.findings import of_results

SINGLE = "single-task models"


def write_pages(found: Comparison, out: Path, conditions: str) -> Path:
    """Write compare.md, .csv, .json and pictures into a folder; return the first."""
    label, tasks = found.benchmark.label, found.benchmark.tasks
    gains = {one.name: found.gains(one) for one in found.compared if one != EQUAL}
    gains[SINGLE] = found.single_task_gain(found.benchmark)
    against = _against_equal(found, gains)
    parts = [
        f"# Will balancing help {label}?",
        _answer(found),
        *_warnings(found),
        "## Against equal weights",
        against.markdown,
        "![NE gains](compare.png)",
        "## Against single-task models",
        _against_single(found).markdown,
        "## Verdicts",
        _verdicts(found).markdown,
        "## NE itself",
        _ne(found).markdown,
    ]
    save(gain_bars({label: gains}, "NE gain over equal weights"), out / "compare.png")
    if len(tasks) > 1:
        points = {EQUAL.name: dict.fromkeys(tasks, 0.0)}
        for name, gain in gains.items():
            if gain.average is not None:
                points[name] = {task: one.mean for task, one in gain.by_task.items()}
        picture = pareto(points, "Who trades what", "NE gain over equal weights, %")
        save(picture, out / "pareto.png")
        parts.append("![One task against another](pareto.png)")
    parts += [
        "## How to read it",
        "\n".join(f"- {note}" for note in _notes(found)),
        "## How it was made",
        conditions,
    ]
    write(out / "compare.md", "\n\n".join(parts))
    write(out / "compare.csv", against.csv)
    write_json(out / "compare.json", as_json(found))
    return out / "compare.md"


def _warnings(found: Comparison) -> list[str]:
    """Return the faults of the baseline: a gain over a bad baseline says little."""
    first = found.results[job(found.benchmark, EQUAL, found.seeds[0])]
    known = {
        task: {name: value for name, value in figures.items() if value is not None}
        for task, figures in first.tasks.items()
    }
    lines = "\n".join(f"- {text}" for text in of_results(known))
    return ["Of equal weights, first seed:", lines] if lines else []


def _ne(found: Comparison) -> Table:
    """Return NE by task, mean and deviation over the seeds."""
    table = Table(["", *found.benchmark.tasks])
    settings = [EQUAL, *found.compared]
    rows = {one.name: found.figures(found.benchmark, one, "ne") for one in settings}
    rows[SINGLE] = found.single_task_figures(found.benchmark, "ne")
    for name, by_task in rows.items():
        cells = (
            EXPLODED if has_exploded({task: values}) else _mean(values)
            for task, values in by_task.items()
        )
        table.add(name, *cells)
    return table


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


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


def _answer(found: Comparison) -> str:
    """Return the first sentences of the page: the answer to its question."""
    lines = []
    for one in found.compared:
        if one == EQUAL:
            continue
        gain, average = found.gains(one).average, ""
        if gain is not None and gain.num == 1:
            average = f" On average {gain.mean:+.3f}%; one seed cannot show a difference."
        elif gain is not None:
            average = (
                f" On average {gain.text()} %; these {gain.num} seeds would have shown a true "
                f"gain of {gain.detectable:.3f}% with probability 0.8."
            )
        lines.append(f"- **{one.name}**: {found.gains(one).verdict}.{average}")
    return "\n".join(lines)


def _notes(found: Comparison) -> list[str]:
    notes = [
        "NE gain in per cent, positive is better: mean over seeds ± half a 95% interval "
        "(Student's t on differences paired by seed: the same batches, and the same initial "
        "parameters except for the heads of single-task models). "
        "A star: the interval excludes zero; without a star no difference is called real. Without "
        "any effect, one cell in twenty has a star.",
        "All seeds have the same data: an interval covers other seeds, not another log.",
        "Negative transfer: a task is worse than in a model of its own. Seesaw: some tasks gain "
        "at the cost of others.",
        "NE itself: mean ± standard deviation over seeds; 1 is the constant rate of the rows.",
        "`detectable`: the true average gain that these seeds would have shown with probability "
        "0.8.",
    ]
    for one in found.compared:
        if one.name == TUNED:
            budget = len(static_grid(found.benchmark.tasks))
            same = "the same rows, which favours static weights a little"
            rows = " ".join(found.benchmark.tuning) or same
            notes.append(
                f"Static weights: {one.overrides[1]}, the best of {budget} by one run each with "
                f"another seed ({rows}). The balancers were not tuned."
            )
    notes += [f"{EXPLODED}, {name}: {why}" for name, why in found.explosions().items()]
    if found.gauc(EQUAL):
        notes.append(
            "GAUC: the difference to equal weights of the AUC within the rows of each group, on "
            "average; groups with one label only do not count. The verdicts are on NE alone."
        )
    if found.measure:
        notes.append(
            "QPS drop: median and 95% interval over interleaved blocks of steps with the "
            "hook and with it bypassed, in a run of its own."
        )
    return notes


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
