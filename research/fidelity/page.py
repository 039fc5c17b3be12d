"""The page of the surrogate's fidelity: trains and measures what is missing, and writes tables."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mbrec.study import launch
from mbrec.study.estimate import estimate
from mbrec.study.jobs import shipped
from mbrec.study.pages import Table
from research.fidelity import measure
from research.fidelity.figures import Figures, Run
from research.fidelity.gradients import BOTTOM, TARGETS
from research.fidelity.plot import draw
from research.fidelity.spectrum import Spectrum
from research.paper import printed
from research.paper.page import Page, Part, table_of
from research.paper.runs import Runs

# Of the steps that were measured: name -> the first and the last, as shares.
PHASES = {"first tenth": (0.0, 0.1), "last half": (0.5, 1.0)}

Value = Callable[[Figures], float | None]
# The runs of a variant, and the phase of each that counts; None: all of it.
Group = tuple[Sequence[Run], str | None]
Cell = Callable[[Group], str]
Variants = dict[str, list[Run]]


def write(runs: Runs) -> Page:
    """Train and measure what is missing, in processes of its own, and return the page."""
    folder = runs.folder / "fidelity" / f"{runs.size.name}-{shipped()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    size, seeds = measure.SIZES[runs.size.name], len(runs.seeds)
    files = measure.files(folder, size, seeds).values()
    runs.trained += sum(not path.exists() for path in files)
    arguments = [runs.size.name, str(folder), str(seeds)]
    launch.start("research.fidelity.measure", arguments, folder, processes=runs.processes)
    found = measure.load(folder, size, seeds)
    runs.total += len(found)
    return page(found)


PART = Part(write)


def page(runs: Sequence[Run]) -> Page:
    """Return the page of some runs, of which those of the first variant are drawn."""
    variants = by_variant(runs)
    return Page(
        "fidelity",
        "How good a surrogate the representation's gradients are",
        surrogate_table(variants),
        draw(next(iter(variants.values())), runs),
        notes(runs),
        more={
            "The ratio and the noise of a batch": noise_table({**variants, "all": list(runs)}),
            "Weights from either sequence of Gramians": weights_table(variants),
            "Lemma 4.1 and Theorem 1 on the batch of each step": bounds_table(variants),
            "One set of parameters, many batch sizes": frozen_table(variants, BOTTOM),
            "The same at the interaction module": frozen_table(variants, TARGETS[0]),
            "On all rows, seed by seed": seeds_table(runs),
            "Spectrum of the interaction module's Jacobian": spectrum_table(variants),
        },
        label=printed.SYNTHETIC,
    )


def by_variant(runs: Iterable[Run]) -> Variants:
    """Return variant -> its runs, in order."""
    found: Variants = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found


def surrogate_table(variants: Variants) -> Table:
    """Return the ratios in which the lemma speaks, by variant, phase and target."""
    ratio, first = attrgetter("surrogate"), next(iter(variants))

    def over_first(group: Group) -> str:
        runs, phase = group
        if runs is variants[first]:
            return ""
        both = (over_steps((each, phase), ratio) for each in (runs, variants[first]))
        return factor_text([new / base for new, base in zip(*both, strict=True)])

    columns = {f"ratio, {target}": factor(ratio, target) for target in TARGETS}
    columns |= {
        f"over that of {first}": over_first,
        f"95th percentile, {BOTTOM}": factor(ratio, quantile=0.95),
        f"equal weights, {BOTTOM}": factor(attrgetter("uniform")),
    }
    return _by_phase(variants, columns)


def bounds_table(variants: Variants) -> Table:
    """Return what the paper's bounds say of the batch, at all shared parameters."""
    columns = {
        "ratio": factor(attrgetter("surrogate")),
        "the same, live units": factor(attrgetter("live")),
        "s2/s1 on the span": factor(attrgetter("bound")),
        "norm gap": factor(attrgetter("norm_gap")),
        "residual / least norm": factor(attrgetter("residual_over_least")),
        "residual / gradient": share(lambda f: statistics.fmean(f.residuals)),
        "dead share": share(lambda f: statistics.fmean(f.dead)),
        "cosine gap": share(attrgetter("cosine_gap")),
    }
    return _by_phase(variants, columns)


def _by_phase(variants: Variants, columns: dict[str, Cell]) -> Table:
    rows = [((v, phase), (runs, phase)) for v, runs in variants.items() for phase in PHASES]
    return table_of(("run", "steps"), columns, rows)


