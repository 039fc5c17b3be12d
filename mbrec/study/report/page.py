"""A run's page, section by section."""

from collections.abc import Mapping, Sequence
from typing import Any

from mbrec.study.report import against, balance, curves, markup, results, sections
from mbrec.study.report.run import Run


def render(run: Run, baselines: Sequence[Run], defaults: Mapping[str, Any]) -> str:
    """Return the page of a run; sections without a figure are left out.

    Args:
        run: what is shown.
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
    body = [*sections.head(run), markup.contents({s.anchor: s.title for s in found})]
    for section in found:
        body += [markup.section(section.anchor, section.title), *section.body]
    return markup.page(f"Run {run.path.resolve().name}", body)
