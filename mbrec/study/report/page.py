"""A run's page: `page.html` shows the views that the other modules make of the run.

A view is what a section shows: its keys are those that the template reads.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from mbrec.config import settings as configuration
from mbrec.files import atomic
from mbrec.study.pages import rendered
from mbrec.study.report import against, balance, curves, results, sections
from mbrec.study.report.run_folder import Run, load


def write(path: Path, baselines: Sequence[Path], out: Path) -> None:
    """Write the page of a run.

    Args:
        path: folder of the run.
        baselines: folders of runs to compare it with.
        out: the file.

    Raises:
        ValueError: if one of them is no run, or cannot be compared with.
        OSError: if the page cannot be written.
    """
    run = load(path)
    text = render(run, against.baselines(run, baselines), _default_settings())
    # A name out of a file may hold half a character, which no encoding has.
    atomic.write_bytes(out, text.encode("utf-8", errors="replace"))


@cache
def _default_settings() -> dict[str, Any]:
    """Return the settings of the default job, as `config.yaml` has those of a run."""
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        config = configuration.parse(compose("train"))
    content: Any = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    return content


def render(run: Run, baselines: Sequence[Run], defaults: Mapping[str, Any]) -> str:
    """Return the page of a run; sections without a figure are left out.

    Args:
        run: the run.
        baselines: runs to compare it with.
        defaults: the settings of the default job.
    """
    views = {
        "results": results.final(run),
        "against": against.view(run, baselines),
        "overhead": results.overhead(run),
        "loss": curves.losses(run),
        "ne": curves.entropies(run),
        "balance": balance.weights(run),
        "cosines": balance.cosines(run),
        "conflicts": balance.conflicts(run),
        "ranks": balance.rank_weights(run),
        "speed": curves.speed(run),
        "guards": curves.guards(run),
        "unknown": curves.lost(run, "out_of_vocabulary", "unknown"),
        "truncated": curves.lost(run, "truncated", "cut off"),
        "data": sections.data(run),
        "settings": sections.settings(run, defaults),
    }
    head = sections.head(run)
    return rendered("report/page.html", escape=True, run=head, views=views).lstrip() + "\n"
