"""What the best possible model of a simulated data set would score."""

import numpy as np

from mbrec.config.synthetic import Array


def normalized_entropy_optimum(p: Array, weight: Array | None = None) -> float:
    """Normalized entropy that the true probabilities reach: the least that any model can expect.

    Args:
        p: True probabilities, (N,).
        weight: Weight of each row, (N,), such as the probability that it is clicked; or all 1.

    Returns:
        The rows' mean entropy over the entropy of their mean probability.
    """
    p = np.asarray(p, dtype=np.float64)
    return float(np.average(_entropy(p), weights=weight) / _entropy(np.average(p, weights=weight)))


def auc_optimum(p: Array, weight: Array | None = None) -> float:
    """Area under the ROC curve that the true probabilities can expect; ties count half.

    Args:
        p: True probabilities, (N,).
        weight: Weight of each row, (N,); or all 1.

    Returns:
        The probability that a positive row ranks above a negative one.
    """
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    rows = np.ones_like(p) if weight is None else np.asarray(weight, dtype=np.float64)
    positive, negative = (rows * p)[order], (rows * (1 - p))[order]
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum() - positive @ negative
    return float(positive @ below / pairs)


def _entropy(p: Array) -> Array:
    tiny = np.finfo(np.float64).tiny  # 0 ln 0 = 0
    return -p * np.log(np.maximum(p, tiny)) - (1 - p) * np.log(np.maximum(1 - p, tiny))
