"""The difference between two sets of runs, with an interval over seeds and evaluation rows.

Runs are paired by seed, and all are scored on the same rows, as `mbrec.evaluate` writes them with
`predictions=DIR`. Other seeds would have trained other models, and other rows would have scored
them differently; an interval needs both. All pairs share the rows, so more seeds do not average
the rows' part out.

Rows: a Poisson bootstrap (Hanley and MacGibbon, "Creating non-parametric bootstrap samples using
Poisson frequencies", 2006). Each row, or each cluster of rows, is hashed into one of G groups; a
replicate gives each group a weight that all runs share. Resampling whole groups leaves the
variance as it is in expectation where clusters are independent ("random groups": Wolter,
"Introduction to Variance Estimation", 2007, chapter 2). So each run is read in batches, and only
its sums by group are kept: memory does not grow with the rows, whose order does not matter.

Seeds: Student's t; resampling five seeds with replacement would make intervals a third too short.
The variance between pairs, s^2 / S, contains what rows do to each pair on its own, and so does the
bootstrap of the mean; it is estimated, and counted once (the three terms are those of Owen, "The
pigeonhole bootstrap", 2007). The degrees of freedom of the sum are Welch's and Satterthwaite's.

AUC is not a sum over rows, but its linear part is (DeLong, DeLong and Clarke-Pearson 1988; for
clusters Obuchowski 1997): the mean over positives of the fraction of negatives below, and the
reverse. It takes a first pass for histograms of the scores.

Shapes: S pairs, B rows of a batch, G groups, P sums that make a figure, R replicates.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import t as student

from mbrec.columns.hashing import hash_rows
from mbrec.study.estimate import POWER, Estimate

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Parts = Callable[[Array, Array], Array]

# More leave the estimated variance as it is; its own relative error is sqrt(2 / GROUPS).
GROUPS = 4096
BATCH_ROWS = 1 << 16
_CHUNK = 64  # replicates at a time
_EPSILON = 1e-12  # as in torchrec's NE
# Scores whose logits round to the same bin are ties.
_BINS_PER_LOGIT, _LARGEST_LOGIT = 512, 45.0


@dataclass(frozen=True)
class Interval(Estimate):
    """A mean difference over seeds, with an interval over seeds and rows.

    Attributes:
        seed_error: standard error due to the seeds; infinite for a single pair.
        row_error: standard error due to the rows that all pairs share.
        groups: of rows that were resampled.
    """

    seed_error: float
    row_error: float
    groups: int


def difference(
    baseline: Sequence[Path],
    treated: Sequence[Path],
    figure: str = "ne",
    *,
    task: str,
    cluster: str | None = None,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return by how much a figure of the treated runs exceeds that of the baseline.

    Args:
        baseline: predictions of one run per seed: a Parquet file, or a folder of them.
        treated: of the other runs, in the same order of seeds.
        figure: `ne`, `auc` or `calibration`.
        task: whose predictions are compared.
        cluster: a column whose equal values are resampled together, such as the user; of the
            predictions, or else of the data set that their column `file` names. None: each row
            is a cluster.
        replicates: of the bootstrap, at least 2.
        level: of the interval, in (0, 1).
        seed: of the bootstrap.

    Raises:
        ValueError: if runs are not paired, differ in their rows or labels, have predictions that
            are not finite, or have too few rows for a figure.
    """
    if not baseline or len(baseline) != len(treated):
        raise ValueError(
            "expected one baseline run and one treated run per seed, got "
            f"{len(baseline)} and {len(treated)}; evaluate the missing ones"
        )
    if figure not in _VALUES:
        raise ValueError(f"expected figure to be one of {', '.join(_VALUES)}, got {figure}")
    if replicates < 2 or not 0 < level < 1:
        raise ValueError(
            f"expected 2 replicates or more and a level in (0, 1), got {replicates} and {level}"
        )
    runs = [Predictions(path, task, cluster) for path in (*baseline, *treated)]
    sums = [run.sums(figure) for run in runs]
    for run in runs:
        if run.labelled != runs[0].labelled:
            raise ValueError(
                f"expected the same rows and labels of {task} in all runs, got others in "
                f"{run.path} than in {runs[0].path}; evaluate both with the same data settings"
            )
    sums_2SGP = np.stack(sums).reshape(2, len(baseline), GROUPS, -1)
    return interval(sums_2SGP, figure, replicates=replicates, level=level, seed=seed)


