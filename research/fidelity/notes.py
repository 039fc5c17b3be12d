"""How to read the page of the surrogate's fidelity."""

from collections.abc import Sequence

from research.fidelity.figures import Run


def notes(runs: Sequence[Run]) -> list[str]:
    """Return how to read the tables."""
    spectra = [found for run in runs for found in run.spectra]
    holding = sum(found.holds for found in spectra)
    num_seeds = len({run.seed for run in runs})
    return [
        "ratio: |AB w| / min |AB w| over the simplex, with w the least-norm weights of the "
        "representation's gradients B, and AB the gradients of the target's parameters. 1 is a "
        "perfect surrogate; `equal weights` is what looking at no gradient gives.",
        "Figures are medians over the measured steps of a run (same top, same ranking and tau: "
        f"means), then the mean of {num_seeds} seeds ± half a 95 % interval; of ratios the "
        "geometric mean (its 95 % interval).",
        "MultiBalance: the running weights of two copies of the balancer, one fed with the "
        "Gramians of the representation, one with those of the target, along the same run.",
        "weight elsewhere: half the sum of the absolute differences of the weights; IMTL-G's may "
        "be negative, and differ by more than 1.",
        "s2/s1 on the span: the lemma's bound of the ratio with the least and the largest |Ax|/|x| "
        "among combinations of the K gradients, to which alone its proof applies them.",
        "dead share: of the squared representation gradient, what lies at units that their ReLU "
        "has put at 0, and reaches no parameter.",
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
