"""Turns the Criteo attribution data set into the Parquet folders that training reads.

16.5 million display ads shown in 30 days, with clicks and conversions: Diemert et al.,
"Attribution Modeling Increases Efficiency of Bidding in Display Advertising", AdKDD and TargetAd
Workshop, KDD 2017, https://arxiv.org/abs/1707.06409. Download criteo_attribution_dataset.tsv.gz
from https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/ or
https://huggingface.co/datasets/criteo/criteo-attribution-dataset. Licence: CC BY-NC-SA 4.0.

Labels: ``click``; ``conversion``, 1 if the user converted within 30 days of the impression, whether
or not this was the last click (in the published file only clicked impressions have it);
``attribution``, 1 if that conversion was attributed to Criteo. What is known only later is not
written: conversion_timestamp, conversion_id, click_pos, click_nb, and cpo.

The paper trains on 21 days and tests on the day after them. Here train is the first 21 days,
validation the next one, and test what follows; --train-days and --validation-days choose others.
A conversion may come days after train ends, so labels of its last days were not known by then.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbrec.prepare.delimited import BLOCK_BYTES, Piece, find_file, read_delimited
from mbrec.prepare.duplicates import Policy
from mbrec.prepare.script import add_duplicates, run
from mbrec.prepare.writer import DatasetWriter, summary

FILE = "criteo_attribution_dataset.tsv"
DAY = 86_400
HOUR = 3_600
LABELS = ("click", "conversion", "attribution")
# Numbers without an order, so they are kept as the strings that they are in the file.
CATEGORICAL = ("campaign", *(f"cat{i}" for i in range(1, 10)))
SINCE_CLICK = "time_since_last_click"
SCHEMA = pa.schema(
    [
        ("timestamp", pa.int64()),
        ("day", pa.int64()),
        ("hour", pa.int64()),
        ("uid", pa.int64()),
        *((name, pa.string()) for name in CATEGORICAL),
        (SINCE_CLICK, pa.int64()),
        ("cost", pa.float32()),
        *((name, pa.int8()) for name in LABELS),
    ]
)
_DERIVED = ("day", "hour")
_SPLITS = ("train", "validation", "test")
_TYPES = {field.name: field.type for field in SCHEMA if field.name not in _DERIVED}

_ORIGIN = {
    "data_set": "Criteo attribution",
    "source": "https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/",
    "licence": "CC BY-NC-SA 4.0",
}
PUBLISHED = """Published: 16.5 million impressions, 30 days, 700 campaigns. Counted in the file by
others: 16,468,027 rows, none of them twice, of days 0 to 30; 675 campaigns; click 0.3612
(5,947,563), conversion 0.0490 (806,196, all of them clicked), attribution 0.0269 (442,424)."""


def prepare(
    source: Path,
    out: Path,
    *,
    train_days: int = 21,
    validation_days: int = 1,
    duplicates: Policy = "few",
    overwrite: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Writes train, validation and test under ``out`` and returns their manifest.

    Args:
        source: criteo_attribution_dataset.tsv, plain or .gz, or a folder with it.
        out: The folder to create.
        train_days: Days of train, from the first.
        validation_days: Days of validation, after these; later ones are test.
        duplicates: What becomes of rows that are equal in all columns; see `DatasetWriter`.
        overwrite: Replace ``out`` if it is a prepared data set.
        block_bytes: Size of the pieces in which the file is read.

    Raises:
        ValueError: If an argument, the file or a value is wrong; of these it names file, line,
            column and value.
        OSError: If the file is missing or cannot be read, or ``out`` cannot be written.
    """
    ends = _ends(train_days, validation_days)
    path = find_file(source, FILE) if source.is_dir() else source
    earlier, latest = 0, 0
    with DatasetWriter(
        out, SCHEMA, labels=LABELS, overwrite=overwrite, duplicates=duplicates
    ) as writer:
        for piece in read_delimited(path, _TYPES, delimiter="\t", block_bytes=block_bytes):
            table = _encode(piece)
            time = table["timestamp"].to_numpy()
            seen = np.maximum.accumulate(np.append(latest, time))
            earlier, latest = earlier + int((time < seen[:-1]).sum()), int(seen[-1])
            numbers = np.searchsorted(ends, time // DAY, side="right")
            for number in np.unique(numbers).tolist():
                writer.add(_SPLITS[number], table.filter(pa.array(numbers == number)))
        notes = {
            **_ORIGIN,
            "train_days": train_days,
            "validation_days": validation_days,
            "days": latest // DAY + 1,
            "rows_earlier_than_one_before": earlier,
        }
        return writer.finish(notes=notes)


def _ends(train_days: int, validation_days: int) -> np.ndarray:
    """The first days of validation and of test."""
    if train_days < 1 or validation_days < 0:
        raise ValueError(
            "expected at least 1 day of train and 0 of validation, got "
            f"{train_days} and {validation_days}"
        )
    return np.cumsum([train_days, validation_days])


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_criteo_attribution.py",
        description="Turn the Criteo attribution data set into Parquet, split by day: OUT/train, "
        "OUT/validation, OUT/test and OUT/manifest.json.",
        epilog="The file: https://ailab.criteo.com/criteo-attribution-modeling-bidding-dataset/ "
        "or https://huggingface.co/datasets/criteo/criteo-attribution-dataset, under CC BY-NC-SA "
        "4.0.",
    )
    add = parser.add_argument
    add("source", metavar="IN", type=Path, help=f"{FILE}, plain or .gz, or a folder with it")
    add("out", metavar="OUT", type=Path, help="folder to create")
    days = {"metavar": "N", "type": int}
    add("--train-days", default=21, help="days of train, from the first (%(default)s)", **days)
    after = "days of validation, after these; test is what follows (%(default)s)"
    add("--validation-days", default=1, help=after, **days)
    add_duplicates(parser, "few", "default: drop, if they are at most 1%%")
    add("--overwrite", action="store_true", help="replace OUT if it is a prepared data set")
    return parser


def _report(manifest: Mapping[str, Any]) -> str:
    return f"{summary(manifest)}\n{PUBLISHED}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(_parser(), prepare, _report, argv)


if __name__ == "__main__":
    sys.exit(main())
