"""Damage that no checksum covers: a bit in the header of a page."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.reader import row_groups
from mbrec.reader.footers import RowGroup
from mbrec.reader.row_groups import RowGroupReader
from mbrec.reader.source import LOCAL

IDS, WORDS = pa.list_(pa.int64()), pa.list_(pa.string())
LISTS = [[1, 2, 3], [], [4], [5, 6], [7, 8, 9, 10]]
PAIRS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 9]]
COLUMNS = {
    "lists": pa.array(LISTS, IDS),
    "lists and nulls": pa.array([[1, None], None, [], [4, 5], [6]], IDS),
    "large lists": pa.array(LISTS, pa.large_list(pa.int64())),
    "lists of a fixed size": pa.array(PAIRS, pa.list_(pa.int64(), 2)),
    "lists of weights": pa.array(LISTS, pa.list_(pa.float32())),
    "lists of words": pa.array([["a", "b"], ["c"], [], ["a"], ["b", None]], WORDS),
    "words": pa.array(["a", "b", None, "a", "c"]),
    "numbers": pa.array([1.0, None, 3.0, 4.0, 5.0]),
    "ids": pa.array([5, 1, 2, 2, 7]),
}
SEVERAL_PAGES = {"use_dictionary": False, "data_page_size": 1, "write_batch_size": 2}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in COLUMNS),
    ("lists", {"compression": "zstd", "use_dictionary": False}),
    # The bits that fill the last byte of a page's flags become nulls if its count is too high.
    ("lists and nulls", SEVERAL_PAGES),
    ("numbers", SEVERAL_PAGES),
]


def write(path: Path, column: pa.Array, **options: Any) -> pa.Table:
    table = pa.table({"x": range(len(column)), "c": column})
    # With an index, a page's header has no statistics, which nobody reads.
    fixed = {"compression": "none", "write_page_checksum": True, "write_page_index": True}
    options = {**fixed, **options}
    pq.write_table(table, path, **options)
    return table


def reader(kind: pa.DataType, name: str = "c") -> RowGroupReader:
    nested = pa.types.is_nested(kind)
    text = pa.types.is_string(kind.value_type if nested else kind)
    path = f"{name}.list.element" if nested else name
    return RowGroupReader(LOCAL, ["x", name], [name] if nested else [], [path] if text else [])


def flips(path: Path) -> Iterator[int]:
    """Write the file with one bit of its second column's page headers changed, each in turn."""
    good = path.read_bytes()
    footer = pq.read_metadata(path).row_group(0).column(1)
    at = min(filter(None, [footer.dictionary_page_offset, footer.data_page_offset]))
    end = at + footer.total_compressed_size
    while at < end:
        length, size = _page(good[at:end])
        for bit in range(8 * at, 8 * (at + length)):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            yield bit
        at += length + size
    assert at == end


def _page(data: bytes) -> tuple[int, int]:
    """Return the lengths of a page's header and of what follows, whose checksum it holds."""
    at = start = 0
    for _ in range(3):  # type, size, and compressed size: each a byte of its own, and a number
        at, start = at + 2, at + 1
        while data[at - 1] & 0x80:
            at += 1
    size = sum((byte & 0x7F) << 7 * k for k, byte in enumerate(data[start:at])) >> 1
    for length in range(at, len(data)):
        crc = zlib.crc32(data[length : length + size])
        signed = crc - (crc >> 31 << 32)
        number, digits = (signed << 1) ^ (signed >> 31), bytearray()
        while number > 0x7F:
            digits.append(number & 0x7F | 0x80)
            number >>= 7
        digits.append(number)
        if bytes(digits) in data[at:length]:
            return length, size
    raise AssertionError("expected a header with a checksum")


def in_slices(rows: RowGroupReader, group: RowGroup) -> tuple[list[Any], str]:
    """Return the rows that come before an error, and the error if there is one."""
    found: list[Any] = []
    try:
        for row in range(group.num_rows):
            part = rows.read(group, row, row + 1, is_last=row + 1 == group.num_rows)
            found += part.to_pylist()
    except ValueError as error:
        return found, str(error)
    return found, ""


