"""A run's page, section by section."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from mbrec.config import settings as configuration
from mbrec.files import atomic
from mbrec.study.report import against, balance, curves, markup, results, sections
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
    made = [
        results.final(run),
        against.section(run, baselines),
        results.overhead(run),
        curves.losses(run),
        curves.entropies(run),
        balance.weights(run),
        balance.cosines(run),
        balance.conflicts(run),
        balance.rank_weights(run),
        curves.speed(run),
        curves.guards(run),
        curves.unknown(run),
        curves.truncated(run),
        sections.data(run),
        sections.settings(run, defaults),
    ]
    found = [section for section in made if section is not None]
    return markup.page(f"Run {run.path.resolve().name}", sections.head(run), found)
