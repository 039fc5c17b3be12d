"""The Criteo attribution data set.

16.5 million display ads shown in 30 days, with clicks and conversions: Diemert et al.,
"Attribution Modeling Increases Efficiency of Bidding in Display Advertising", AdKDD and TargetAd
Workshop, KDD 2017, https://arxiv.org/abs/1707.06409. Licence: CC BY-NC-SA 4.0.

Labels: `click`; `conversion`, 1 if the user converted within 30 days of the impression, whether
or not this was the last click (in the published file only clicked impressions have it);
`attribution`, 1 if that conversion was attributed to Criteo. What is known only later is not
written: conversion_timestamp, conversion_id, click_pos, click_nb, and cpo.

The paper trains on 21 days and tests on the day after them. Here train is the first 21 days,
validation the next one, and test what follows. A conversion may come days after train ends, so
labels of its last days were not known by then.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbrec.prepare.delimited import BLOCK_BYTES, Format, Piece, find_file, read_delimited
from mbrec.prepare.recipe import SPLITS, Recipe
from mbrec.prepare.writer import DatasetWriter

FILE = "criteo_attribution_dataset.tsv"
DAY = 86_400
HOUR = 3_600
LABELS = ("click", "conversion", "attribution")
# Numbers without an order, so they are kept as the strings that they are in the file.
CATEGORICAL = ("campaign", *(f"cat{i}" for i in range(1, 10)))
SINCE_CLICK = "time_since_last_click"
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("timestamp", "day", "hour", "uid")),
        *((name, pa.string()) for name in CATEGORICAL),
        (SINCE_CLICK, pa.int64()),
        ("cost", pa.float32()),
        *((name, pa.int8()) for name in LABELS),
    ]
)
_TYPES = {field.name: field.type for field in SCHEMA if field.name not in ("day", "hour")}
_SOURCE = "https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/"


def write(
    writer: DatasetWriter,
    source: Path,
    *,
    train_days: int = 21,
    validation_days: int = 1,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Add all rows; see `Recipe`."""
    if train_days < 1 or validation_days < 0:
        raise ValueError(
            "expected at least 1 day of train and 0 of validation, got "
            f"{train_days} and {validation_days}"
        )
    ends = np.cumsum([train_days, validation_days])
    path = find_file(source, FILE) if source.is_dir() else source
    earlier, latest = 0, 0
    for piece in read_delimited(path, _TYPES, format=Format("\t"), block_bytes=block_bytes):
        table = _encode(piece)
        time = table["timestamp"].to_numpy()
        seen = np.maximum.accumulate(np.append(latest, time))
        earlier, latest = earlier + int((time < seen[:-1]).sum()), int(seen[-1])
        numbers = np.searchsorted(ends, time // DAY, side="right")
        for number in np.unique(numbers).tolist():
            writer.add(SPLITS[number], table.filter(pa.array(numbers == number)))
    return {
        "data_set": "Criteo attribution",
        "source": _SOURCE,
        "licence": "CC BY-NC-SA 4.0",
        "train_days": train_days,
        "validation_days": validation_days,
        "days": latest // DAY + 1,
        "rows_earlier_than_one_before": earlier,
    }


def _encode(piece: Piece) -> pa.Table:
    piece.refuse_all_but((0, 1), LABELS)
    columns = {name: piece.table[name] for name in _TYPES}
    time, since = (columns[name].to_numpy() for name in ("timestamp", SINCE_CLICK))
    piece.refuse(time < 0, "timestamp", "seconds of at least 0")
    piece.refuse(since < -1, SINCE_CLICK, "seconds of at least 0, or -1 for none")
    unexplained = columns["attribution"].to_numpy() > columns["conversion"].to_numpy()
    piece.refuse(unexplained, "attribution", "0 where there is no conversion")
    columns |= {"day": pa.array(time // DAY), "hour": pa.array(time % DAY // HOUR)}
    columns[SINCE_CLICK] = pa.array(since, mask=since < 0)
    return pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA)


RECIPE = Recipe(
    title="the Criteo attribution data set, split by day",
    files=f"{FILE}, plain or .gz, or a folder with it",
    terms=f"{_SOURCE} or https://huggingface.co/datasets/criteo/criteo-attribution-dataset, under "
    "CC BY-NC-SA 4.0",
    schema=SCHEMA,
    labels=LABELS,
    write=write,
    options={
        "train_days": "days of train, from the first (%(default)s)",
        "validation_days": "days of validation, after these; test is what follows (%(default)s)",
    },
    duplicates="few",
    duplicates_help="default: drop, if they are at most 1%%",
    published="Published: 16.5 million impressions, 30 days, 700 campaigns. Counted in the file "
    "by\nothers: 16,468,027 rows, none of them twice, of days 0 to 30; 675 campaigns; click "
    "0.3612\n(5,947,563), conversion 0.0490 (806,196, all of them clicked), attribution 0.0269 "
    "(442,424).",
)
