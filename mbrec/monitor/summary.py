"""What a run says at its end."""

from collections.abc import Mapping

COLUMNS = {
    "ne": "NE",
    "auc": "AUC",
    "gauc": "GAUC",
    "calibration": "calibration",
    "log_loss": "log loss",
    "excess_ne": "excess NE",
    "rate": "rate",
    "count": "rows",
}


def table(report: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return an evaluation as text, a line a task; columns that no task has are left out.

    >>> print(table({"ctr": {"ne": 0.9, "auc": None, "count": 1000.0}}))
    task      NE  AUC   rows
    ctr   0.9000    -  1,000
    """
    names = [name for name in COLUMNS if any(name in figures for figures in report.values())]
    rows = [["task", *(COLUMNS[name] for name in names)]]
    rows += [[task, *(_cell(name, f.get(name)) for name in names)] for task, f in report.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for task, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([f"{task:<{widths[0]}}", *padded]).rstrip())
    return "\n".join(lines)


def parameter_table(parameters: Mapping[str, int]) -> str:
    """Return the number of parameters by module, and their share.

    >>> print(parameter_table({"categorical": 900, "heads": 100}))
    parameters: categorical 900 (90.00 %), heads 100 (10.00 %)
    """
    total = sum(parameters.values())
    parts = [f"{name} {count:,} ({count / total:.2%})" for name, count in parameters.items()]
    return "parameters: " + ", ".join(parts).replace("%", " %")


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if name == "count" else f"{value:.4f}"
