"""The page of the surrogate's fidelity: tables and a picture of the runs that were watched."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.stats import spearmanr

from mbrec.study.estimate import estimate
from mbrec.study.pages import Table
from research.fidelity.figures import BOTTOM, TARGETS, Figures, Run
from research.fidelity.notes import notes
from research.fidelity.plot import draw
from research.fidelity.spectrum import Spectrum
from research.paper import printed
from research.paper.page import Page

# Of the steps that were measured: name -> the first and the last, as shares.
PHASES = {"first tenth": (0.0, 0.1), "last half": (0.5, 1.0)}

Value = Callable[[Figures], float | None]


def page(runs: Sequence[Run]) -> Page:
    """Return the page of some runs.

    Args:
        runs: those of a variant side by side; the first variant is the one that is drawn.
    """
    title = "How good a surrogate the representation's gradients are"
    found = Page(
        "fidelity",
        title,
        surrogate_table(runs),
        draw(next(iter(by_variant(runs).values())), runs),
        notes(runs),
        label=printed.SYNTHETIC,
    )
    found.more = {
        "The ratio and the noise of a batch": noise_table(runs),
        "Weights from either sequence of Gramians": weights_table(runs),
        "Lemma 4.1 and Theorem 1 on the batch of each step": bounds_table(runs),
        "One set of parameters, many batch sizes": frozen_table(runs, BOTTOM),
        "The same at the interaction module": frozen_table(runs, TARGETS[0]),
        "On all rows, seed by seed": seeds_table(runs),
        "Spectrum of the interaction module's Jacobian": spectrum_table(runs),
    }
    return found


def surrogate_table(runs: Sequence[Run]) -> Table:
    """Return the ratios in which the lemma speaks, by variant, phase and target."""
    variants = by_variant(runs)
    first = next(iter(variants))
    columns = ["run", "steps", *(f"ratio, {target}" for target in TARGETS)]
    columns += [f"over that of {first}", f"95th percentile, {BOTTOM}", f"equal weights, {BOTTOM}"]
    table = Table(columns)
    for variant, members in variants.items():
        for phase in PHASES:
            cells = [_factor(members, phase, t, lambda f: f.surrogate) for t in TARGETS]
            tail = _factor(members, phase, BOTTOM, lambda f: f.surrogate, quantile=0.95)
            uniform = _factor(members, phase, BOTTOM, lambda f: f.uniform)
            over = _over_first(members, variants[first], phase) if variant != first else ""
            table.add(variant, phase, *cells, over, tail, uniform)
    return table


def noise_table(runs: Sequence[Run]) -> Table:
    """Return how the ratio goes with the noise of the batch, over all measured steps and seeds."""
    table = Table([
        "run", "steps", "equal weights better", "residual over the least norm",
        "ratio against residual / gradient, Spearman",
    ])  # fmt: skip
    groups = {**by_variant(runs), "all": list(runs)}
    for name, members in groups.items():
        found = [f for run in members for f in in_phase(run, None, BOTTOM)]
        beyond = [f.residual_over_least for f in found if f.residual_over_least is not None]
        noise = [statistics.fmean(f.residuals) for f in found]
        ranks = spearmanr(noise, [f.surrogate for f in found]) if len(found) > 2 else None
        table.add(
            name,
            f"{len(found):,}",
            f"{_percent([f.uniform < f.surrogate for f in found])}",
            f"{_percent([value > 1 for value in beyond])}",
            "-" if ranks is None else f"{ranks[0]:+.2f}",
        )
    return table


def seeds_table(runs: Sequence[Run]) -> Table:
    """Return seed by seed what weights of all rows are worth on all rows: noise has no part."""
    table = Table(["run", "seed", "rows", "representation", "equal"])
    for run in runs:
        if of_bottom := [found for found in run.frozen if found.target == BOTTOM]:
            last = of_bottom[-1]
            cells = f"{last.representation:.2f}", f"{last.uniform:.2f}"
            table.add(run.variant, str(run.seed), f"{last.rows:,}", *cells)
    return table


def weights_table(runs: Sequence[Run]) -> Table:
    """Return how alike the weights are, over all measured steps."""
    table = Table(
        ["run", "target", "method", "cosine", "weight elsewhere", "same top", "same ranking", "tau"]
    )
    for variant, members in by_variant(runs).items():
        for target in (TARGETS[0], BOTTOM):
            for method in members[0].figures[0].weights:
                values: list[Value] = [
                    lambda f, m=method: f.weights[m].cosine,
                    lambda f, m=method: f.weights[m].distance,
                ]
                shares: list[Value] = [
                    lambda f, m=method: float(f.weights[m].same_top),
                    lambda f, m=method: float(f.weights[m].same_ranking),
                    lambda f, m=method: f.weights[m].tau,
                ]
                cells = [_share(members, None, target, value) for value in values]
                cells += [_share(members, None, target, value, quantile=None) for value in shares]
                table.add(variant, target, method, *cells)
    return table


def bounds_table(runs: Sequence[Run]) -> Table:
    """Return what the paper's bounds say of the batch, at all shared parameters."""
    table = Table([
        "run", "steps", "ratio", "the same, live units", "s2/s1 on the span", "norm gap",
        "residual / least norm", "residual / gradient", "dead share", "cosine gap",
    ])  # fmt: skip
    factors: list[Value] = [
        lambda f: f.surrogate,
        lambda f: f.live,
        lambda f: f.bound,
        lambda f: f.norm_gap,
        lambda f: f.residual_over_least,
    ]
    shares: list[Value] = [
        lambda f: statistics.fmean(f.residuals),
        lambda f: statistics.fmean(f.dead),
        lambda f: f.cosine_gap,
    ]
    for variant, members in by_variant(runs).items():
        for phase in PHASES:
            cells = [_factor(members, phase, BOTTOM, value) for value in factors]
            cells += [_share(members, phase, BOTTOM, value) for value in shares]
            table.add(variant, phase, *cells)
    return table


