"""A disk that is full ends TensorBoard's files, and not the run."""

import logging
from pathlib import Path

import pytest
import torch
from saving import alone

from mbrec.balance import BalanceHook, Equal
from mbrec.metrics import TaskMetrics
from mbrec.monitor import Monitor
from mbrec.unknown import UnknownIds


@pytest.fixture
def monitor(tmp_path: Path):
    cpu = torch.device("cpu")
    with alone():
        metrics = TaskMetrics(["ctr"], batch_size=8, device=cpu, auc=False)
        yield Monitor(
            ["ctr"],
            BalanceHook(Equal(1), task_names=["ctr"]),
            metrics,
            UnknownIds([], device=cpu),
            tmp_path,
            every=5,
            rows_per_step=8,
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
