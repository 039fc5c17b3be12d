"""The views of the results: the final evaluation, and a measurement of overhead."""

from collections.abc import Mapping
from typing import Any

from mbrec.monitor.summary import COLUMNS
from mbrec.study.pages import decimals
from mbrec.study.report.findings import figure, of_results
from mbrec.study.report.run_folder import MEASUREMENT, Run, mapping, number, numbers
from mbrec.study.report.sections import flat, plain


def final(run: Run) -> dict[str, Any] | None:
    """Return the figures of the last evaluation, task by task."""
    figures, warnings = run.figures, []
    if not figures:
        figures, step = _last_evaluation(run)
        warnings = [f"The run has no final evaluation; this one was made after step {step:,}."]
    if not figures:
        return None
    names = [name for name in COLUMNS if any(name in found for found in figures.values())]
    return {
        "warnings": warnings,
        "names": names,
        "headers": ["task", *(COLUMNS[name] for name in names)],
        "rows": [
            [task, *(_cell(name, found.get(name)) for name in names)]
            for task, found in figures.items()
        ],
        "findings": of_results(figures),
    }


def _last_evaluation(run: Run) -> tuple[dict[str, dict[str, float]], int]:
    found: dict[str, dict[str, float]] = {}
    step = 0
    for name in COLUMNS:
        for task, line in run.events.by_task(f"evaluation_{name}", run.tasks).items():
            found.setdefault(task, {})[name] = float(line.values[-1])
            step = max(step, int(line.steps[-1]))
    return found, step


def _cell(name: str, value: float | None) -> str:
    return f"{value:,.0f}" if name == "count" and value is not None else decimals(value)


def overhead(run: Run) -> dict[str, Any] | None:
    """Return the findings of a run that measured its own overhead."""
    measured = mapping(run.metrics.get(MEASUREMENT))
    if not measured:
        return None
    rows = [
        [key.replace("_", " ").replace(".", ": "), _shown(value)]
        for key, value in flat(measured).items()
    ]
    return {"findings": _of_overhead(measured), "rows": rows}


def _of_overhead(measured: Mapping[str, Any]) -> list[str]:
    drop, said = numbers(measured.get("qps_drop_percent")), []
    if {"median", "low", "high"} <= drop.keys():
        unclear = " The interval covers 0." if drop["low"] <= 0 <= drop["high"] else ""
        said.append(
            f"QPS drop with the hook: {figure(drop['median'])} % (95 % interval "
            f"{figure(drop['low'])} to {figure(drop['high'])} %).{unclear}"
        )
    hook, step = (numbers(measured.get(name)) for name in ("hook_ms", "step_ms"))
    if "all" in hook and step.get("with_hook"):
        share = 100 * hook["all"] / step["with_hook"]
        said.append(
            f"Timed by itself it takes {figure(hook['all'])} ms of a step of "
            f"{figure(step['with_hook'])} ms, {figure(share)} %."
        )
    return said


def _shown(value: Any) -> str:
    found = number(value)
    if found is None:
        return plain(value)
    return f"{value:,}" if isinstance(value, int) else figure(found)
