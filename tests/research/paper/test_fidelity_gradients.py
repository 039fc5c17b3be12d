"""The gradients of a step are those of K backward passes, and all ranks together have one batch."""

import pytest
import torch
from jobs import compose
from torch import Tensor
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from mbrec.balance import BalanceHook, MultiBalance
from mbrec.columns.schema import Columns
from mbrec.config.tasks import Task
from mbrec.model.embeddings import CategoricalModule
from mbrec.model.interactions.dcn import DCN
from mbrec.model.numerical import NumericalModule
from mbrec.model.ranker import Heads, Ranker, SharedBottom, TableGuard
from mbrec.reader.batch import Batch
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import open_store
from research.fidelity.gradients import BOTTOM, MODULES, GradientWatch, rows_for_all

TASKS = {"ctr": Task("click"), "cvr": Task("conversion", given="click", hidden=[8])}


def ranker(columns: Columns) -> Ranker:
    torch.manual_seed(0)
    categorical = CategoricalModule(columns.categorical, 4)
    # Off the meta device: without sharding nobody else makes these tables.
    configs = categorical.embeddings.embedding_bag_configs()
    categorical.embeddings = EmbeddingBagCollection(tables=configs)
    numerical = NumericalModule(len(columns.numerical), [8])
    interaction = DCN(categorical.out_features + 8, hidden=[16])
    hook = BalanceHook(MultiBalance(2), task_names=list(TASKS))
    return Ranker(SharedBottom(categorical, numerical, interaction, TableGuard()),
                  Heads(TASKS, 16, hook))  # fmt: skip


@pytest.fixture(scope="module")
def data(tiny_data) -> tuple[Columns, Batch]:
    config = compose(tiny_data)
    columns = config.data.columns
    store = open_store(str(tiny_data / config.data.synthetic.fingerprint))
    files = store.find(config.data.train)
    reader = ParquetReader(files, columns, TASKS, global_batch_size=128, store=store)
    return columns, next(iter(reader))


def by_backward(model: Ranker, batch: Batch, rows_B: Tensor | None = None) -> dict[str, Tensor]:
    """Return module -> its parameters' gradients (K, P), by one backward pass a task.

    With `rows_B` the losses are means over those rows.
    """
    bottom, grads = model.bottom, []
    rows_B = torch.ones(len(batch.labels_BK)) if rows_B is None else rows_B
    model.eval()  # the hook is the identity
    for k, mlp in enumerate(model.heads.mlps.values()):
        model.zero_grad()
        losses_B = torch.nn.functional.binary_cross_entropy_with_logits(
            mlp(bottom(batch))[:, 0], batch.labels_BK[:, k], reduction="none"
        )
        ((losses_B * batch.masks_BK[:, k] * rows_B).sum() / rows_B.sum()).backward()
        modules = (bottom.interaction, bottom.numerical, bottom.categorical)
        grads.append([torch.cat([p.grad.flatten() for p in m.parameters()]) for m in modules])
    model.train()
    model.zero_grad()
    stacked = [torch.stack(part).double() for part in zip(*grads, strict=True)]
    return dict(zip(MODULES, stacked, strict=True))


def test_the_gradients_are_those_of_one_backward_pass_a_task_even_of_the_tables(data):
    columns, batch = data
    model = ranker(columns)
    expected = by_backward(model, batch)
    watch = GradientWatch(model, columns)
    model(batch)[0].backward()
    found = watch.take()
    torch.testing.assert_close(
        found.representation_KK, model.heads.hook.gramian, rtol=1e-5, atol=1e-12
    )
    expected[BOTTOM] = torch.cat(list(expected.values()), 1)
    assert found.parameters_KK.keys() == expected.keys()
    assert {*found.grads_KP, BOTTOM} == expected.keys()
    for name, grads_KP in expected.items():
        gramian_KK = grads_KP @ grads_KP.T
        torch.testing.assert_close(found.parameters_KK[name], gramian_KK, rtol=1e-4, atol=1e-11)
    for name, grads_KP in found.grads_KP.items():
        torch.testing.assert_close(grads_KP, expected[name], rtol=1e-4, atol=1e-7)
    assert (found.live_KK.diagonal() < found.representation_KK.diagonal()).all()


def test_a_sample_keeps_the_module_of_the_forward_pass_and_its_own_mean_gradients(data):
    columns, batch = data
    model = ranker(columns)
    watch = GradientWatch(model, columns)
    watch.want_sample(16)
    model(batch)[0].backward()
    before = model.bottom.interaction.projection(torch.ones(1, 20)).double()
    with torch.no_grad():
        for parameter in model.bottom.parameters():
            parameter.add_(1.0)
    sample = watch.take().sample
    torch.testing.assert_close(
        sample.interaction.projection(torch.ones(1, 20).double()), before, rtol=1e-5, atol=1e-6
    )
    assert sample.inputs_nI.shape == (16, 20)
    assert sample.grads_KnH.shape == (2, 16, 16)
    assert (sample.grads_KnH[1] != 0).any(1).sum() == 8  # half are clicked
    model(batch)[0].backward()
    assert watch.take().sample is None  # one is enough


def test_the_residual_is_half_the_distance_between_the_means_of_two_halves(data):
    columns, batch = data
    model = ranker(columns)
    odd_B = (torch.arange(128) % 2).float()
    odd, even = (by_backward(model, batch, rows_B) for rows_B in (odd_B, 1 - odd_B))
    watch = GradientWatch(model, columns)
    model(batch)[0].backward()
    for part in (odd, even):
        part[BOTTOM] = torch.cat(list(part.values()), 1)
    for name, residuals_K in watch.take().residuals_K.items():
        expected_K = (odd[name] - even[name]).norm(dim=1) / 2
        torch.testing.assert_close(residuals_K, expected_K, rtol=1e-4, atol=1e-9)


def test_closing_the_watch_leaves_no_hook_in_the_model(data):
    columns, batch = data
    model = ranker(columns)
    watch = GradientWatch(model, columns)
    watch.close()
    model(batch)[0].backward()
    with pytest.raises(AssertionError, match="a step of training"):
        watch.take()
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_half_of_a_sample_are_rows_that_all_tasks_learn_from_where_there_are_as_many():
    rows_KBH = torch.zeros(2, 8, 3)
    rows_KBH[0] = 1.0
    rows_KBH[1, [3, 5, 6]] = 1.0
    assert rows_for_all(rows_KBH, 4).tolist() == [3, 5, 0, 1]
    assert rows_for_all(rows_KBH, 8).tolist() == [3, 5, 6, 0, 1, 2, 4, 7]
    rows_KBH[1] = 0.0
    assert rows_for_all(rows_KBH, 2).tolist() == [0, 1]
