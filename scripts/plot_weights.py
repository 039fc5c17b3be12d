#!/usr/bin/env python3
"""Draws the task weights and gradient norms of a run: scripts/plot_weights.py RUN OUT.png

The panels are those of Figure 2 c-e in He et al. 2024: gradient norms, weights, weighted norms.
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PANELS = {
    "grad_norm": "gradient norm",
    "weight": "task weight",
    "weighted_norm": "weighted gradient norm",
}


def draw(run: Path, out: Path) -> None:
    """Draw the three panels of a run into a picture.

    Raises:
        ValueError: if the run has no balancing figures.
    """
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    tasks = [tag.removeprefix("weight/") for tag in tags if tag.startswith("weight/")]
    if not tasks or f"grad_norm/{tasks[0]}" not in tags:
        raise ValueError(f"expected a run with monitor.balance=true, got {run}")
    figure, axes = plt.subplots(1, len(PANELS), figsize=(12, 3.4), constrained_layout=True)
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for task in tasks:
            points = events.Scalars(f"{name}/{task}")
            axis.plot([p.step for p in points], [p.value for p in points], label=task, lw=1.2)
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Run the command line."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
