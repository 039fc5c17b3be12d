#!/usr/bin/env python3
"""Draws the task weights and gradient norms of a run: scripts/plot_weights.py RUN OUT.png

The panels are those of Figure 2 c-e in He et al. 2024: gradient norms, weights, weighted norms.
`python -m mbrec.report RUN` shows them, and more, in a page.
"""

import sys
from pathlib import Path

from mbrec.files import atomic
from mbrec.study.report import plots
from mbrec.study.report.run import load


def draw(path: Path, out: Path) -> None:
    """Draw the three panels of a run into a picture.

    Raises:
        ValueError: if the run has no balancing figures.
    """
    run = load(path)
    panels = plots.balance_panels(run.events, run.tasks)
    if not all(panel.lines for panel in panels):
        raise ValueError(f"expected a run with monitor.balance=true, got {path}")
    with atomic.replacing(out) as file:
        plots.draw(panels).savefig(file, dpi=110, format=out.suffix.removeprefix(".") or None)


def main() -> None:
    """Run the command line."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