def frozen_table(runs: Sequence[Run], target: str) -> Table:
    """Return what weights of batches of each size are worth for the population, at a target."""
    table = Table([
        "run", "rows", "residual / gradient", "ratio in the batch", "s2/s1 on the span",
        "on all rows: representation", "its own", "representation / its own", "equal",
    ])  # fmt: skip
    for variant, members in by_variant(run for run in runs if run.frozen).items():
        sizes = zip(*([f for f in r.frozen if f.target == target] for r in members), strict=True)
        for cells in list(sizes)[::2]:
            bounds = [found.bound for found in cells if found.bound is not None]
            table.add(
                variant,
                f"{cells[0].rows:,}",
                mean_text([found.residual for found in cells]),
                factor_text([found.ratio for found in cells]),
                factor_text(bounds),
                factor_text([found.representation for found in cells]),
                factor_text([found.own for found in cells]),
                factor_text([found.representation / found.own for found in cells]),
                factor_text([found.uniform for found in cells]),
            )
    return table


def spectrum_table(runs: Sequence[Run]) -> Table:
    """Return the spectra, as geometric means over the seeds."""
    table = Table([
        "run", "step", "p", "n H", "dead", "other zeros", "s2", "least s > 0", "s2 / least s > 0",
        "the same, 1 row", "ratio", "lemma's upper side / reached",
        "Theorem 1: lower, upper side / least",
    ])  # fmt: skip
    for variant, members in by_variant(runs).items():
        for spectra in zip(*(run.spectra for run in members), strict=True):
            first = spectra[0]
            table.add(
                variant,
                str(first.step),
                f"{first.num_parameters:,}",
                f"{first.num_outputs:,}",
                f"{_mean(spectra, lambda s: s.num_dead / s.num_outputs):.0%}",
                f"{_mean(spectra, lambda s: (s.num_zeros - s.num_dead) / s.num_outputs):.1%}",
                f"{_geometric(spectra, lambda s: s.largest):.3g}",
                f"{_geometric(spectra, lambda s: s.smallest_positive):.2g}",
                f"{_geometric(spectra, lambda s: s.condition):,.0f}",
                f"{_geometric(spectra, lambda s: s.conditions[0][1]):.1f}",
                f"{_geometric(spectra, lambda s: _ratio(s.lemma[3], s.lemma[2])):.3f}",
                f"{_geometric(spectra, lambda s: _ratio(s.lemma[4], s.lemma[3])):.1f}",
                f"{_mean(spectra, lambda s: _ratio(s.theorem[0], s.theorem[1])):.1f}, "
                f"{_geometric(spectra, lambda s: _ratio(s.theorem[3], s.theorem[1])):.0f}",
            )
    return table


