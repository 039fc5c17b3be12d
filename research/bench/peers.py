"""Peers' data loaders and training on a table in memory, in blocks that can be interleaved."""

import io
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import chain, islice, repeat
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

Table = Mapping[str, np.ndarray]
Sizes = Mapping[str, int]
BOTTOM, TOWER = (256, 128), (64,)  # widths of the layers that tasks share, and of each one's own


@dataclass(frozen=True)
class Peer:
    """A library's own way to read and to train.

    Attributes:
        name: the distribution and its version.
        load: takes that many batches from its loader.
        train: takes that many optimizer steps, each on a whole batch of its loader.
    """

    name: str
    load: Callable[[int], object]
    train: Callable[[int], object]


def torch_rechub(
    table: Table, cardinalities: Sizes, labels: Sequence[str], batch_size: int, embedding_dim: int
) -> Peer:
    """Return Torch-RecHub's `DataGenerator`, and its `SharedBottom` under its `MTLTrainer`.

    The trainer's defaults stand: Adam, over the whole of the embeddings at every step.

    Args:
        table: columns of one length; rows after the last whole batch are left out.
        cardinalities: rows of each categorical column's embedding; other columns are dense.
        labels: the columns to predict, of 0 and 1.
        batch_size: rows of a batch.
        embedding_dim: width of every embedding.
    """
    features = import_module("torch_rechub.basic.features")
    models = import_module("torch_rechub.models.multi_task")
    trainers = import_module("torch_rechub.trainers.mtl_trainer")
    data = import_module("torch_rechub.utils.data")
    x, y = _split(table, labels, batch_size)
    columns = [
        features.SparseFeature(name, size, embedding_dim) if size else features.DenseFeature(name)
        for name, size in ((name, cardinalities.get(name)) for name in x)
    ]
    tasks = ["classification"] * len(labels)
    towers = [{"dims": list(TOWER)} for _ in tasks]
    model = models.SharedBottom(columns, tasks, {"dims": list(BOTTOM)}, towers)
    trainer = trainers.MTLTrainer(model, tasks)
    loaders = data.DataGenerator(x, y).generate_dataloader(x, y, x, y, batch_size=batch_size)
    batches = chain.from_iterable(repeat(loaders[0]))
    # The trainer's progress bar has no switch, and shares standard error with the warnings.
    no_bar = SimpleNamespace(tqdm=lambda loader, **_: loader)

    def train(steps: int) -> None:
        with mock.patch.object(trainers, "tqdm", no_bar), redirect_stdout(io.StringIO()):
            trainer.train_one_epoch(islice(batches, steps))

    return Peer(f"torch-rechub {version('torch-rechub')}", _taking(batches), train)


def deepctr_torch(
    table: Table, cardinalities: Sizes, labels: Sequence[str], batch_size: int, embedding_dim: int
) -> Peer:
    """Return DeepCTR-Torch's `SharedBottom` under its `fit`, and a loader as `fit` makes it.

    Args as above. Adagrad, as in its multi-task example, and L2 are over whole embeddings.
    `train`'s time includes `fit`'s copy of the rows.
    """
    if "deepctr_torch" not in sys.modules:
        # The real one asks PyPI for a newer release, through a dependency it does not declare.
        utils = sys.modules["deepctr_torch.utils"] = ModuleType("deepctr_torch.utils")
        vars(utils)["check_version"] = lambda _: None
    inputs, models = import_module("deepctr_torch.inputs"), import_module("deepctr_torch.models")
    x, y = _split(table, labels, batch_size)
    columns = [
        inputs.SparseFeat(name, size, embedding_dim) if size else inputs.DenseFeat(name)
        for name, size in ((name, cardinalities.get(name)) for name in x)
    ]
    tasks = ["binary"] * len(labels)
    with torch.random.fork_rng(devices=[]):  # The model seeds the global generator.
        model = models.SharedBottom(columns, BOTTOM, TOWER, task_types=tasks, task_names=labels)
    model.compile("adagrad", loss=["binary_crossentropy"] * len(tasks))
    rows = TensorDataset(torch.from_numpy(np.stack(list(x.values()), 1)), torch.from_numpy(y))
    batches = chain.from_iterable(repeat(DataLoader(rows, batch_size, shuffle=True)))

    def train(steps: int) -> None:
        some = np.arange(steps * batch_size) % len(y)
        with redirect_stdout(io.StringIO()):  # It prints a little even when not verbose.
            model.fit({k: v[some] for k, v in x.items()}, y[some], batch_size, verbose=0)

    return Peer(f"deepctr-torch {version('deepctr-torch')}", _taking(batches), train)


def _split(table: Table, labels: Sequence[str], size: int) -> tuple[dict[str, np.ndarray], Any]:
    if not (rows := len(table[labels[0]]) // size * size):
        raise ValueError(f"the table has less than one batch of {size} rows")
    x = {name: column[:rows] for name, column in table.items() if name not in labels}
    return x, np.stack([table[name][:rows] for name in labels], 1).astype(np.float32)


def _taking(batches: Iterator[Any]) -> Callable[[int], object]:
    return lambda steps: deque(islice(batches, steps), maxlen=0)
