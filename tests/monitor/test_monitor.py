"""A disk that is full ends TensorBoard's files, and not the run."""

import logging
from pathlib import Path

import pytest
import torch
from saving import alone

from mbrec.balance import BalanceHook, Equal
from mbrec.metrics.lost_ids import LostIds
from mbrec.metrics.outputs import Outputs
from mbrec.metrics.task_metrics import TaskMetrics
from mbrec.monitor.monitor import Monitor


@pytest.fixture
def monitor(tmp_path: Path):
    cpu = torch.device("cpu")
    with alone():
        metrics = TaskMetrics(["ctr"], batch_size=8, device=cpu, auc=False)
        yield Monitor(
            ["ctr"],
            BalanceHook(Equal(1), task_names=["ctr"]),
            metrics,
            LostIds([], device=cpu),
            tmp_path,
            every=5,
            total_steps=10,
            progress=False,
        )


def test_a_full_disk_is_told_once_and_lived_through(monitor, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(monitor._writer, "add_summary", full)
    with caplog.at_level(logging.WARNING):
        monitor.evaluated(1, {"ctr": {"ne": 0.9}}, {})
        monitor.evaluated(2, {"ctr": {"ne": 0.8}}, {})
        monitor.close()
    (record,) = caplog.records
    assert "No space left" in record.getMessage()


def test_padding_is_no_row_of_the_speed(monitor):
    def outputs(rows: list[int]) -> Outputs:
        ones = torch.ones(len(rows), 1)
        rows_B = torch.tensor(rows)
        masks_BK = (rows_B >= 0)[:, None].float()
        return Outputs(torch.ones(1), 0.5 * ones, ones, masks_BK, rows_B, None)

    for step, rows in enumerate([[0, 1, 2, 3], [4, 5, -1, -1]], start=1):
        monitor.record(step, outputs(rows), {})
    monitor.flush()
    assert monitor.rows_per_second * monitor._seconds == pytest.approx(6)
