"""The rates of labels by split, and by day or file."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mbrec.columns.expression import parse
from mbrec.prepare.describe.clock import days, find_clock, time_of
from mbrec.prepare.describe.label_names import Label
from mbrec.prepare.describe.profile import Profile
from mbrec.prepare.describe.scan import read_batches


@dataclass
class LabelRates:
    """How often labels are 1.

    Attributes:
        labels: their names.
        clock: the column that tells the day; None where `places` are files.
        are_dates: whether days count from 1970-01-01.
        splits: name -> place (day, or number of the file) -> rows, and the sum of each label.
    """

    labels: list[str]
    clock: str | None
    are_dates: bool
    splits: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def of(self, split: str) -> list[float]:
        """Return the rate of each label in a split; NaN where there is no row."""
        total = sum(self.splits[split].values(), np.zeros(1 + len(self.labels)))
        return [float(s / total[0]) if total[0] else float("nan") for s in total[1:]]


def count_labels(profile: Profile, labels: list[Label]) -> LabelRates:
    """Read the labels of all rows, and their days.

    Raises:
        ValueError: naming a file that cannot be read, or a label that cannot be computed.
    """
    clock = find_clock(profile)
    how = time_of(clock, profile) if clock else None
    expressions = [parse(label.expression) for label in labels]
    names = [name for expression in expressions for name in expression.columns]
    names += [clock.name] if clock else []
    schema = pa.schema([profile.schema.field(name) for name in dict.fromkeys(names)])
    rates = LabelRates([x.name for x in labels], clock and clock.name, how != "count")
    places = 0
    for split, files in profile.layout.splits.items():
        sums = rates.splits.setdefault(split, {})
        title, rows = f"labels of {split}", profile.rows[split]
        for file, table in read_batches(profile.store, files, schema, title, rows):
            values = [np.ones(len(table))]
            values += [_numbers(expression.evaluate(table)) for expression in expressions]
            at = np.full(len(table), places + file)
            if clock is not None and how is not None:
                at = days(table[clock.name].combine_chunks(), how)
            _add(sums, at, np.stack(values, axis=1))
        places += len(files)
    return rates


def _add(sums: dict[int, np.ndarray], at: np.ndarray, values: np.ndarray) -> None:
    order = np.argsort(at, kind="stable")
    found, starts = np.unique(at[order], return_index=True)
    if not len(found):
        return
    for place, total in zip(found.tolist(), np.add.reduceat(values[order], starts), strict=True):
        sums[place] = sums.get(place, 0) + total


def _numbers(array: pa.Array) -> np.ndarray:
    return np.nan_to_num(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
