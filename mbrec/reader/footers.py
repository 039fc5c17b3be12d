"""Looks at every file before the first row is read: footers only, all problems at once."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.columns.encode import Encoder
from mbrec.columns.manifest import NAME, read_footer
from mbrec.reader.source import Store

# A file of a few bytes can claim, and decode to, any number of rows.
MAX_ROW_GROUP_ROWS = 1 << 22
MAX_ROW_GROUP_BYTES = 1 << 30
MAX_LIST_VALUES = 1 << 26
_SHOWN = 20
_THREADS = 8
_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class RowGroup:
    """A row group of one of the files.

    Attributes:
        file: relative to the store.
        index: its number in the file.
        first_row: position in the whole data set of its first row.
        num_rows: of it.
        num_bytes: of it, before compression.
        statistics: digest of what the footer says of the columns that are read.
    """

    file: str
    index: int
    first_row: int
    num_rows: int
    num_bytes: int = 0
    statistics: str = field(default="", compare=False)


@dataclass(frozen=True)
class Footers:
    """What the footers of some files say.

    Attributes:
        row_groups: those of all files that have rows, in order.
        tails: file -> its footer as it stands at its end.
    """

    row_groups: list[RowGroup]
    tails: dict[str, bytes]


def check_files(files: Sequence[str], encoder: Encoder, store: Store) -> Footers:
    """Read the footers of files, each once.

    Args:
        files: relative to the store.
        encoder: says which columns there must be, and of which types.
        store: where the files are.

    Raises:
        ValueError: listing, for all files, whatever is not a Parquet file, lacks a column, has
            one of the wrong type, or claims an absurd size.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        footers = list(pool.map(lambda file: _read_footer(file, encoder, store), files))
    problems: dict[str, list[str]] = {}
    for file, (found, _, _) in zip(files, footers, strict=True):
        for problem in found:
            problems.setdefault(problem, []).append(store.display(file))
    if problems:
        raise ValueError(_describe(problems))
    groups, first_row = [], 0
    for file, (_, sizes, _) in zip(files, footers, strict=True):
        for index, (num_rows, num_bytes, said) in enumerate(sizes):
            if num_rows:
                groups.append(RowGroup(file, index, first_row, num_rows, num_bytes, said))
            first_row += num_rows
    if not groups:
        shown = ", ".join(store.display(file) for file in files[:3])
        raise ValueError(f"expected rows, got none in {len(files)} files ({shown})")
    tails = {file: tail for file, (_, _, tail) in zip(files, footers, strict=True)}
    return Footers(groups, tails)


def open_file(
    file: str, store: Store, columns: Sequence[str] = (), footer: bytes | None = None
) -> pq.ParquetFile:
    """Open a file for reading, its pages verified.

    Args:
        file: relative to the store.
        store: where it is.
        columns: those of strings, or lists of them, come as dictionaries where they are stored so.
        footer: of the file, if it is known: it is not read again.
    """
    source, texts, metadata = store.filesystem.open_input_file(store.path(file)), [], None
    if columns or footer is not None:
        metadata = pq.read_metadata(source if footer is None else _as_file(footer))
        # The elements of a list have another name in each writer.
        names, leaves = tuple(f"{name}." for name in columns), range(len(metadata.schema))
        paths = [metadata.schema.column(number).path for number in leaves]
        texts = [path for path in paths if f"{path}.".startswith(names)]
    return pq.ParquetFile(
        source,
        metadata=metadata,
        page_checksum_verification=True,
        read_dictionary=texts,
        # Few large requests, by another thread: worth its handing over only where latency is high.
        pre_buffer=not store.is_local,
        # Elsewhere an open row group holds so much of each column, and not all that is compressed.
        buffer_size=_BUFFER_BYTES,
    )


def _as_file(footer: bytes) -> pa.BufferReader:
    """Return a file that has the footer and no rows."""
    return pa.BufferReader(b"PAR1" + footer)


