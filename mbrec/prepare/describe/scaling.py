"""How numbers become inputs of a size that a model learns from."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mbrec.prepare.describe.names import IDS, words
from mbrec.prepare.describe.profile import Field

# Distance from the median up to the 99% quantile over the distance down to the 1% quantile:
# 1 for a normal distribution, 6 for an exponential one.
_SKEWED = 5.0
_WORTH_A_LOGARITHM = 2.0
# A value this many times the inner 98% beyond them would dominate the mean and the deviation.
_FAR_OUT = 10.0


def unfit(column: Field) -> str | None:
    """Return why a column of floating-point numbers cannot be a feature, or None."""
    if column.has_infinities:
        return "holds infinities; clip them when the data is prepared"
    whole = all(value == math.floor(value) for value in column.stats.quantiles or [0.5])
    if not column.is_list and whole and IDS & set(words(column.name)):
        return "ids as floating-point numbers, as missing values make them; write integers"
    return None


def settings(column: Field, *, written: bool) -> tuple[dict[str, Any], str]:
    """Return the settings of a numerical feature, and the reason for them.

    Args:
        column: of numbers, not all of them equal.
        written: write mean and deviation down; otherwise they come from the manifest.
    """
    found: dict[str, Any] = {}
    reasons: list[str] = []
    stats = column.stats
    quantiles = np.array(stats.quantiles or [stats.min or 0.0, stats.max or 1.0])
    logarithm = _is_skewed(column, quantiles)
    if logarithm:
        found["transform"] = "log1p"
        reasons.append("skewed")
    clip = _limits(quantiles, logarithm)
    if clip is not None:
        found["clip"] = clip
        reasons.append("long tails")
    elif logarithm and not (column.elsewhere.is_known and column.elsewhere.least >= 0):
        found["clip"] = clip = [0.0, _rounded(float(quantiles[-1]), math.ceil)]
        reasons.append("log1p needs numbers of at least 0, and other files may have less")
    mean, std = (stats.log1p_mean, stats.log1p_std) if logarithm else (stats.mean, stats.std)
    if clip is not None or mean is None or std is None:
        inner = np.clip(quantiles, clip[0], clip[1]) if clip else quantiles
        inner = np.log1p(inner) if logarithm else inner
        mean, std, written = float(inner.mean()), float(inner.std()), True
    if written:
        found |= {"mean": float(f"{mean:.6g}"), "std": float(f"{std:.6g}") or 1.0}
    else:
        found["standardise"] = True
    if column.has_nulls or stats.not_finite:
        found["missing"] = "indicator"
    least, most = column.elsewhere.least, column.elsewhere.most
    median = quantiles[len(quantiles) // 2]
    if least <= most and (least > median or most < median):
        ends = f"{number(least)} to {number(most)}"
        reasons.append(f"DRIFTS: other files have {ends}; a clock in disguise?")
    return found, ", ".join(reasons)


def number(value: float) -> str:
    """Return a number for people: 1,234,567, 0.0123."""
    if value == math.floor(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _is_skewed(column: Field, quantiles: np.ndarray) -> bool:
    least = column.stats.min
    if least is None or least < 0 or column.stats.log1p_mean is None or len(quantiles) < 100:
        return False
    low, median, high = quantiles[1], quantiles[50], quantiles[99]
    if quantiles[-1] <= _WORTH_A_LOGARITHM:
        return False
    return high - median > _SKEWED * (median - low) or (high == low and quantiles[-1] > 100)


def _limits(quantiles: np.ndarray, logarithm: bool) -> list[float] | None:
    """Return the limits to clip to, if a few values lie very far out."""
    if len(quantiles) < 100 or quantiles[1] == quantiles[99]:
        return None
    scaled = np.log1p(quantiles) if logarithm else quantiles
    inner = scaled[99] - scaled[1]
    above, below = scaled[-1] - scaled[99], scaled[1] - scaled[0]
    if max(above, below) <= _FAR_OUT * inner:
        return None
    low, high = quantiles[1 if below > inner else 0], quantiles[99 if above > inner else -1]
    return [_rounded(float(low), math.floor), _rounded(float(high), math.ceil)]


def _rounded(value: float, direction: Callable[[float], int]) -> float:
    """Return a number with 3 significant digits, by `math.floor` or `math.ceil`."""
    if not value:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return float(f"{direction(value / step) * step:.6g}")