def weights_table(variants: Variants) -> Table:
    """Return how alike the weights are, over all measured steps."""
    table = Table([
        "run", "target", "method", "cosine", "weight elsewhere", "same top", "same ranking", "tau",
    ])  # fmt: skip
    medians, means = ("cosine", "distance"), ("same_top", "same_ranking", "tau")
    for variant, runs in variants.items():
        for target in (TARGETS[0], BOTTOM):
            for method in runs[0].figures[0].weights:

                def value(figures: Figures, name: str, method: str = method) -> float | None:
                    return getattr(figures.weights[method], name)

                cells = [share(lambda f, n=name: value(f, n), target) for name in medians]
                cells += [share(lambda f, n=name: value(f, n), target, None) for name in means]
                table.add(variant, target, method, *(cell((runs, None)) for cell in cells))
    return table


def noise_table(groups: Variants) -> Table:
    """Return how the ratio goes with the noise of the batch, over all measured steps and seeds."""

    def correlation(found: Sequence[Figures]) -> str:
        if len(found) <= 2:
            return "-"
        noise = [statistics.fmean(f.residuals) for f in found]
        return f"{spearmanr(noise, [f.surrogate for f in found])[0]:+.2f}"

    columns: dict[str, Callable[[Sequence[Figures]], str]] = {
        "steps": lambda found: f"{len(found):,}",
        "equal weights better": lambda found: _percent([f.uniform < f.surrogate for f in found]),
        "residual over the least norm": lambda found: _percent(
            [f.residual_over_least > 1 for f in found if f.residual_over_least is not None]
        ),
        "ratio against residual / gradient, Spearman": correlation,
    }
    rows = [((n,), [f for run in runs for f in in_phase(run, None)]) for n, runs in groups.items()]
    return table_of(["run"], columns, rows)


def seeds_table(runs: Sequence[Run]) -> Table:
    """Return seed by seed what weights of all rows are worth on all rows: noise has no part."""
    table = Table(["run", "seed", "rows", "representation", "equal"])
    for run in runs:
        for last in [found for found in run.frozen if found.target == BOTTOM][-1:]:
            worth = f"{last.representation:.2f}", f"{last.uniform:.2f}"
            table.add(run.variant, str(run.seed), f"{last.rows:,}", *worth)
    return table


def frozen_table(variants: Variants, target: str) -> Table:
    """Return what weights of batches of each size are worth for the population, at a target."""
    columns = {
        "residual / gradient": over_seeds(mean_text, attrgetter("residual")),
        "ratio in the batch": over_seeds(factor_text, attrgetter("ratio")),
        "s2/s1 on the span": over_seeds(factor_text, attrgetter("bound")),
        "on all rows: representation": over_seeds(factor_text, attrgetter("representation")),
        "its own": over_seeds(factor_text, attrgetter("own")),
        "representation / its own": over_seeds(factor_text, lambda f: f.representation / f.own),
        "equal": over_seeds(factor_text, attrgetter("uniform")),
    }
    rows = []
    for variant, runs in variants.items():
        frozen = [[f for f in run.frozen if f.target == target] for run in runs if run.frozen]
        sizes = list(zip(*frozen, strict=True))[::2]
        rows += [((variant, f"{found[0].rows:,}"), found) for found in sizes]
    return table_of(("run", "rows"), columns, rows)


def spectrum_table(variants: Variants) -> Table:
    """Return the spectra, as geometric means over the seeds."""

    def mean(value: Callable[[Spectrum], float], form: str) -> Callable[[Any], str]:
        return lambda spectra: format(statistics.fmean(map(value, spectra)), form)

    def geometric(value: Callable[[Spectrum], float], form: str) -> Callable[[Any], str]:
        return lambda spectra: format(statistics.geometric_mean(map(value, spectra)), form)

    lower = mean(lambda s: _ratio(s.theorem[0], s.theorem[1]), ".1f")
    upper = geometric(lambda s: _ratio(s.theorem[3], s.theorem[1]), ".0f")
    columns = {
        "p": lambda spectra: f"{spectra[0].num_parameters:,}",
        "n H": lambda spectra: f"{spectra[0].num_outputs:,}",
        "dead": mean(lambda s: s.num_dead / s.num_outputs, ".0%"),
        "other zeros": mean(lambda s: (s.num_zeros - s.num_dead) / s.num_outputs, ".1%"),
        "s2": geometric(attrgetter("largest"), ".3g"),
        "least s > 0": geometric(attrgetter("smallest_positive"), ".2g"),
        "s2 / least s > 0": geometric(attrgetter("condition"), ",.0f"),
        "the same, 1 row": geometric(lambda s: s.conditions[0][1], ".1f"),
        "ratio": geometric(lambda s: _ratio(s.lemma[3], s.lemma[2]), ".3f"),
        "lemma's upper side / reached": geometric(lambda s: _ratio(s.lemma[4], s.lemma[3]), ".1f"),
        "Theorem 1: lower, upper side / least": lambda found: f"{lower(found)}, {upper(found)}",
    }
    rows = [
        ((variant, str(spectra[0].step)), spectra)
        for variant, runs in variants.items()
        for spectra in zip(*(run.spectra for run in runs), strict=True)
    ]
    return table_of(("run", "step"), columns, rows)


