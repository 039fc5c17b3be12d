"""What a recipe is: a data set's rows by split, its options, and its words on the command line."""

import argparse
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from mbrec.columns.hashing import hash_ids
from mbrec.prepare.duplicates import Policy
from mbrec.prepare.writer import DatasetWriter

SPLITS = ("train", "validation", "test")
_BUCKETS = 1 << 30


@dataclass(frozen=True)
class Recipe:
    """How the files of a public data set become one that training reads.

    Attributes:
        title: what it prepares, for the help.
        files: what the source is, for the help.
        terms: where the files and their licence are, for the help.
        schema: columns of the files.
        labels: the columns that are predicted.
        write: adds all rows to a writer and returns notes for the manifest. Takes the writer, the
            source, and the options as keywords; raises a ValueError that names the cause.
        options: keyword of `write` -> its help. Type and default are those of the keyword.
        duplicates: the policy for equal rows, see `DatasetWriter`.
        duplicates_help: the default, for the help; without it, the command has no such option.
        report: what to print of the manifest's notes.
        published: figures to compare the result with.
    """

    title: str
    files: str
    terms: str
    schema: pa.Schema
    labels: Sequence[str]
    write: Callable[..., dict[str, Any]]
    options: Mapping[str, str] = field(default_factory=dict)
    duplicates: Policy = "keep"
    duplicates_help: str = ""
    report: Callable[[Mapping[str, Any]], list[str]] = lambda notes: []
    published: str = ""

    def prepare(
        self,
        source: Path,
        out: Path,
        *,
        duplicates: Policy | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Write the splits and the manifest into a new folder, whole or not at all.

        Args:
            source: the files, or the folder that holds them, plain or .gz.
            out: to create.
            duplicates: the policy for rows that are equal in all columns; default: the recipe's.
            overwrite: replace `out`, if it is a prepared data set.
            options: of the recipe.

        Returns:
            The manifest.

        Raises:
            ValueError: if an option, a file or a value is wrong; names file, line and column.
            OSError: if a file is missing or cannot be read, or `out` cannot be written.
        """
        chosen: Any = {"duplicates": duplicates or self.duplicates, "overwrite": overwrite}
        with DatasetWriter(out, self.schema, labels=self.labels, **chosen) as writer:
            return writer.finish(self.write(writer, source, **options))


def add_options(
    parser: argparse.ArgumentParser, function: Callable[..., Any], options: Mapping[str, str]
) -> None:
    """Add keywords of a function as options: `a_name=3` becomes `--a-name N`.

    Args:
        parser: to add to.
        function: type and default are those of its keywords. A `Literal` has its values as
            choices, a tuple is given as names joined by commas.
        options: keyword -> help.
    """
    hints = typing.get_type_hints(function)
    kinds: dict[type, dict[str, Any]] = {
        int: {"type": int, "metavar": "N"},
        float: {"type": float, "metavar": "SHARE"},
        str: {"metavar": "TEXT"},
        tuple: {"type": _names, "metavar": "A,B"},
        date: {"type": date.fromisoformat, "metavar": "YYYY-MM-DD"},
        type(None): {"metavar": "COLUMN"},
    }
    for name, text in options.items():
        default = inspect.signature(function).parameters[name].default
        choices = typing.get_args(hints[name]) if isinstance(default, str) else ()
        kind: dict[str, Any] = {"choices": choices} if choices else kinds[type(default)]
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=text, **kind)


def add_duplicates(parser: argparse.ArgumentParser, says: str) -> None:
    """Add the option of the policy for equal rows; `says` describes the default."""
    equal = f"rows that are equal in every column: keep all, or drop all but the first ({says})"
    parser.add_argument("--duplicates", choices=("keep", "drop"), help=equal)


def add_by_share(
    writer: DatasetWriter, split: str, table: pa.Table, ids: str, share: float, seed: int
) -> None:
    """Write rows of a split; of train, those whose ids have a small hash become validation.

    They are the same on every machine.

    Raises:
        ValueError: if the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"expected a share for validation in [0, 1), got {share}")
    hashes = hash_ids(table[ids].to_numpy(), _BUCKETS, seed)
    held_out = hashes < (share if split == "train" else 0.0) * _BUCKETS
    writer.add(split, table.filter(pa.array(~held_out)))
    if held_out.any():
        writer.add("validation", table.filter(pa.array(held_out)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
