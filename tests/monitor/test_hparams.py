"""Runs of a sweep stand in one table of TensorBoard's, with the settings they differ in."""

import logging
from pathlib import Path

import pytest
from jobs import compose
from omegaconf import OmegaConf
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.compat.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes it at import)
)
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import backend_context, get_experiment, list_session_groups
from tensorboard.plugins.hparams.api_pb2 import (
    GetExperimentRequest,  # pyright: ignore[reportAttributeAccessIssue]
    ListSessionGroupsRequest,  # pyright: ignore[reportAttributeAccessIssue]
)
from torch.utils.tensorboard.writer import FileWriter

from mbrec.monitor import hparams

TASKS = ["ctr", "cvr", "conv_imp"]


def settings(folder: Path, *overrides: str) -> hparams.Settings:
    return hparams.settings(OmegaConf.structured(compose(folder, *overrides)), overrides)


def test_a_line_has_what_a_sweep_may_differ_in_and_not_where_the_run_ran(tmp_path):
    where = ["run.name=a", "data.path=x", "monitor.every=3", "runtime.timeout_s=9"]
    group = ["balancer=sdmgrad", "tasks=[ctr,cvr]", "+model.sharding={user: row_wise}"]
    found = settings(tmp_path, *where, *group, "trainer.epochs=4", "data.order=exact")
    assert found == {
        "tasks": "[ctr,cvr]",
        "model.sharding": "{user: row_wise}",
        "trainer.epochs": 4,
        "data.order": "exact",
        "balancer": "SDMGrad",
        "balancer.lr": 10.0,
        "balancer.iterations": 20,
        "balancer.momentum": 0.5,
        "balancer.prior_strength": 0.3,
        "balancer.output_scale": 1.0,
        "trainer.global_batch_size": 256,
        "trainer.seed": 0,
        "optimizer.dense_lr": 0.005,
        "optimizer.table_lr": 0.04,
    }


def test_two_runs_are_two_lines_of_one_table(tmp_path):
    lines = {"a": (0.1, 0.91), "b": (0.5, 0.92)}
    for name, (lr, ne) in lines.items():
        folder = tmp_path / name / "tensorboard"
        writer = FileWriter(str(folder))
        for step, value in ((10, 2.0), (20, ne)):
            scalar = Summary.Value(tag="evaluation_ne/ctr", simple_value=value)
            writer.add_summary(Summary(value=[scalar]), step)
        writer.close()
        hparams.write(folder, settings(tmp_path, f"balancer.lr={lr}"), TASKS)

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider))
    args = (RequestContext(), context, "")
    table = get_experiment.Handler(*args, GetExperimentRequest()).run()
    columns = {column.name for column in table.hparam_infos}
    expected = set(settings(tmp_path, "balancer.lr=1"))
    assert columns == expected >= {"balancer", "balancer.lr", "trainer.seed"}
    metrics = {f"evaluation_{name}/{task}" for name in ("ne", "auc") for task in TASKS}
    assert {metric.name.tag for metric in table.metric_infos} == metrics
    # Of those that have ended well.
    request = ListSessionGroupsRequest(slice_size=9, allowed_statuses=[1])
    groups = list_session_groups.Handler(*args, request).run().session_groups
    found = {}
    for group in groups:
        assert set(group.hparams) == columns
        values = {value.name.tag: value.value for value in group.metric_values}
        found[group.hparams["balancer.lr"].number_value] = values["evaluation_ne/ctr"]
    # The last evaluation's.
    assert found == pytest.approx(dict(lines.values()))


def test_without_space_a_run_ends_all_the_same(tmp_path, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileWriter, "add_summary", full)
    with caplog.at_level(logging.WARNING):
        hparams.write(tmp_path, {"balancer": "Equal"}, TASKS)
    (record,) = caplog.records
    assert "No space left" in record.getMessage()