def in_phase(run: Run, phase: str | None, target: str = BOTTOM) -> list[Figures]:
    """Return the figures of a run in a phase, or in all of it; at least one."""
    figures = [found for found in run.figures if found.target == target]
    if phase is None:
        return figures
    first, last = (share * run.steps for share in PHASES[phase])
    return [found for found in figures if first <= found.step <= last] or figures[:1]


def over_steps(
    group: Group, value: Value, target: str = BOTTOM, quantile: float | None = 0.5
) -> list[float]:
    """Return a quantile over the steps of each run, or with None their mean."""
    runs, phase = group
    found = []
    for run in runs:
        numbers = [value(figures) for figures in in_phase(run, phase, target)]
        if there := [number for number in numbers if number is not None]:
            mean = quantile is None
            found.append(statistics.fmean(there) if mean else float(np.quantile(there, quantile)))
    return found


def factor(value: Value, target: str = BOTTOM, quantile: float | None = 0.5) -> Cell:
    """Return a column of ratios: over the steps of a run, then the geometric mean of the seeds."""
    return lambda group: factor_text(over_steps(group, value, target, quantile))


def share(value: Value, target: str = BOTTOM, quantile: float | None = 0.5) -> Cell:
    """Return a column of differences: over the steps of a run, then the mean of the seeds."""
    return lambda group: mean_text(over_steps(group, value, target, quantile))


def over_seeds(
    text: Callable[[Sequence[float]], str], value: Callable[[Any], float | None]
) -> Callable[[Sequence[Any]], str]:
    """Return a column of numbers of which each seed has one, or none."""
    return lambda found: text([v for one in found if (v := value(one)) is not None])


def factor_text(values: Sequence[float]) -> str:
    """Return the geometric mean over seeds, and its 95% interval.

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
    """Return the mean over seeds, and half its 95% interval.

    >>> mean_text([0.1, 0.2, 0.3])
    '0.20 ± 0.25'
    """
    if not values:
        return "-"
    found = estimate(values)
    return f"{found.mean:.2f}" + (f" ± {found.half:.2f}" if found.num > 1 else "")


def _percent(held: Sequence[bool]) -> str:
    return f"{100 * statistics.fmean(held):.1f} %" if held else "-"


def _ratio(side: float, other: float) -> float:
    """Return how far apart two sides are; 1 where a task without a gradient makes both 0."""
    return side / other if other else 1.0


def notes(runs: Sequence[Run]) -> list[str]:
    """Return how to read the tables."""
    spectra = [found for run in runs for found in run.spectra]
    holding = sum(found.holds for found in spectra)
    num_seeds = len({run.seed for run in runs})
    return [
        "ratio: |AB w| / min |AB w| over the simplex, with w the least-norm weights of the "
        "representation's gradients B, and AB the gradients of the target's parameters. 1 is a "
        "perfect surrogate; `equal weights` uses no gradient at all.",
        "Figures are medians over the measured steps of a run (same top, same ranking and tau: "
        f"means), then the mean of {num_seeds} seeds ± half a 95% interval; of ratios the "
        "geometric mean (its 95% interval).",
        "MultiBalance: the running weights of two copies of the balancer, one fed with the "
        "Gramians of the representation, one with those of the target, along the same run.",
        "weight elsewhere: half the sum of the absolute differences of the weights; IMTL-G's may "
        "be negative, and differ by more than 1.",
        "s2/s1 on the span: the lemma's bound of the ratio with the least and the largest |Ax|/|x| "
        "among combinations of the K gradients, to which alone its proof applies them.",
        "dead share: the part of the squared representation gradient at units that their ReLU "
        "has put at 0, which reaches no parameter.",
        "live units: those that are not 0; the ratio where the dead ones are left out of the "
        "representation's gradients.",
        "norm gap: by what factor the ratios of the tasks' norms differ between the two.",
        "over that of the first run: of the ratio at all shared parameters, paired by seed.",
        "The ratio and the noise: all measured steps of all seeds together; Spearman's rank "
        "correlation of the ratio with residual / gradient.",
        "residual: of eq. 9, estimated as half the distance between the gradients of two halves "
        "of the batch. Where residual / least norm is over 1, Theorem 1's lower side is negative.",
        "One set of parameters: after training the learning rates are 0, and batches are merged "
        "into larger ones. `on all rows`: |grad F w| / min |grad F w| of the gradients of all rows "
        "together, with the weights of a batch. The largest batches are a good part of these rows, "
        "which flatters their own weights.",
        f"The Jacobian is that of a few rows of rank 0, half of them clicked. Lemma 4.1, with and "
        f"without dead units, and Theorem 1 held in {holding} of {len(spectra)} cases up to "
        "rounding.",
    ]
