"""The Census-Income (KDD) data set: persons of the Current Population Surveys of 1994 and 1995.

40 features of a person and whether the income is above 50,000 dollars
(https://doi.org/10.24432/C5N30T). The tasks are those of Ma et al., "Modeling Task Relationships in
Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018,
https://doi.org/10.1145/3219819.3220007: income above 50,000 dollars; never married; at least
college. Education and marital status answer two of them, so neither is written. As in that paper,
census-income.data is train and census-income.test is halved at random into validation and test. All
rows are kept, also those that are equal: they are persons of a sample, some of whom gave the same
answers as someone else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbrec.columns.hashing import hash_ids
from mbrec.prepare.delimited import BLOCK_BYTES, Piece, find_file, read_delimited
from mbrec.prepare.recipe import Recipe
from mbrec.prepare.writer import DatasetWriter

NUMERICAL = (
    *("age", "wage_per_hour", "capital_gains", "capital_losses", "stock_dividends", "num_emp"),
    "weeks_worked",
)
WEIGHT = "instance_weight"
# The columns of the files, in their order.
COLUMNS = (
    *("age", "class_worker", "det_ind_code", "det_occ_code", "education", "wage_per_hour"),
    *("hs_college", "marital_stat", "major_ind_code", "major_occ_code", "race", "hisp_origin"),
    *("sex", "union_member", "unemp_reason", "full_or_part_emp", "capital_gains"),
    *("capital_losses", "stock_dividends", "tax_filer_stat", "region_prev_res"),
    *("state_prev_res", "det_hh_fam_stat", "det_hh_summ", WEIGHT, "mig_chg_msa", "mig_chg_reg"),
    *("mig_move_reg", "mig_same", "mig_prev_sunbelt", "num_emp", "fam_under_18"),
    *("country_father", "country_mother", "country_self", "citizenship", "own_or_self"),
    *("vet_question", "vet_benefits", "weeks_worked", "year", "income_50k"),
)
LABELS = ("income", "never_married", "college")
_SOURCES = ("education", "marital_stat", "income_50k")
CATEGORICAL = tuple(n for n in COLUMNS if n not in (*NUMERICAL, *_SOURCES, WEIGHT))
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in CATEGORICAL),
        *((name, pa.float32()) for name in (*NUMERICAL, WEIGHT)),
        *((name, pa.int8()) for name in LABELS),
    ]
)
MISSING = "?"
INCOMES = ("- 50000.", "50000+.")
SCHOOL = (
    *("Children", "Less than 1st grade", "1st 2nd 3rd or 4th grade", "5th or 6th grade"),
    *("7th and 8th grade", "9th grade", "10th grade", "11th grade", "12th grade no diploma"),
    "High school graduate",
)
COLLEGE = (
    *("Some college but no degree", "Associates degree-occup /vocational"),
    *("Associates degree-academic program", "Bachelors degree(BA AB BS)"),
    *("Masters degree(MA MS MEng MEd MSW MBA)", "Prof school degree (MD DDS DVM LLB JD)"),
    "Doctorate degree(PhD EdD)",
)
# The first is the label's.
MARITAL = (
    *("Never married", "Married-civilian spouse present", "Married-spouse absent"),
    *("Married-A F spouse present", "Separated", "Divorced", "Widowed"),
)


def write(
    writer: DatasetWriter, source: Path, *, seed: int = 0, block_bytes: int = BLOCK_BYTES
) -> dict[str, Any]:
    """Add all rows; see `Recipe`."""
    train, test = (find_file(source, f"census-income.{name}") for name in ("data", "test"))
    for table in _read(train, block_bytes):
        writer.add("train", table)
    # A third of the whole, so it is held in memory to be cut in exact halves.
    held_out = pa.concat_tables([SCHEMA.empty_table(), *_read(test, block_bytes)])
    validation = _half(len(held_out), seed)
    writer.add("validation", held_out.filter(pa.array(validation)))
    writer.add("test", held_out.filter(pa.array(~validation)))
    notes = {"data_set": "Census-Income (KDD)", "source": "https://doi.org/10.24432/C5N30T"}
    return notes | {"seed": seed}


def _read(path: Path, block_bytes: int) -> Iterator[pa.Table]:
    types = {n: pa.float32() if n in (*NUMERICAL, WEIGHT) else pa.string() for n in COLUMNS}
    for piece in read_delimited(path, types, names=COLUMNS, block_bytes=block_bytes):
        yield _encode(piece)


def _encode(piece: Piece) -> pa.Table:
    columns: dict[str, Any] = {}
    for name in CATEGORICAL:
        texts, at = _texts(piece, name)
        columns[name] = pa.array([None if text == MISSING else text for text in texts]).take(at)
    weight = piece.table[WEIGHT].to_numpy()
    piece.refuse(~(np.isfinite(weight) & (weight >= 0)), WEIGHT, "a weight of at least 0")
    columns["income"] = _label(piece, "income_50k", INCOMES[1:], INCOMES)
    columns["never_married"] = _label(piece, "marital_stat", MARITAL[:1], MARITAL)
    columns["college"] = _label(piece, "education", COLLEGE, (*SCHOOL, *COLLEGE))
    columns |= {name: piece.table[name] for name in (*NUMERICAL, WEIGHT)}
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)


def _texts(piece: Piece, name: str) -> tuple[list[str], pa.Array]:
    """Return the different texts of a column, trimmed (they follow ", "), and each row's place."""
    encoded = piece.table[name].combine_chunks().dictionary_encode()
    return [text.strip() for text in encoded.dictionary.to_pylist()], encoded.indices


def _label(piece: Piece, name: str, positive: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return 1 for the positive texts; one that is not known would be a silent 0."""
    texts, indices = _texts(piece, name)
    at = indices.to_numpy()
    unknown = np.array([text not in known for text in texts], bool)[at]
    piece.refuse(unknown, name, f"'{known[0]}', '{known[-1]}' or one of {len(known) - 2} others")
    return np.array([text in positive for text in texts], np.int8)[at]


def _half(rows: int, seed: int) -> np.ndarray:
    """Return half of the rows, the same on every machine: those of the smallest hashes."""
    chosen = np.zeros(rows, bool)
    order = np.argsort(hash_ids(np.arange(rows), 1 << 62, seed), kind="stable")
    chosen[order[: rows // 2]] = True
    return chosen


RECIPE = Recipe(
    title="the Census-Income (KDD) data set",
    files="folder with census-income.data and census-income.test, plain or .gz",
    terms="https://archive.ics.uci.edu/dataset/117, where the licence is too; unpack the archive, "
    "and the one in it",
    schema=SCHEMA,
    labels=LABELS,
    write=write,
    options={"seed": "of the halves of census-income.test (%(default)s)"},
    duplicates_help="default: keep, as published figures do",
    published="Published: 199,523 rows of train, 99,762 of validation and test together (the data"
    "\nset's page), of which about 6.2% have an income above 50,000 dollars.",
)
