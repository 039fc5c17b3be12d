import pytest
import torch
from jobs import compose
from ranks import run_ranks
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from mbrec.balance import BalanceHook, MultiBalance
from mbrec.config.tasks import Task
from mbrec.model.embeddings import CategoricalModule
from mbrec.model.interactions.dcn import DCN
from mbrec.model.numerical import NumericalModule
from mbrec.model.ranker import Heads, Ranker, SharedBottom, count_parameters
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import open_store

TASKS = {"ctr": Task("click"), "cvr": Task("conversion", given="click", hidden=[8])}


def small_ranker(columns, hook=None) -> Ranker:
    torch.manual_seed(0)
    categorical = CategoricalModule(columns.categorical, 4)
    # Off the meta device: without sharding nobody else makes these tables.
    configs = categorical.embeddings.embedding_bag_configs()
    categorical.embeddings = EmbeddingBagCollection(tables=configs)
    numerical = NumericalModule(len(columns.numerical), [8])
    interaction = DCN(categorical.out_features + 8, hidden=[16])
    return Ranker(SharedBottom(categorical, numerical, interaction), Heads(TASKS, 16, hook))


@pytest.fixture(scope="module")
def data(tiny_data):
    config = compose(tiny_data)
    root = tiny_data / config.data.synthetic.fingerprint
    store = open_store(str(root))
    reader = ParquetReader(
        store.find(config.data.train),
        config.data.columns,
        TASKS,
        global_batch_size=128,
        store=store,
    )
    return config.data.columns, next(iter(reader))


def test_the_loss_is_the_sum_of_the_masked_losses_over_the_batch_size(data):
    columns, batch = data
    loss, outputs = small_ranker(columns)(batch)
    p, y = outputs.predictions_BK.double(), batch.labels_BK.double()
    each = -(y * p.log() + (1 - y) * (1 - p).log())
    clicked = batch.labels_BK[:, 0]
    ctr, cvr = each[:, 0].sum() / 128, (each[:, 1] * clicked).sum() / 128
    torch.testing.assert_close(
        outputs.losses_K.double(), torch.stack([ctr, cvr]), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(loss, outputs.losses_K.sum())


def test_the_hook_sees_losses_and_counts_and_outputs_are_detached(data):
    columns, batch = data
    hook = BalanceHook(MultiBalance(2), task_names=list(TASKS))
    loss, outputs = small_ranker(columns, hook)(batch)
    loss.backward()
    torch.testing.assert_close(hook.losses, outputs.losses_K.double())
    assert not outputs.predictions_BK.requires_grad
    # CVR's share of the batch is the clicked rows
    assert batch.counts_K.tolist() == [128, float(batch.labels_BK[:, 0].sum())]


def test_a_task_weight_scales_its_loss_and_its_heads_gradient(data):
    columns, batch = data
    plain, heavy = small_ranker(columns), small_ranker(columns)
    heavy.heads.task_weights[1] = 3.0
    for model in (plain, heavy):
        model(batch)[0].backward()
    gradients = [next(m.heads.mlps["cvr"].parameters()).grad for m in (plain, heavy)]
    torch.testing.assert_close(gradients[1], 3 * gradients[0])


def test_the_categorical_module_has_most_parameters_and_none_is_counted_twice(data):
    model = small_ranker(data[0])
    counts = count_parameters(model)
    assert counts["categorical"] == (500 + 200 + 50) * 4
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


def test_embeddings_are_in_config_order_and_multi_hot_ids_are_summed(data):
    columns, batch = data
    module = small_ranker(columns).bottom.categorical
    table = {n: m.weight for n, m in module.embeddings.embedding_bags.items()}
    out = module(batch.sparse)
    for f, name in enumerate(columns.categorical):
        jagged = batch.sparse[name]
        bags = torch.split(jagged.values(), jagged.lengths().tolist())
        rows = torch.stack([table[name][bag].sum(0) for bag in bags])
        torch.testing.assert_close(out[:, 4 * f : 4 * f + 4], rows)


@pytest.mark.parametrize(
    "arguments",
    [{"num_layers": "x"}, {"num_layers": 0}, {"low_rank": 0}, {"hidden": []}, {"hidden": [8, -1]}],
)
def test_nonsense_for_the_interaction_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        DCN(8, **arguments)


def pipelined(data_path: str):
    import gc
    from pathlib import Path

    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    from mbrec.distributed import process
    from mbrec.job import build, readers
    from mbrec.reader.loader import Loader
    from mbrec.training.optimizers import Warmup, learning_rates

    config = compose(Path(data_path))
    runtime = process.start()
    reader = readers.train_reader(config, runtime)
    sharded = build.shard(config, runtime)
    tables = SplitTableBatchedEmbeddingBagsCodegen
    kernels = [thing for thing in gc.get_objects() if isinstance(thing, tables)]
    warmup, rates = Warmup(sharded.optimizer, 4), []
    batches = iter(Loader(reader))
    before = sharded.hook.balancer.weight.clone()
    for step in range(1, 7):
        warmup.step(step)
        sharded.pipeline.progress(batches)
        named = learning_rates(sharded.optimizer)
        in_fbgemm = [kernel.get_learning_rate() for kernel in kernels]
        rates.append((named["tables"], named["dense"], in_fbgemm))
    moved = not torch.equal(before, sharded.hook.balancer.weight)
    return rates, moved, int(sharded.hook.balancer.step), bool(sharded.hook.ok)


def test_under_the_sparse_pipeline_the_hook_runs_once_a_step_and_warm_up_reaches_fbgemm(
    tiny_data, tmp_path
):
    ((rates, moved, steps, ok),) = run_ranks(pipelined, 1, tmp_path, str(tiny_data))
    assert moved
    assert steps == 6
    assert ok
    config = compose(tiny_data).optimizer
    for step, (table_rate, dense_rate, in_fbgemm) in enumerate(rates, start=1):
        factor = min(1.0, step / 4)
        assert table_rate == pytest.approx(factor * config.table_lr)
        assert dense_rate == pytest.approx(factor * config.dense_lr)
        assert in_fbgemm
        assert in_fbgemm == pytest.approx([table_rate] * len(in_fbgemm))
