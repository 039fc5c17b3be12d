"""Turns the Ali-CCP files into the Parquet folders that training reads.

Impressions, clicks and purchases of the recommender of a Taobao app, split by time into train and
test: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click
Conversion Rate", SIGIR 2018, https://doi.org/10.1145/3209978.3210104. From
https://tianchi.aliyun.com/dataset/408 (for the licence see that page): unpack sample_train.tar.gz
and sample_test.tar.gz into one folder; they hold sample_skeleton_*.csv and common_features_*.csv.

As published for the AITM model (Xi et al., KDD 2021, https://doi.org/10.1145/3447548.3467071), a
tenth of the training rows at random is validation, and impressions with a conversion but no click
are dropped and counted. Equal rows are not looked for: each has a number of its own.

What users did before is up to thousands of entries an impression. The lists are cut to those of
the largest values, which keeps what is written for 85 million rows within bounds. Memory holds
the common features of one split and a piece of the impressions, about 4 GB.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbrec.columns.hashing import hash_ids
from mbrec.prepare.delimited import BLOCK_BYTES
from mbrec.prepare.recipes.aliccp import LABELS, SCHEMA, Counts, read_split
from mbrec.prepare.script import run
from mbrec.prepare.writer import DatasetWriter, summary

_ORIGIN = {"data_set": "Ali-CCP", "source": "https://tianchi.aliyun.com/dataset/408"}
PUBLISHED = """Published (AITM's files; after the impressions with a conversion but no click, 230 of
train and 226 of test): 42,299,905 rows of train and validation together, 43,016,614 of test.
Counted in train by others: 1,644,256 clicks (0.0389) and 8,802 conversions (0.00021); in test
1,673,447 (0.0389) and 9,195 (0.00021). ESMM tells of 84 million impressions, 3.4 million clicks
and 18 thousand conversions."""


def prepare(
    source: Path,
    out: Path,
    *,
    validation: float = 0.1,
    history: int = 50,
    seed: int = 0,
    overwrite: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Writes train, validation and test under ``out`` and returns their manifest.

    Args:
        source: The folder with the four files, plain or .gz, or with the folders they are in.
        out: The folder to create.
        validation: Share of the training rows that becomes validation, in [0, 1).
        history: Entries that a list keeps, those with the largest values.
        seed: Of the choice of the validation rows.
        overwrite: Replace ``out`` if it is a prepared data set.
        block_bytes: Size of the pieces in which the files are read; no line can be longer.

    Raises:
        ValueError: If an argument, a file or a value is wrong; of these it names file, line,
            column and value.
        OSError: If a file is missing or cannot be read, or ``out`` cannot be written.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"expected a share for validation in [0, 1), got {validation}")
    if history < 1:
        raise ValueError(f"expected at least 1 entry of a history, got {history}")
    dropped = {split: Counts() for split in ("train", "test")}
    with DatasetWriter(out, SCHEMA, labels=LABELS, overwrite=overwrite) as writer:
        for split, counts in dropped.items():
            for table in read_split(
                source, split, longest=history, counts=counts, block_bytes=block_bytes
            ):
                held_out = _held_out(table, validation if split == "train" else 0.0, seed)
                writer.add(split, table.filter(pa.array(~held_out)))
                if held_out.any():
                    writer.add("validation", table.filter(pa.array(held_out)))
        notes = {
            **_ORIGIN,
            "history": history,
            "validation": validation,
            "seed": seed,
            "left_out": {split: asdict(counts) for split, counts in dropped.items()},
        }
        return writer.finish(notes=notes)


def _held_out(table: pa.Table, share: float, seed: int) -> np.ndarray:
    """Rows for validation, the same on every machine: those whose number has a small hash."""
    buckets = 1 << 30
    return hash_ids(table["sample_id"].to_numpy(), buckets, seed) < share * buckets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_aliccp.py",
        description="Turn the Ali-CCP files into Parquet: OUT/train, OUT/validation, OUT/test and "
        "OUT/manifest.json.",
        epilog="The files: https://tianchi.aliyun.com/dataset/408, where the licence is too.",
    )
    add = parser.add_argument
    source = "folder with sample_skeleton_*.csv and common_features_*.csv, plain or .gz"
    add("source", metavar="IN", type=Path, help=source)
    add("out", metavar="OUT", type=Path, help="folder to create")
    share = "share of the training rows that becomes validation (%(default)s)"
    add("--validation", metavar="SHARE", type=float, default=0.1, help=share)
    entries = "entries that a list keeps, those with the largest values (%(default)s)"
    add("--history", metavar="N", type=int, default=50, help=entries)
    add("--seed", type=int, default=0, help="of the validation rows (%(default)s)")
    add("--overwrite", action="store_true", help="replace OUT if it is a prepared data set")
    return parser


def _report(manifest: Mapping[str, Any]) -> str:
    lines = [summary(manifest)]
    for split, counts in manifest["notes"]["left_out"].items():
        told = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())
        lines.append(f"left out of {split}: {told}")
    return "\n".join([*lines, PUBLISHED])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(_parser(), prepare, _report, argv)


if __name__ == "__main__":
    sys.exit(main())
