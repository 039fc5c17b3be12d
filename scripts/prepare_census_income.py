"""Turns the Census-Income (KDD) files into the Parquet folders that training reads.

Weighted extracts of the Current Population Surveys of 1994 and 1995: 40 features of a person and
whether the income is above 50,000 dollars. From https://archive.ics.uci.edu/dataset/117
(https://doi.org/10.24432/C5N30T; for the licence see that page): unpack the archive, and the one
in it, until census-income.data and census-income.test lie in one folder.

The tasks are those of Ma et al., "Modeling Task Relationships in Multi-task Learning with
Multi-gate Mixture-of-Experts", KDD 2018, https://doi.org/10.1145/3219819.3220007: income above
50,000 dollars; never married; at least college. Education and marital status answer two of them,
so neither is written. As in that paper, census-income.data is train and census-income.test is
halved at random into validation and test. All rows are kept, also those that are equal: they are
persons of a sample, some of whom gave the same answers as someone else.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbrec.columns.hashing import hash_ids
from mbrec.prepare.delimited import BLOCK_BYTES, Piece, find_file, read_delimited
from mbrec.prepare.duplicates import Policy
from mbrec.prepare.script import add_duplicates, run
from mbrec.prepare.writer import DatasetWriter, summary

NUMERICAL = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "stock_dividends",
    "num_emp",
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

PUBLISHED = """Published: 199,523 rows of train, 99,762 of validation and test together (the data
set's page), of which about 6.2 % have an income above 50,000 dollars."""


def prepare(
    source: Path,
    out: Path,
    *,
    seed: int = 0,
    duplicates: Policy = "keep",
    overwrite: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Writes train, validation and test under ``out`` and returns their manifest.

    Args:
        source: The folder with census-income.data and census-income.test, plain or .gz.
        out: The folder to create.
        seed: Of the halves of census-income.test.
        duplicates: What becomes of rows that are equal in all columns; see `DatasetWriter`.
        overwrite: Replace ``out`` if it is a prepared data set.
        block_bytes: Size of the pieces in which the files are read.

    Raises:
        ValueError: If a file or value is wrong; it names file, line, column and value.
        OSError: If a file is missing or cannot be read, or ``out`` cannot be written.
    """
    train = find_file(source, "census-income.data")
    test = find_file(source, "census-income.test")
    with DatasetWriter(
        out, SCHEMA, labels=LABELS, overwrite=overwrite, duplicates=duplicates
    ) as writer:
        for table in _read(train, block_bytes):
            writer.add("train", table)
        # A third of the whole, so it is held in memory to be cut in exact halves.
        held_out = pa.concat_tables([SCHEMA.empty_table(), *_read(test, block_bytes)])
        validation = _half(len(held_out), seed)
        writer.add("validation", held_out.filter(pa.array(validation)))
        writer.add("test", held_out.filter(pa.array(~validation)))
        notes = {"data_set": "Census-Income (KDD)", "source": "https://doi.org/10.24432/C5N30T"}
        return writer.finish(notes=notes | {"seed": seed})


def _read(path: Path, block_bytes: int) -> Iterator[pa.Table]:
    types = {name: pa.float32() if name in NUMERICAL else pa.string() for name in COLUMNS}
    types[WEIGHT] = pa.float32()
    for piece in read_delimited(path, types, names=COLUMNS, block_bytes=block_bytes):
        yield _encode(piece)


def _encode(piece: Piece) -> pa.Table:
    """Trims the texts (values follow ", "), makes "?" null and derives the labels."""
    columns: dict[str, Any] = {}
    for name in CATEGORICAL:
        encoded = piece.table[name].combine_chunks().dictionary_encode()
        texts = [text.strip() for text in encoded.dictionary.to_pylist()]
        distinct = pa.array([None if text == MISSING else text for text in texts], pa.string())
        columns[name] = distinct.take(encoded.indices)
    weight = piece.table[WEIGHT].to_numpy()
    piece.refuse(~(np.isfinite(weight) & (weight >= 0)), WEIGHT, "a weight of at least 0")
    columns["income"] = _label(piece, "income_50k", INCOMES[1:], INCOMES)
    columns["never_married"] = _label(piece, "marital_stat", MARITAL[:1], MARITAL)
    columns["college"] = _label(piece, "education", COLLEGE, (*SCHOOL, *COLLEGE))
    columns |= {name: piece.table[name] for name in (*NUMERICAL, WEIGHT)}
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)


def _label(piece: Piece, name: str, positive: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """1 for the positive texts; one that nobody expected would be a silent 0, so it is refused."""
    encoded = piece.table[name].combine_chunks().dictionary_encode()
    texts = [text.strip() for text in encoded.dictionary.to_pylist()]
    at = encoded.indices.to_numpy()
    strange = np.array([text not in known for text in texts], bool)[at]
    piece.refuse(strange, name, f"'{known[0]}', '{known[-1]}' or one of {len(known) - 2} others")
    return np.array([text in positive for text in texts], np.int8)[at]


def _half(rows: int, seed: int) -> np.ndarray:
    """Half of the rows, the same on every machine: those of the smallest hashes."""
    chosen = np.zeros(rows, bool)
    order = np.argsort(hash_ids(np.arange(rows), 1 << 62, seed), kind="stable")
    chosen[order[: rows // 2]] = True
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_census_income.py",
        description="Turn the Census-Income (KDD) files into Parquet: OUT/train, OUT/validation, "
        "OUT/test and OUT/manifest.json.",
        epilog="The files: https://archive.ics.uci.edu/dataset/117, where the licence is too.",
    )
    add = parser.add_argument
    source = "folder with census-income.data and census-income.test, plain or .gz"
    add("source", metavar="IN", type=Path, help=source)
    add("out", metavar="OUT", type=Path, help="folder to create")
    halves = "of the halves of census-income.test (%(default)s)"
    add("--seed", type=int, default=0, help=halves)
    add_duplicates(parser, "keep", "default: keep, as published figures do")
    add("--overwrite", action="store_true", help="replace OUT if it is a prepared data set")
    return parser


def _report(manifest: Mapping[str, Any]) -> str:
    return f"{summary(manifest)}\n{PUBLISHED}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(_parser(), prepare, _report, argv)


if __name__ == "__main__":
    sys.exit(main())
