"""The AliExpress search logs of one country.

Impressions, clicks and purchases of AliExpress's search in Russia, Spain, France, the Netherlands
and the United States, split by time into train and test: Li et al., "Improving Multi-Scenario
Learning to Rank in E-commerce by Exploiting Task Relationships in the Label Space", CIKM 2020,
https://doi.org/10.1145/3340531.3412713.

Either form of a country is read: xx_user_{train,test}.csv (33 columns, one row per page of results)
with xx_item_{train,test}.csv (49 columns, one row per impression; the last is 0, 1 for a click, 2
for a click and a purchase), neither with names; or train.csv and test.csv, in which MTReclib
(https://github.com/easezyc/Multitask-Recommendation-Library) joined them under the names that are
used here. Pages are joined by their number, in the order of the impressions; an impression without
its page is left out and counted, as there. Memory holds one country's pages. Rows have no number
of their own: two impressions of a page can be equal in every column, so all are kept.

Validation is empty, as published; --validation takes whole pages of train for it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.compute import SetLookupOptions, call_function

from mbrec.prepare.delimited import BLOCK_BYTES, find_file, read_delimited
from mbrec.prepare.recipe import Recipe, add_by_share
from mbrec.prepare.writer import DatasetWriter
from mbrec.reader.source import is_hidden

SEARCH = "search_id"
LABELS = ("click", "conversion")
CATEGORICAL = tuple(f"categorical_{i}" for i in range(1, 17))
NUMERICAL = tuple(f"numerical_{i}" for i in range(1, 64))
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in (SEARCH, *CATEGORICAL)),
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
_SOURCE = "https://tianchi.aliyun.com/dataset/74690"


def write(
    writer: DatasetWriter,
    source: Path,
    *,
    validation: float = 0.0,
    seed: int = 0,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Add all rows; see `Recipe`."""
    country = _country(source)
    without_page = {"train": 0, "test": 0}
    for split in without_page:
        if country:
            tables = _read_and_join(source, country, split, without_page, block_bytes)
        else:
            tables = _read_joined(source, split, block_bytes)
        for table in tables:
            add_by_share(writer, split, table, SEARCH, validation, seed)
    return {
        "data_set": f"AliExpress {country.upper()}".strip(),
        "source": _SOURCE,
        "validation": validation,
        "seed": seed,
        "impressions_without_page": without_page,
    }


def _country(source: Path) -> str:
    """Return the country of the files without names; empty where there are none of these."""
    found = [*source.glob("**/*_item_train.csv"), *source.glob("**/*_item_train.csv.gz")]
    visible = (path for path in found if not is_hidden(path.relative_to(source).as_posix()))
    countries = sorted({path.name.split("_")[0] for path in visible})
    if len(countries) > 1:
        raise ValueError(
            f"{source}: expected the files of one country, got those of {', '.join(countries)}"
        )
    return countries[0] if countries else ""


def _read_joined(source: Path, split: str, block_bytes: int) -> Iterator[pa.Table]:
    path = find_file(source, f"{split}.csv")
    for piece in read_delimited(path, _TYPES, optional=NUMERICAL, block_bytes=block_bytes):
        piece.refuse_all_but((0, 1), LABELS)
        click, conversion = (piece.table[name].to_numpy() for name in LABELS)
        piece.refuse((conversion == 1) & (click == 0), "click", "1 where there is a conversion")
        yield _without_negative(_columns(piece.table))


def _read_and_join(
    source: Path, country: str, split: str, without_page: dict[str, int], block_bytes: int
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
        without_page[split] += found.null_count
        items = piece.table.filter(found.is_valid())
        label = items["label"].to_numpy()
        labels = {"click": pa.array(label >= 1), "conversion": pa.array(label == 2)}
        yield _without_negative(_columns(items) | _columns(pages.take(found.drop_null())) | labels)


def _load_pages(path: Path, block_bytes: int) -> pa.Table:
    types = {name: _TYPES[name] for name in USER}
    pieces = read_delimited(path, types, names=USER, optional=NUMERICAL, block_bytes=block_bytes)
    empty = pa.schema([*types.items()]).empty_table()
    pages = pa.concat_tables([empty, *(piece.table for piece in pieces)]).combine_chunks()
    numbers, rows = np.unique(pages[SEARCH].to_numpy(), return_counts=True)
    if (twice := numbers[rows > 1]).size:
        raise ValueError(f"{path}: expected one row for each {SEARCH}, got two of {twice[0]}")
    return pages


def _without_negative(columns: Mapping[str, Any]) -> pa.Table:
    """Return the columns; ids count from 0, so one below can only stand for none."""
    table = pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)
    ids = {name: table[name].to_numpy() for name in CATEGORICAL}
    nulls = {name: pa.array(values, mask=values < 0) for name, values in ids.items()}
    return pa.table(_columns(table) | nulls, SCHEMA)


def _columns(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _report(notes: Mapping[str, Any]) -> list[str]:
    missing = sum(notes["impressions_without_page"].values())
    return [f"impressions without their page, left out: {missing:,}"] if missing else []


RECIPE = Recipe(
    title="the AliExpress search logs of one country",
    files="folder with xx_{user,item}_{train,test}.csv, or {train,test}.csv; plain or .gz",
    terms=f"{_SOURCE}, where the licence is too; unpack aliexpress_XX_datasets.zip and the "
    "archives in it",
    schema=SCHEMA,
    labels=LABELS,
    write=write,
    options={
        "validation": "share of the training pages that becomes validation (%(default)s)",
        "seed": "of the validation pages (%(default)s)",
    },
    duplicates_help="default: keep, since rows have no number of their own",
    report=_report,
    published="Counted by others for NL: 12,157,895 rows of train and 5,559,302 of test.",
)