@pytest.fixture
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode two rows at a time."""
    monkeypatch.setattr(row_groups, "_MIN_DECODED_ROWS", 2)


@pytest.mark.faults
@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize(("name", "options"), CASES)
def test_changed_bit_of_a_page_header_is_an_error_or_changes_no_row(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    column = COLUMNS[name]
    table = write(tmp_path / "f.parquet", column, **options)
    silent, seen, refused = [], 0, 0
    group = RowGroup(str(tmp_path / "f.parquet"), 0, 0, len(table))
    for bit in flips(tmp_path / "f.parquet"):
        seen += 1
        try:
            got = reader(column.type).read(group)
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'f.parquet'}: row group 0 cannot be read: ")
            refused += 1
        else:
            if got.to_pylist() != table.to_pylist():
                silent.append((bit, got["c"].to_pylist()))
        found, error = in_slices(reader(column.type), group)
        if len(found) == len(table) and not error and found != table.to_pylist():
            silent.append((bit, found))
        if options is not SEVERAL_PAGES and found != table.to_pylist()[: len(found)]:
            silent.append((bit, found))
    assert not silent
    assert refused > 50
    assert seen > refused


def test_count_in_a_page_header_would_lose_the_end_of_the_last_list(tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    table = write(file, COLUMNS["lists"])
    lost, expected = [], "expected 11 values, got .*: the file is damaged"
    for _ in flips(file):
        try:
            found = pq.ParquetFile(file, page_checksum_verification=True).read()
        except (OSError, pa.ArrowException):
            continue
        if found.to_pylist() != table.to_pylist():
            lost.append(found["c"].to_pylist()[-1])
            with pytest.raises(ValueError, match=expected):
                reader(IDS).read(RowGroup(str(file), 0, 0, 5))
    assert lost
    assert all(found == LISTS[-1][: len(found)] for found in lost)


FEW = [[[]], [None], [[], None, []], [None, None], [[None]], [[1]], [[], [1, 2], None, [3], []]]


@pytest.mark.parametrize("kind", [IDS, pa.large_list(pa.int64()), pa.list_(pa.float32()), WORDS])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_lists_of_every_kind_pass(kind: pa.DataType, version: str, tmp_path: Path) -> None:
    text = pa.types.is_string(kind.value_type)
    for number, rows in enumerate(FEW):
        if text:
            rows = [row and [v and str(v) for v in row] for row in rows]
        file = tmp_path / f"{number}.parquet"
        table = write(file, pa.array(rows, kind), data_page_version=version)
        found = reader(kind).read(RowGroup(str(file), 0, 0, len(rows)))
        assert found.to_pylist() == table.to_pylist()


@pytest.mark.parametrize("rows", [PAIRS, [None, [1, 2], None, [3, 4]], [[None, 1]], [None]])
def test_lists_of_a_fixed_size_pass(rows: list[Any], tmp_path: Path) -> None:
    kind = pa.list_(pa.int64(), 2)
    table = write(tmp_path / "f.parquet", pa.array(rows, kind))
    found = reader(kind).read(RowGroup(str(tmp_path / "f.parquet"), 0, 0, len(rows)))
    assert found.to_pylist() == table.to_pylist()


def test_row_groups_are_counted_apart(tmp_path: Path) -> None:
    file, rows = tmp_path / "f.parquet", [*LISTS, None, *LISTS, []]
    table = write(file, pa.array(rows, IDS), row_group_size=5)
    sizes = {2: 2, 0: 5, 1: 5}
    found = [reader(IDS).read(RowGroup(str(file), k, 5 * k, n)) for k, n in sizes.items()]
    assert pa.Table.from_batches(found).to_pylist() == table.take([10, 11, *range(10)]).to_pylist()


def test_counts_are_those_of_the_column_whatever_lies_beside_it(tmp_path: Path) -> None:
    nested = pa.struct({"c": pa.int64(), "d": pa.struct({"e": IDS, "f": pa.string()})})
    table = pa.table(
        {
            "deep": pa.array([{"c": 1, "d": {"e": [1, 2], "f": "a"}}, None], nested),
            "pairs": pa.array([[(1, 2), (3, 4)], []], pa.map_(pa.int8(), pa.int8())),
            "c.d": [1, 2],
            "c": pa.array([[7, 8, 9], [None]], IDS),
            "x": [0, 1],
            "c.d.list.element": pa.array([[1] * 9, None], IDS),
        }
    )
    file = tmp_path / "f.parquet"
    pq.write_table(table, file)
    for name in ("c", "c.d.list.element"):
        found = reader(IDS, name).read(RowGroup(str(file), 0, 0, 2))
        assert found.select(["x", name]).to_pylist() == table.select(["x", name]).to_pylist()


def test_files_beyond_the_limit_are_closed_and_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    plain = row_groups.open_file

    def counted(file: str, *rest: Any) -> pq.ParquetFile:
        opened.append(file)
        return plain(file, *rest)

    monkeypatch.setattr(row_groups, "open_file", counted)
    monkeypatch.setattr(row_groups, "MAX_OPEN_FILES", 2)
    groups = [RowGroup(str(tmp_path / f"{k}.parquet"), 0, 0, 5) for k in range(3)]
    for group in groups:
        write(Path(group.file), COLUMNS["lists"])
    one = reader(IDS)
    for k in (0, 1, 0, 2, 0, 1):
        assert one.read(groups[k])["c"].to_pylist() == LISTS
    assert [Path(file).stem for file in opened] == ["0", "1", "2", "1"]