def interval(
    sums_2SGP: Array, figure: str, *, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the interval of a difference from the sums of all runs by group.

    Args:
        sums_2SGP: of the baseline runs, then of the treated ones, in the same order of seeds.
        figure: `ne`, `auc` or `calibration`.
        replicates: of the bootstrap.
        level: of the interval.
        seed: of the bootstrap.

    Raises:
        ValueError: if the figure is undefined, on the rows or on a replicate of them.
    """
    sums_2SGP = sums_2SGP[:, :, (sums_2SGP != 0).any((0, 1, 3))]
    _, pairs, groups, _ = sums_2SGP.shape
    change_S = _changes(sums_2SGP.sum(2), figure)
    generator, chunks = np.random.default_rng(seed), []
    for start in range(0, replicates, _CHUNK):
        shape = min(_CHUNK, replicates - start), groups
        weights_RG = generator.poisson(1.0, shape).astype(np.float64)
        resampled_R2SP = np.tensordot(weights_RG, sums_2SGP, (1, 2))
        chunks.append(_changes(resampled_R2SP.transpose(1, 2, 0, 3), figure))
    change_SR = np.concatenate(chunks, 1)
    if not (np.isfinite(change_S).all() and np.isfinite(change_SR).all()):
        raise ValueError(
            f"expected both labels among the rows, and in each resample of their {groups} groups, "
            f"to compute {figure}, got a resample without; evaluate more rows"
        )
    mean, row_variance = float(change_S.mean()), float(change_SR.mean(0).var(ddof=1))
    if pairs == 1:
        unknown = math.inf, math.inf, math.inf
        return Interval(mean, *unknown, 1, math.inf, math.sqrt(row_variance), groups)
    # What rows do to each pair on its own, over S; the variance between pairs contains it.
    own = (float(change_SR.var(1, ddof=1).mean()) - row_variance) / (pairs - 1)
    by_seeds, by_rows = float(change_S.var(ddof=1)) / pairs, max(row_variance - max(own, 0.0), 0.0)
    shares = by_seeds**2 / (pairs - 1) + by_rows**2 / max(min(groups, replicates) - 1, 1)
    freedom = (by_seeds + by_rows) ** 2 / shares if shares else pairs - 1
    error = math.sqrt(by_seeds + by_rows)
    reach, more = (float(student.ppf(p, freedom)) for p in ((1 + level) / 2, POWER))
    errors = math.sqrt(by_seeds), math.sqrt(by_rows)
    return Interval(mean, reach * error, error, (reach + more) * error, pairs, *errors, groups)


def _changes(sums_2xP: Array, figure: str) -> Array:
    """Return treated less baseline; not finite where the figure is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        baseline, treated = _VALUES[figure](np.moveaxis(sums_2xP, -1, 0))
    return treated - baseline


def group_sums(groups_B: Integers, parts_PB: Array) -> Array:
    """Return the sums over the rows of each group (G, P)."""
    sums = [np.bincount(groups_B, part_B, minlength=GROUPS) for part_B in parts_PB]
    return np.stack(sums, 1).astype(np.float64)


def ne_parts(predictions_B: Array, labels_B: Array) -> Array:
    """Return log loss, label and 1 of each row."""
    p_B = np.clip(predictions_B, _EPSILON, 1 - _EPSILON)
    loss_B = -(labels_B * np.log(p_B) + (1 - labels_B) * np.log1p(-p_B))
    return np.stack([loss_B, labels_B, np.ones_like(labels_B)])


def _ne(sums: Array) -> Array:
    loss, positives, rows = sums
    rate = positives / rows
    return -loss / (positives * np.log(rate) + (rows - positives) * np.log1p(-rate))


def _calibration_parts(predictions_B: Array, labels_B: Array) -> Array:
    return np.stack([predictions_B, labels_B])


def _auc_parts(run: "Predictions") -> Parts:
    """Return each row's share of a run's AUC, which a pass over its histograms gives."""
    counts_2N = np.zeros((2, 2 * _bins(np.ones(1))[0] + 1))
    for _, predictions_B, labels_B in run.batches():
        bins_B = _bins(predictions_B) + len(counts_2N[0]) // 2
        for counts_N, weights_B in zip(counts_2N, (1 - labels_B, labels_B), strict=True):
            counts_N += np.bincount(bins_B, weights_B, minlength=len(counts_N))
    with np.errstate(invalid="ignore"):  # of one label only, which `interval` refuses
        negatives_N, positives_N = counts_2N / counts_2N.sum(1, keepdims=True)
    below_N = negatives_N.cumsum() - negatives_N / 2  # ties count half
    above_N = 1 - positives_N.cumsum() + positives_N / 2
    auc = positives_N @ below_N

    def parts(predictions_B: Array, labels_B: Array) -> Array:
        bins_B, others_B = _bins(predictions_B) + len(below_N) // 2, 1 - labels_B
        of_positives = labels_B * (below_N[bins_B] - auc / 2)
        return np.stack([of_positives, others_B * (above_N[bins_B] - auc / 2), labels_B, others_B])

    return parts


def _bins(predictions_B: Array) -> Integers:
    """Return the bin of each score's logit; 0 is that of 1/2."""
    with np.errstate(divide="ignore"):
        logits_B = np.log(predictions_B) - np.log1p(-predictions_B)
    logits_B = np.clip(logits_B, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    return np.rint(_BINS_PER_LOGIT * logits_B).astype(np.int64)


_VALUES: dict[str, Callable[[Array], Array]] = {
    "ne": _ne,
    "auc": lambda sums: sums[0] / sums[2] + sums[1] / sums[3],
    "calibration": lambda sums: sums[0] / sums[1],
}
_PARTS: dict[str, Callable[["Predictions"], Parts]] = {
    "ne": lambda _: ne_parts,
    "auc": _auc_parts,
    "calibration": lambda _: _calibration_parts,
}


class Predictions:
    """The labelled rows of one run, read in batches.

    Args:
        path: a Parquet file that `mbrec.evaluate` wrote, or a folder of them.
        task: whose predictions are read.
        cluster: see `difference`.

    Attributes:
        path: as given.
        labelled: the number of rows read, and the sum of hashes of their places and labels: the
            same for all runs on the same rows.
    """

    def __init__(self, path: Path, task: str, cluster: str | None = None) -> None:
        self.path, self._cluster = path, cluster
        self._prediction, self._label = f"prediction_{task}", f"label_{task}"
        self._files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        self.labelled = 0, 0

    def sums(self, figure: str) -> Array:
        """Return the sums that make a figure, by group of rows (G, P).

        Raises:
            ValueError: if a column is missing, a prediction is not finite, or no row has a label.
        """
        parts = _PARTS[figure](self)
        batches = (group_sums(groups_B, parts(*row)) for groups_B, *row in self.batches())
        total = sum(batches, np.zeros(()))
        if not self.labelled[0]:
            raise ValueError(f"expected rows with a {self._label} in {self.path}, got none")
        return total

    def batches(self) -> Iterator[tuple[Integers, Array, Array]]:
        """Yield group, prediction and label of the rows that have a label."""
        data_set = _DataSet()
        self.labelled = 0, 0
        for table in self._tables():
            clusters = rows = hash_rows(table.select(["file", "row", self._label]))[0]
            if self._cluster in table.column_names:
                clusters = _hash_clusters(table[self._cluster], self.path)
            elif self._cluster:
                clusters = data_set.clusters(table, self._cluster)
            labels_B = table[self._label].to_numpy().astype(np.float64)
            count, hashes = self.labelled
            hashes = (hashes + int(rows.sum(dtype=np.uint64))) % 2**64
            self.labelled = count + len(rows), hashes
            groups_B = (clusters % np.uint64(GROUPS)).astype(np.int64)
            yield groups_B, table[self._prediction].to_numpy(), labels_B

    def _tables(self) -> Iterator[pa.Table]:
        wanted = ["file", "row", self._prediction, self._label]
        for file in self._files:
            with pq.ParquetFile(file) as parquet:
                names = parquet.schema_arrow.names
                if missing := set(wanted) - set(names):
                    raise ValueError(
                        f"expected the columns {', '.join(wanted)} in {file}, got none of the name "
                        f"{', '.join(sorted(missing))}; mbrec.evaluate predictions=DIR writes them"
                    )
                columns = [*wanted, *(name for name in names if name == self._cluster)]
                for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                    table = pa.table(batch).filter(batch[self._label].is_valid())
                    if table[self._prediction].null_count:
                        raise ValueError(
                            f"expected finite values of {self._prediction} in {file}, got rows "
                            "without; a run with such rows has no figures to compare"
                        )
                    yield table


class _DataSet:
    """Looks up a column of the files that the predictions name; keeps one row group of it."""

    def __init__(self) -> None:
        self._kept: tuple[str, int] | None = None
        self._hashes: Hashes = np.zeros(0, np.uint64)

    def clusters(self, table: pa.Table, column: str) -> Hashes:
        """Return a hash of the column in each row that `file` and `row` name."""
        found = np.empty(len(table), np.uint64)
        files, rows = table["file"].cast(pa.string()).to_numpy(), table["row"].to_numpy()
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            with pq.ParquetFile(file) as parquet:
                if column not in parquet.schema_arrow.names:
                    raise ValueError(
                        f"expected the column {column} in the predictions or in {file}, got none; "
                        "name another cluster"
                    )
                every = map(parquet.metadata.row_group, range(parquet.num_row_groups))
                sizes = [group.num_rows for group in every]
                ends = np.cumsum(sizes)
                numbers = np.searchsorted(ends, rows[here], side="right")
                for number in np.unique(numbers):
                    chosen = here[numbers == number]
                    if self._kept != (file, number):
                        content = parquet.read_row_group(int(number), columns=[column])
                        self._hashes = _hash_clusters(content[column], file)
                        self._kept = file, number
                    found[chosen] = self._hashes[rows[chosen] - ends[number] + sizes[number]]
        return found


def _hash_clusters(column: pa.ChunkedArray, where: object) -> Hashes:
    if column.null_count:
        raise ValueError(
            f"expected a cluster in each row of {where}, got {column.null_count} nulls; write a "
            "value of its own for each row that belongs to no other"
        )
    return hash_rows(pa.table({"cluster": column}))[0]
