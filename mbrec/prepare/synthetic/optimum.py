"""The scores of the best possible model of a simulated data set."""

import numpy as np

from mbrec.config.synthetic import Array


def normalized_entropy_optimum(p: Array, weight: Array | None = None) -> float:
    """Return the normalized entropy of the true probabilities: the least that a model can expect.

    It is the rows' mean entropy over the entropy of their mean probability.

    Args:
        p: true probabilities, (N,).
        weight: of each row, (N,), such as the probability that it is clicked; default: 1.
    """
    p = np.asarray(p, dtype=np.float64)
    return float(np.average(_entropy(p), weights=weight) / _entropy(np.average(p, weights=weight)))


def auc_optimum(p: Array, weight: Array | None = None) -> float:
    """Return the AUC that the true probabilities can expect; ties count half.

    It is the probability that a positive row ranks above a negative one.

    Args:
        p: true probabilities, (N,).
        weight: of each row, (N,); default: 1.
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
