"""Rows of an evaluation whose predictions are not finite: where they are, and what is in them.

Training has a guard for such rows; here they cannot harm a parameter, but they leave a task without
figures.

Shapes: B rows, K tasks, N numerical inputs.
"""

import logging
import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from mbrec.distributed.agreement import gather
from mbrec.metrics.outputs import Outputs
from mbrec.reader.parquet import ParquetReader

log = logging.getLogger(__name__)

Report = dict[str, dict[str, float | None]]

# Inputs that a warning names.
SHOWN = 3


class NotFiniteRows:
    """Keeps the first row of an evaluation that has a prediction which is not finite.

    It stays on the device: to read each batch from the host would hold up the next one.

    Args:
        inputs: names of the numerical inputs, in order.
        reader: of the rows.
        device: of the outputs.
    """

    def __init__(
        self, inputs: Sequence[str], reader: ParquetReader, *, device: torch.device
    ) -> None:
        self._inputs, self._reader = list(inputs), reader
        self._row_1 = torch.full((1,), -1, device=device)
        self._values_1N = torch.zeros(1, len(self._inputs), device=device)

    def update(self, outputs: Outputs) -> None:
        """Check the rows of a step."""
        bad_BK = ~outputs.predictions_BK.isfinite() & (outputs.masks_BK > 0)
        bad_B = bad_BK.any(1) & (outputs.rows_B >= 0)
        # Not a tensor without dimensions: as an index, the host would read it.
        first_1 = bad_B.int().argmax(0, keepdim=True)
        is_new_1 = bad_B[first_1] & (self._row_1 < 0)
        self._row_1 = torch.where(is_new_1, outputs.rows_B[first_1], self._row_1)
        if outputs.dense_BN is not None:
            values_1N = outputs.dense_BN[first_1]
            self._values_1N = torch.where(is_new_1[:, None], values_1N, self._values_1N)

    def warn(self, report: Report) -> None:
        """Name the tasks without figures, and the first row that is the cause, if there is any.

        Collective: every rank must call it, with the same report.
        """
        counts = {t: int(n) for t, found in report.items() if (n := found.get("not_finite"))}
        if not counts:
            return
        found = gather(self._describe())
        if dist.get_rank() == 0:
            log.warning("%s", message(counts, next(filter(None, found), "")))

    def reset(self) -> None:
        """Forget the row."""
        self._row_1 = torch.full_like(self._row_1, -1)

    def _describe(self) -> str:
        if int(self._row_1) < 0:
            return ""
        (file,), (place,) = self._reader.locate(self._row_1.cpu().numpy())
        values = dict(zip(self._inputs, self._values_1N[0].tolist(), strict=True))
        largest = sorted(values, key=lambda name: -abs(values[name]))[:SHOWN]
        text = f"row {place:,} of {file}"
        if largest:
            shown = ", ".join(f"{name} = {values[name]:.6g}" for name in largest)
            text += f", with the largest inputs {shown} (as the model sees them)"
        return text


def message(counts: Mapping[str, int], example: str) -> str:
    """Return the warning about the rows without a finite prediction of each task.

    The example says where such a row is, and what is in it; empty if that is not known.
    """
    tasks = ", ".join(f"{task} ({count:,})" for task, count in counts.items())
    first = f" One of them: {example}." if example else ""
    return (
        "evaluation: expected finite predictions, got rows without one, by task: "
        f"{tasks}. The figures of these tasks are null.{first} Correct the rows, or limit the "
        "column with clip: [least, largest]."
    )


def only_finite(report: Report) -> Report:
    """Return a report with null in the place of every figure that cannot be relied on.

    That is what is not a finite number, and all that is computed from the predictions of a task
    with rows in `not_finite`.

    >>> only_finite({"ctr": {"ne": 0.9, "excess_ne": math.nan}})
    {'ctr': {'ne': 0.9, 'excess_ne': None}}
    >>> only_finite({"ctr": {"rate": 0.5, "gauc": 0.7, "not_finite": 1.0}})
    {'ctr': {'rate': 0.5, 'gauc': None, 'not_finite': 1.0}}
    """
    kept = ("count", "rate", "not_finite")
    return {
        task: {
            name: value
            if value is not None
            and math.isfinite(value)
            and (name in kept or not figures.get("not_finite"))
            else None
            for name, value in figures.items()
        }
        for task, figures in report.items()
    }
