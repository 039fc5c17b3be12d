"""A comparison as a page, a picture and JSON."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrec.files.sealed import write_json
from mbrec.study.comparison import TUNED, Comparison
from mbrec.study.contrast import EXPLODED, Contrast, has_exploded
from mbrec.study.pages import Table, write
from mbrec.study.paired import Estimate
from mbrec.study.plots import gain_bars, pareto, save
from mbrec.study.report.verdicts import of_results
from mbrec.study.worlds import EQUAL, Setting, job, static_grid

SINGLE = "single-task models"


def write_pages(found: Comparison, out: Path, conditions: str) -> Path:
    """Write compare.md, .csv, .json and pictures into a folder; return the first."""
    gains = {one.name: found.gains(one) for one in found.compared if one != EQUAL}
    gains[SINGLE] = found.single_gains()
    against = _against_equal(found, gains)
    parts = [
        f"# Will balancing help {found.world.label}?",
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
    whole = {name: gain for name, gain in gains.items() if gain.average is not None}
    save(gain_bars({found.world.label: gains}, "NE gain over equal weights"), out / "compare.png")
    if len(found.world.tasks) > 1:
        points = {EQUAL.name: dict.fromkeys(found.world.tasks, 0.0)}
        points |= {n: {t: e.mean for t, e in gain.by_task.items()} for n, gain in whole.items()}
        picture = pareto(points, "Who trades what", "NE gain over equal weights, %")
        save(picture, out / "pareto.png")
        parts.append("![One task against another](pareto.png)")
    parts += [
        "## How to read it",
        "\n".join(f"- {n}" for n in _notes(found)),
        "## How it came about",
        conditions,
    ]
    write(out / "compare.md", "\n\n".join(parts))
    write(out / "compare.csv", against.csv)
    write_json(out / "compare.json", as_json(found))
    return out / "compare.md"


def _warnings(found: Comparison) -> list[str]:
    """Return what is wrong with the baseline: who wins against it has not won much."""
    first = found.results[job(found.world, EQUAL, found.seeds[0])]
    told = of_results({task: _known(figures) for task, figures in first.tasks.items()})
    lines = "\n".join(f"- {text}" for text in told)
    return ["Of equal weights, first seed:", lines] if told else []


def _known(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}


def _ne(found: Comparison) -> Table:
    """Return NE by task, mean and deviation over the seeds."""
    table = Table(["", *found.world.tasks])
    rows = {one.name: found.figures(found.world, one, "ne") for one in [EQUAL, *found.compared]}
    rows[SINGLE] = found.single_task_figures(found.world, "ne")
    for name, by_task in rows.items():
        exploded = {task for task, values in by_task.items() if has_exploded({task: values})}
        cells = (EXPLODED if task in exploded else _mean(v) for task, v in by_task.items())
        table.add(name, *cells)
    return table


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _against_equal(found: Comparison, gains: dict[str, Contrast]) -> Table:
    tasks = found.world.tasks
    has_gauc = bool(found.gauc(EQUAL))
    columns = ["", *(f"{task}, NE gain %" for task in tasks), "average", "detectable"]
    columns += [f"{task}, GAUC" for task in tasks] if has_gauc else []
    table = Table([*columns, "QPS drop %"] if found.measure else columns)
    settings = {one.name: one for one in found.compared}
    rows = {EQUAL.name: found.gains(EQUAL), **gains} if EQUAL.name in settings else gains
    for name, gain in rows.items():
        one = settings.get(name)
        least = "" if gain.average is None else gain.average.detectable_text
        cells = [name, *(gain.text(task) for task in tasks), gain.text(), least]
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
    tasks = found.world.tasks
    table = Table(["", *(f"{task}, NE gain %" for task in tasks), "average"])
    for one in dict.fromkeys([EQUAL, *found.compared]):
        gain = found.gains(one, over_single=True)
        table.add(one.name, *(gain.text(task) for task in tasks), gain.text())
    return table


def _verdicts(found: Comparison) -> Table:
    table = Table(["", "against equal weights", "negative transfer", "positive transfer"])
    for one in dict.fromkeys([EQUAL, *found.compared]):
        verdict = found.verdict(one)
        overall = "the baseline" if one == EQUAL else verdict.overall
        exploded = found.gains(one, over_single=True).text()
        transfer = (
            exploded if tasks is None else ", ".join(tasks) or "none shown"
            for tasks in (verdict.negative_transfer, verdict.positive_transfer)
        )
        table.add(one.name, overall, *transfer)
    return table


def _answer(found: Comparison) -> str:
    """Return the page's first sentences: what a practitioner came for."""
    lines = []
    for one in found.compared:
        if one == EQUAL:
            continue
        gain, least = found.gains(one).average, ""
        if gain is not None and gain.num == 1:
            least = f" On average {gain.mean:+.3f} %; one seed shows no difference, however large."
        elif gain is not None:
            least = (
                f" On average {gain.text()} %; these {gain.num} seeds would have shown a true "
                f"gain of {gain.detectable:.3f} % with probability 0.8."
            )
        lines.append(f"- **{one.name}**: {found.verdict(one).overall}.{least}")
    return "\n".join(lines)


