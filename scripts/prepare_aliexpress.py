"""Turns the AliExpress search logs of one country into the Parquet folders that training reads.

Impressions, clicks and purchases of AliExpress's search in Russia, Spain, France, the Netherlands
and the United States, split by time into train and test: Li et al., "Improving Multi-Scenario
Learning to Rank in E-commerce by Exploiting Task Relationships in the Label Space", CIKM 2020,
https://doi.org/10.1145/3340531.3412713. From https://tianchi.aliyun.com/dataset/74690 (for the
licence see that page): unpack aliexpress_XX_datasets.zip and the archives in it.

Either form of a country is read: xx_user_{train,test}.csv (33 columns, one row a page of results)
with xx_item_{train,test}.csv (49 columns, one row an impression; the last is 0, 1 for a click, 2
for a click and a purchase), neither with names; or train.csv and test.csv, in which MTReclib
(https://github.com/easezyc/Multitask-Recommendation-Library) joined them under the names that are
used here. Pages are joined by their number, in the order of the impressions; an impression without
its page is left out and counted, as there. Memory holds one country's pages. Rows have no number
of their own: two impressions of a page can be equal in every column, so all are kept.

Validation is empty, as published; --validation takes whole pages of train for it.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.compute import SetLookupOptions, call_function

from mbrec.columns.hashing import hash_ids
from mbrec.prepare.delimited import BLOCK_BYTES, Piece, find_file, read_delimited
from mbrec.prepare.duplicates import Policy
from mbrec.prepare.script import add_duplicates, run
from mbrec.prepare.writer import DatasetWriter, summary
from mbrec.reader.source import is_hidden

SEARCH = "search_id"
LABELS = ("click", "conversion")
CATEGORICAL = tuple(f"categorical_{i}" for i in range(1, 17))
NUMERICAL = tuple(f"numerical_{i}" for i in range(1, 64))
SCHEMA = pa.schema(
    [
        (SEARCH, pa.int64()),
        *((name, pa.int64()) for name in CATEGORICAL),
        *((name, pa.float32()) for name in NUMERICAL),
        *((name, pa.int8()) for name in LABELS),
    ]
)
_TYPES = {field.name: field.type for field in SCHEMA}

# The names of the columns of the files without names, in their order.
USER = (SEARCH, *CATEGORICAL[:7], *NUMERICAL[:23], *CATEGORICAL[7:9])
_ITEM_CATEGORICAL: dict[int, str] = dict(
    zip((19, 34, 35, 36, 40, 41, 42), CATEGORICAL[9:], strict=True)
)
_item_numerical = iter(NUMERICAL[23:])
ITEM = (
    SEARCH,
    *(_ITEM_CATEGORICAL.get(i) or next(_item_numerical) for i in range(2, 49)),
    "label",
)

PUBLISHED = """Counted by others for NL: 12,157,895 rows of train and 5,559,302 of test."""


@dataclass
class Counts:
    """Impressions that were left out, since there was no page with their number."""

    without_page: int = 0


def prepare(
    source: Path,
    out: Path,
    *,
    validation: float = 0.0,
    seed: int = 0,
    duplicates: Policy = "keep",
    overwrite: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Writes train, test and perhaps validation under ``out`` and returns their manifest.

    Args:
        source: The folder with one country's files, plain or .gz.
        out: The folder to create.
        validation: Share of the training pages that becomes validation, in [0, 1).
        seed: Of the choice of these pages.
        duplicates: What becomes of rows that are equal in all columns; see `DatasetWriter`.
        overwrite: Replace ``out`` if it is a prepared data set.
        block_bytes: Size of the pieces in which the files are read.

    Raises:
        ValueError: If an argument, a file or a value is wrong; of these it names file, line,
            column and value.
        OSError: If a file is missing or cannot be read, or ``out`` cannot be written.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"expected a share for validation in [0, 1), got {validation}")
    country, read = _layout(source)
    left_out = {split: Counts() for split in ("train", "test")}
    with DatasetWriter(
        out, SCHEMA, labels=LABELS, overwrite=overwrite, duplicates=duplicates
    ) as writer:
        for split, counts in left_out.items():
            for table in read(split, counts, block_bytes):
                held_out = _held_out(table, validation if split == "train" else 0.0, seed)
                writer.add(split, table.filter(pa.array(~held_out)))
                if held_out.any():
                    writer.add("validation", table.filter(pa.array(held_out)))
        notes = {
            "data_set": f"AliExpress {country or ''}".strip(),
            "source": "https://tianchi.aliyun.com/dataset/74690",
            "validation": validation,
            "seed": seed,
            "impressions_without_page": {s: counts.without_page for s, counts in left_out.items()},
        }
        return writer.finish(notes=notes)


Reader = Callable[[str, Counts, int], Iterator[pa.Table]]


def _layout(source: Path) -> tuple[str | None, Reader]:
    """Which form of the data set the folder holds: the country, if it tells, and its reader."""
    found = [*source.glob("**/*_item_train.csv"), *source.glob("**/*_item_train.csv.gz")]
    visible = (path for path in found if not is_hidden(path.relative_to(source).as_posix()))
    countries = sorted({path.name.split("_")[0] for path in visible})
    if len(countries) > 1:
        raise ValueError(
            f"{source}: expected the files of one country, got those of {', '.join(countries)}"
        )
    if not countries:
        return None, lambda split, _, block: _read_joined(source, split, block)
    return countries[0].upper(), lambda split, counts, block: _read_and_join(
        source, countries[0], split, counts, block
    )


def _read_joined(source: Path, split: str, block_bytes: int) -> Iterator[pa.Table]:
    path = find_file(source, f"{split}.csv")
    for piece in read_delimited(path, _TYPES, optional=NUMERICAL, block_bytes=block_bytes):
        piece.refuse_all_but((0, 1), LABELS)
        click, conversion = (piece.table[name].to_numpy() for name in LABELS)
        piece.refuse((conversion == 1) & (click == 0), "click", "1 where there is a conversion")
        yield _without_negative(piece.table)


def _read_and_join(
    source: Path, country: str, split: str, counts: Counts, block_bytes: int
) -> Iterator[pa.Table]:
    pages = _load_pages(find_file(source, f"{country}_user_{split}.csv"), block_bytes)
    known = SetLookupOptions(pages[SEARCH].combine_chunks())
    types = {name: _TYPES.get(name, pa.int8()) for name in ITEM}
    path = find_file(source, f"{country}_item_{split}.csv")
    for piece in read_delimited(
        path, types, names=ITEM, optional=NUMERICAL, block_bytes=block_bytes
    ):
        piece.refuse_all_but((0, 1, 2), ["label"])
        found = call_function("index_in", [piece.table[SEARCH].combine_chunks()], known)
        kept = np.flatnonzero(found.is_valid().to_numpy(False))
        counts.without_page += len(found) - len(kept)
        items = piece.table.take(pa.array(kept))
        columns = {name: items[name] for name in ITEM}
        columns |= _columns(pages.take(found.drop_null()))
        label = items["label"].to_numpy()
        columns |= {"click": pa.array(label >= 1), "conversion": pa.array(label == 2)}
        joined = pa.table({name: columns[name] for name in SCHEMA.names})
        yield _without_negative(joined.cast(SCHEMA))


def _load_pages(path: Path, block_bytes: int) -> pa.Table:
    types = {name: _TYPES[name] for name in USER}
    pieces: Iterator[Piece] = read_delimited(
        path, types, names=USER, optional=NUMERICAL, block_bytes=block_bytes
    )
    empty = pa.schema([*types.items()]).empty_table()
    pages = pa.concat_tables([empty, *(piece.table for piece in pieces)]).combine_chunks()
    numbers, rows = np.unique(pages[SEARCH].to_numpy(), return_counts=True)
    if (twice := numbers[rows > 1]).size:
        raise ValueError(f"{path}: expected one row for each {SEARCH}, got two of {twice[0]}")
    return pages


def _without_negative(table: pa.Table) -> pa.Table:
    """Ids count from 0, so one below can only stand for none: it becomes null."""
    columns = _columns(table)
    for name in CATEGORICAL:
        ids = table[name].to_numpy()
        columns[name] = pa.array(ids, mask=ids < 0)
    return pa.table(columns, SCHEMA)


def _columns(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _held_out(table: pa.Table, share: float, seed: int) -> np.ndarray:
    """Rows for validation, the same on every machine: those whose page has a small hash."""
    buckets = 1 << 30
    return hash_ids(table[SEARCH].to_numpy(), buckets, seed) < share * buckets


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_aliexpress.py",
        description="Turn the AliExpress search logs of one country into Parquet: OUT/train, "
        "OUT/test, perhaps OUT/validation, and OUT/manifest.json.",
        epilog="The files: https://tianchi.aliyun.com/dataset/74690, where the licence is too.",
    )
    add = parser.add_argument
    source = "folder with xx_{user,item}_{train,test}.csv, or {train,test}.csv; plain or .gz"
    add("source", metavar="IN", type=Path, help=source)
    add("out", metavar="OUT", type=Path, help="folder to create")
    share = "share of the pages of train that becomes validation (%(default)s)"
    add("--validation", metavar="SHARE", type=float, default=0.0, help=share)
    add("--seed", type=int, default=0, help="of the validation pages (%(default)s)")
    add_duplicates(parser, "keep", "default: keep")
    add("--overwrite", action="store_true", help="replace OUT if it is a prepared data set")
    return parser


def _report(manifest: Mapping[str, Any]) -> str:
    lines = [summary(manifest)]
    if any(missing := manifest["notes"]["impressions_without_page"].values()):
        lines.append(f"impressions without their page, left out: {sum(missing):,}")
    return "\n".join([*lines, PUBLISHED])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(_parser(), prepare, _report, argv)


if __name__ == "__main__":
    sys.exit(main())