def _read_footer(
    file: str, encoder: Encoder, store: Store
) -> tuple[list[str], list[tuple[int, int, str]], bytes]:
    """Return the problems of a file; of each row group rows, bytes, and a digest of statistics."""
    try:
        with store.filesystem.open_input_file(store.path(file)) as source:
            footer = read_footer(source)
        _check_footer(file, footer, store)
        with pq.ParquetFile(_as_file(footer)) as parquet:
            metadata, schema = parquet.metadata, parquet.schema_arrow
            # Not from `metadata.schema`, which with its owner is a cycle of some 100 kB a file.
            first = metadata.row_group(0) if metadata.num_row_groups else None
            leaves = range(metadata.num_columns if first else 0)
            paths = [first.column(number).path_in_schema for number in leaves] if first else []
    except (OSError, ValueError, pa.ArrowException) as error:
        return [f"expected a Parquet file: {error}"], [], b""
    problems = encoder.problems(schema)
    wanted, sizes = tuple(f"{name}." for name in encoder.names), []
    lists = [number for number, path in enumerate(paths) if path.startswith(wanted)]
    read = [number for number, path in enumerate(paths) if f"{path}.".startswith(wanted)]
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        sizes.append((group.num_rows, group.total_byte_size, _statistics(group, read)))
        problems += _oversized(group, index, wanted, lists)
    return problems, sizes, footer


def _check_footer(file: str, footer: bytes, store: Store) -> None:
    """Refuse a footer that is not that of the manifest.

    It says what the bytes of the pages mean, and pyarrow ends the process over some that are
    damaged.
    """
    known = store.manifest.files.get(file) if store.manifest else None
    if known is None or known.footer_sha256 is None:
        return
    if hashlib.sha256(footer).hexdigest() != known.footer_sha256:
        raise ValueError(
            f"expected the footer that {NAME} has the hash of, got another: the file is "
            "damaged, copy it again"
        )


def _statistics(group: pq.RowGroupMetaData, leaves: Sequence[int]) -> str:
    """Return a digest of sizes, nulls and limits of some columns, as the footer has them."""
    digest = hashlib.blake2b(digest_size=8)
    for column in map(group.column, leaves):
        said, found = column.statistics, [column.path_in_schema, column.num_values]
        # Limits of INT96 have no order, and pyarrow no text for them.
        if said is not None and column.physical_type != "INT96":
            found += [said.null_count] if said.has_null_count else []
            found += [said.min_raw, said.max_raw] if said.has_min_max else []
        digest.update(repr(found).encode())
    return digest.hexdigest()


def _oversized(
    group: pq.RowGroupMetaData, index: int, wanted: tuple[str, ...], lists: Sequence[int]
) -> list[str]:
    if group.num_rows > MAX_ROW_GROUP_ROWS:
        return [
            f"row group {index}: expected at most {MAX_ROW_GROUP_ROWS:,} rows, got "
            f"{group.num_rows:,}; write the file again with smaller row groups"
        ]
    # Equal values are stored as one and a count, so that their bytes say nothing.
    values = max((group.column(number).num_values for number in lists), default=0)
    if values > MAX_LIST_VALUES:
        return [
            f"row group {index}: expected at most {MAX_LIST_VALUES:,} values in a column of "
            f"lists, got {values:,}; write the file again with smaller row groups"
        ]
    if group.total_byte_size <= MAX_ROW_GROUP_BYTES // 8:
        return []
    columns = [group.column(number) for number in range(group.num_columns)]
    size = sum(
        column.total_uncompressed_size
        for column in columns
        if f"{column.path_in_schema}.".startswith(wanted)
    )
    if size <= MAX_ROW_GROUP_BYTES:
        return []
    return [
        f"row group {index}: expected at most {MAX_ROW_GROUP_BYTES >> 20:,} MiB of the columns "
        f"that are read, got {size >> 20:,}; write the file again with smaller row groups"
    ]


def _describe(problems: Mapping[str, list[str]]) -> str:
    lines = []
    for problem, files in problems.items():
        more = "" if len(files) == 1 else f" (and in {len(files) - 1:,} more: {files[1]}"
        more += " ..." if len(files) > 2 else ""
        lines.append(f"{files[0]}: {problem}{more}{')' if more else ''}")
    if len(lines) == 1:
        return lines[0]
    left = f"\n  ... {len(lines) - _SHOWN:,} more" if len(lines) > _SHOWN else ""
    return f"{len(lines)} problems in the files:\n  " + "\n  ".join(lines[:_SHOWN]) + left
