"""The pages of TensorBoard's Custom Scalars: the paper's Figure 2, conflicts, and the tasks."""

import re
from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Any


def layout(tasks: Sequence[str], tags: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """Return the pages, for `torch.utils.tensorboard.summary.custom_scalars`.

    Args:
        tags: that the run has; what it has not is left out.

    >>> layout(["ctr", "cvr"], {"weight/ctr", "weight/cvr", "loss"})
    {'Figure 2': {'(d) task weights': ['Multiline', ['^weight/ctr$', '^weight/cvr$']]}}
    """
    by_task = {
        "(c) gradient norms": "grad_norm",
        "(d) task weights": "weight",
        "(e) weighted gradient norms": "weighted_norm",
    }
    pages = {
        "Figure 2": {title: _of_tasks(name, tasks) for title, name in by_task.items()},
        "conflict": _conflict(tasks, tags),
        "tasks": {
            "loss": _of_tasks("loss", tasks),
            "NE of the training rows": _of_tasks("train_ne", tasks),
            "NE of the evaluation": _of_tasks("evaluation_ne", tasks),
        },
    }
    shown = {
        page: {
            title: ["Multiline", [f"^{re.escape(tag)}$" for tag in chart if tag in tags]]
            for title, chart in charts.items()
            if any(tag in tags for tag in chart)
        }
        for page, charts in pages.items()
    }
    return {page: charts for page, charts in shown.items() if charts}


def _of_tasks(name: str, tasks: Sequence[str]) -> list[str]:
    return [f"{name}/{task}" for task in tasks]


def _conflict(tasks: Sequence[str], tags: Collection[str]) -> dict[str, list[str]]:
    ranks = {int(tag.split("/")[1]) for tag in tags if tag.startswith("rank_weight/")}
    by_rank = {
        f"weight of {task} by each rank alone": [f"rank_weight/{r}/{task}" for r in sorted(ranks)]
        for task in tasks
    }
    return {
        "cosines": [f"cosine/{a}-{b}" for a, b in combinations(tasks, 2)],
        "share of pairs in conflict": ["conflict/share"],
        "largest norm over the smallest, raw and weighted": [
            "conflict/dominance",
            "conflict/weighted_dominance",
        ],
        "distance to Pareto stationarity": ["conflict/stationarity"],
        "the same over the smallest norm": ["conflict/stationarity_relative"],
        "share of steps in which a task has all weight, or none": ["conflict/vertex"],
        "spread of the weights over the ranks": _of_tasks("rank_weight_spread", tasks),
        **by_rank,
    }
