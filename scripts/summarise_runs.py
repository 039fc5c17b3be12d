#!/usr/bin/env python3
"""Prints the mean and the deviation over seeds of finished runs: summarise_runs.py RUN ...

Runs whose names differ only in a last `_SEED` are one row. The result is a Markdown table.
"""

import statistics
import sys
from collections import defaultdict
from pathlib import Path

from mbrec.files.sealed import read_json

FIGURES = {"auc": "AUC", "ne": "NE", "calibration": "calibration"}


def summarise(runs: list[Path]) -> str:
    """Return a Markdown table with a row per setting and task."""
    groups: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for run in sorted(runs):
        name = run.name.rpartition("_")[0]
        for task, figures in read_json(run / "metrics.json")["tasks"].items():
            groups[name, task].append(figures)
    lines = [
        f"| runs | task | {' | '.join(FIGURES.values())} | seeds |",
        f"|---|---|{'---|' * len(FIGURES)}---|",
    ]
    for (name, task), seeds in groups.items():
        cells = []
        for figure in FIGURES:
            values = [seed[figure] for seed in seeds]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
        lines.append(f"| {name} | {task} | {' | '.join(cells)} | {len(seeds)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(summarise([Path(run) for run in sys.argv[1:]]))


if __name__ == "__main__":
    main()
