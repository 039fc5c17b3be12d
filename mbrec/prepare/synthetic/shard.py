"""Consecutive impressions of the synthetic world, and the columns they are stored in."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mbrec.config.synthetic import LABELS, ORACLE_PREFIX, Array


@dataclass(frozen=True)
class Shard:
    """Consecutive impressions: N rows in time order, tasks in the order of `LABELS`.

    Attributes:
        days: days since the log began, (N,) int32.
        users, items: ids, (N,) int64.
        tags: tag ids of the items, N lists of int64.
        dense: standard normal features, (N, 8) float32.
        labels: 0 or 1, (N, 5) int8, as they are known when the log is read; there is no
            conversion without a click.
        conversion_label: whether a click on the row converts, clicked or not, (N,) int8.
        probabilities: that the labels are drawn from, (N, 5) float64; of a conversion: if clicked,
            however late.
        history: item ids that explain nothing, N lists of int64, or None.
        missing: which raw dense values are null, (N, 8) bool, or None without raw columns.
        delays: days until a click converts if it does, (N,) float64, or None without delay.
    """

    days: Array
    users: Array
    items: Array
    tags: pa.ListArray
    dense: Array
    labels: Array
    conversion_label: Array
    probabilities: Array
    history: pa.ListArray | None = None
    missing: Array | None = None
    delays: Array | None = None

    def table(self) -> pa.Table:
        """Return the rows as Parquet stores them: day, features, labels and oracle columns."""
        columns: dict[str, Any] = {"day": self.days, "user": self.users, "item": self.items}
        columns["tags"] = self.tags
        if self.history is not None:
            columns["history"] = self.history
        columns |= {f"x{column}": values for column, values in enumerate(self.dense.T)}
        if self.missing is not None:
            raw = np.exp(self.dense.astype(np.float64)).astype(np.float32)
            for column, (values, missing) in enumerate(zip(raw.T, self.missing.T, strict=True)):
                columns[f"x{column}_raw"] = pa.array(values, mask=missing)
        columns |= dict(zip(LABELS, self.labels.T, strict=True))
        oracle: dict[str, Array] = dict(zip(LABELS, self.probabilities.T, strict=True))
        oracle["click_conversion"] = oracle["click"] * oracle["conversion"]
        oracle["conversion_label"] = self.conversion_label
        if self.delays is not None:
            oracle["eventual_conversion"] = self.labels[:, 0] * self.conversion_label
            oracle["conversion_delay"] = self.delays
        return pa.table(columns | {ORACLE_PREFIX + name: oracle[name] for name in oracle})
