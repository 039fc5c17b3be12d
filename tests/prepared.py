"""What the tests of recipes share."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from hydra import compose, initialize_config_module

from mbrec.columns.expression import parse
from mbrec.columns.manifest import load_folder
from mbrec.columns.schema import Columns
from mbrec.config import settings as config
from mbrec.reader.batch import Batch
from mbrec.reader.dataset import load_vocabularies, resolve
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import open_store


def read(folder: Path, split: str) -> pa.Table:
    """Return the rows of a split."""
    return pq.read_table(folder / split)


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return what the manifest holds."""
    return json.loads((folder / "manifest.json").read_text())


def compose_data(name: str, folder: Path, *overrides: str) -> config.Config:
    """Return a job on `data=NAME`, as the command line makes it."""
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        return config.parse(compose("train", [f"data={name}", f"data.path={folder}", *overrides]))


def encoded(job: config.Config, folder: Path, split: str) -> list[Batch]:
    """Return a split as batches, read and encoded as a job does it."""
    store = open_store(str(folder))
    columns = resolve(job.data.columns, load_folder(folder))
    reader = ParquetReader(
        store.find([f"{split}/*.parquet"]),
        columns,
        job.tasks,
        global_batch_size=16,
        store=store,
        vocabularies=load_vocabularies(columns, store),
    )
    return list(reader)


def unfit_columns(columns: Columns, table: pa.Table) -> list[str]:
    """Return the columns that a data set's YAML names and that a table lacks or types otherwise."""
    wrong: list[str] = []

    def expect(name: str, fits: Any) -> None:
        if name not in table.column_names or not fits(table.schema.field(name).type):
            wrong.append(name)

    for name, feature in columns.categorical.items():
        expect(feature.column or name, _is_bag if feature.multi_hot else _is_id)
        if feature.weights:
            expect(feature.weights, _is_weights)
    for name, number in columns.numerical.items():
        expect(number.column or name, _is_number)
    for text in columns.labels.values():
        for name in parse(text).columns:
            expect(name, _is_number)
    return wrong


def features(columns: Columns) -> set[str]:
    """Return the columns of the files that the model sees."""
    named = {feature.column or name for name, feature in columns.categorical.items()}
    named |= {feature.weights for feature in columns.categorical.values() if feature.weights}
    return named | {feature.column or name for name, feature in columns.numerical.items()}


def _is_id(kind: pa.DataType) -> bool:
    return pt.is_integer(kind) or pt.is_string(kind)


def _is_bag(kind: pa.DataType) -> bool:
    return pt.is_list(kind) and _is_id(kind.value_type)


def _is_weights(kind: pa.DataType) -> bool:
    return pt.is_list(kind) and pt.is_floating(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return pt.is_integer(kind) or pt.is_floating(kind)