def by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return variant -> its runs, in order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found


def in_phase(run: Run, phase: str | None, target: str) -> list[Figures]:
    """Return the figures of a run in a phase, or in all of it; at least one."""
    figures = [found for found in run.figures if found.target == target]
    if phase is None:
        return figures
    first, last = (share * run.steps for share in PHASES[phase])
    return [found for found in figures if first <= found.step <= last] or figures[:1]


def _summaries(
    runs: Sequence[Run], phase: str | None, target: str, value: Value, quantile: float | None
) -> list[float]:
    """Return a quantile over the steps of each run, or the mean."""
    found = []
    for run in runs:
        numbers = [value(figures) for figures in in_phase(run, phase, target)]
        if there := [number for number in numbers if number is not None]:
            mean = quantile is None
            found.append(statistics.fmean(there) if mean else float(np.quantile(there, quantile)))
    return found


def _factor(
    runs: Sequence[Run], phase: str, target: str, value: Value, quantile: float = 0.5
) -> str:
    return factor_text(_summaries(runs, phase, target, value, quantile))


def _share(
    runs: Sequence[Run],
    phase: str | None,
    target: str,
    value: Value,
    quantile: float | None = 0.5,
) -> str:
    return mean_text(_summaries(runs, phase, target, value, quantile))


def _over_first(runs: Sequence[Run], first: Sequence[Run], phase: str) -> str:
    """Return by what factor the ratio of a variant is another's, paired by seed."""
    here, there = (
        _summaries(members, phase, BOTTOM, lambda f: f.surrogate, 0.5) for members in (runs, first)
    )
    return factor_text([new / base for new, base in zip(here, there, strict=True)])


def _percent(held: Sequence[bool]) -> str:
    return f"{100 * statistics.fmean(held):.1f} %" if held else "-"


def factor_text(values: Sequence[float]) -> str:
    """Return the geometric mean over seeds, and its 95 % interval.

    >>> factor_text([1.0, 2.0, 4.0])
    '2.00 (0.36 to 11.19)'
    """
    if not values:
        return "-"
    found = estimate([math.log(value) for value in values])
    if found.num == 1:
        return f"{math.exp(found.mean):.2f}"
    return f"{math.exp(found.mean):.2f} ({math.exp(found.low):.2f} to {math.exp(found.high):.2f})"


def mean_text(values: Sequence[float]) -> str:
    """Return the mean over seeds, and half its 95 % interval.

    >>> mean_text([0.1, 0.2, 0.3])
    '0.20 ± 0.25'
    """
    if not values:
        return "-"
    found = estimate(values)
    return f"{found.mean:.2f}" + (f" ± {found.half:.2f}" if found.num > 1 else "")


def _mean(spectra: Sequence[Spectrum], value: Callable[[Spectrum], float]) -> float:
    return statistics.fmean(map(value, spectra))


def _geometric(spectra: Sequence[Spectrum], value: Callable[[Spectrum], float]) -> float:
    return statistics.geometric_mean(map(value, spectra))


def _ratio(side: float, other: float) -> float:
    """Return how far apart two sides are; 1 where a task without a gradient makes both 0."""
    return side / other if other else 1.0