def _notes(found: Comparison) -> list[str]:
    notes = [
        "NE gain in per cent, positive is better: mean over seeds ± half a 95 % interval "
        "(Student's t on differences paired by seed: same batches, and the same parameters at "
        "the start, but for the heads of single-task models). "
        "A star: the interval leaves zero out; without one no difference is called real. Of cells "
        "without any effect, one in twenty has a star.",
        "The data are the same for all seeds: an interval says what other seeds would give, not "
        "what another log would.",
        "Negative transfer: a task is worse than in a model of its own. Seesaw: some tasks gain "
        "at the cost of others.",
        "NE itself: mean ± deviation over seeds; 1 is the constant rate of the rows.",
        "`detectable`: the true average gain that these seeds would have shown with probability "
        "0.8.",
    ]
    for one in found.compared:
        if one.name == TUNED:
            budget = len(static_grid(found.world.tasks))
            rows = " ".join(found.world.tuning) or "the same rows, which favours them a little"
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
            "QPS drop: median and 95 % interval over interleaved blocks of steps with the "
            "hook and with it bypassed, in a run of its own."
        )
    return notes


def as_json(found: Comparison) -> dict[str, Any]:
    """Return all figures of a comparison; null where there is none."""
    methods = {}
    for one in dict.fromkeys([EQUAL, *found.compared]):
        verdict = found.verdict(one)
        methods[one.name] = {
            "overrides": list(one.overrides),
            "gain_over_equal_percent": _contrast(found.gains(one)),
            "gain_over_single_percent": _contrast(found.gains(one, over_single=True)),
            "gauc_difference": {task: _estimate(e) for task, e in found.gauc(one).items()},
            "verdict": verdict.overall,
            "verdict_by_task": verdict.against_equal,
            "negative_transfer": verdict.negative_transfer,
            "positive_transfer": verdict.positive_transfer,
            "qps_drop_percent": found.drop(one) if one in found.compared else None,
        }
    return {
        "tasks": list(found.world.tasks),
        "overrides": list(found.world.overrides),
        "seeds": list(found.seeds),
        "methods": methods,
        "single_task_gain_over_equal_percent": _contrast(found.single_gains()),
        "explosions": found.explosions(),
    }


def _contrast(found: Contrast) -> dict[str, Any]:
    average = None if found.average is None else _estimate(found.average)
    tasks = {task: _estimate(gain) for task, gain in found.by_task.items()}
    return {
        "exploded": found.exploded,
        "baseline_exploded": found.base_exploded,
        "average": average,
        "tasks": tasks,
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    if found.num == 1:
        return {"mean": found.mean, "low": None, "high": None, "num": 1, "is_real": False}
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "num": found.num,
        "is_real": found.is_real,
        "detectable": found.detectable,
    }
