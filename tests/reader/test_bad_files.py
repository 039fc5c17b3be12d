"""Files that are missing, foreign, incomplete or corrupted are refused by name."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mbrec.columns.schema import Order
from mbrec.config.tasks import Task
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import open_store


def read(log: Any, files: list[str]) -> ParquetReader:
    return ParquetReader(files, log.columns, {"ctr": Task("click")}, global_batch_size=4)


# Found when the reader is made


def test_all_missing_columns_are_named_with_those_there_are(new_log: Any, tmp_path: Path) -> None:
    log, file = new_log([[3]]), str(tmp_path / "fewer.parquet")
    pq.write_table(log.table.drop_columns(["user_id", "tags", "age", "is_buy", "wt"]), file)
    with pytest.raises(ValueError) as caught:
        read(log, [*log.files, file])  # The tasks do not need `is_buy`.
    text = str(caught.value)
    assert text.startswith(f"{file}: expected the columns user_id, tags, age, wt, got a file with ")
    assert "query, word_ids, item, num_views, click, like" in text


@pytest.mark.parametrize("leak", ["like", "__p_buy"])
def test_columns_that_no_task_needs_may_be_missing(new_log: Any, tmp_path: Path, leak: str) -> None:
    log, file = new_log([[3]]), str(tmp_path / "fewer.parquet")
    pq.write_table(log.table.drop_columns([leak, "ignored"]), file)
    (batch,) = read(log, [file])
    assert batch.rows_B.tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize("text", [b"", b"PAR1", b"user_id,click\n1,0\n", bytes(1_000)])
def test_file_that_is_not_parquet_is_refused(new_log: Any, tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(text)
    log = new_log([[3]])
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: expected a Parquet file: "):
        read(log, [*log.files, str(file)])


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(new_log: Any, tmp_path: Path, kept: float) -> None:
    log, file = new_log([[30, 30]]), tmp_path / "cut.parquet"
    whole = Path(log.files[0]).read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: expected a Parquet file: "):
        read(log, [str(file)])


@pytest.mark.parametrize("name", ["absent.parquet", "."])
def test_missing_file_or_folder_is_refused(new_log: Any, tmp_path: Path, name: str) -> None:
    file = str(tmp_path / name)
    with pytest.raises(ValueError, match=f"^{re.escape(file)}: expected a Parquet file: "):
        read(new_log([[3]]), [file])


def test_no_files_or_no_rows_are_refused(new_log: Any) -> None:
    with pytest.raises(ValueError, match=r"^expected rows, got none in 0 files"):
        read(new_log([[3]]), [])
    empty = new_log([[0, 0], []])
    with pytest.raises(ValueError, match=r"^expected rows, got none in 2 files") as caught:
        empty.reader()
    assert ", ".join(empty.files) in str(caught.value)


def test_files_are_found_sorted_and_once(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "deep/er/c.parquet", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = open_store(str(tmp_path)).find(["b.*", "*.parquet", "**/c.parquet"])
    assert found == ["b.parquet", "a.parquet", "deep/er/c.parquet"]


def test_pattern_that_matches_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    pattern = re.escape(str(tmp_path / "train/*.parquet"))
    with pytest.raises(ValueError, match=f"^expected Parquet files at {pattern}, found none$"):
        open_store(str(tmp_path)).find(["*.parquet", "train/*.parquet"])


# Found when rows are read


def flip(file: str, group: int, name: str, where: float) -> None:
    """Flip a bit of the data pages of a column."""
    metadata = pq.ParquetFile(file).metadata.row_group(group)
    columns = [metadata.column(k) for k in range(metadata.num_columns)]
    column = next(c for c in columns if c.path_in_schema.split(".")[0] == name)
    content = bytearray(Path(file).read_bytes())
    start, stop = column.data_page_offset, column.total_compressed_size
    start, stop = start, (column.dictionary_page_offset or start) + stop
    content[start + int((stop - start) * where)] ^= 1
    Path(file).write_bytes(content)


@pytest.mark.parametrize("name", ["user_id", "tags", "age", "click", "__p_buy"])
@pytest.mark.parametrize("order", list(Order), ids=lambda order: order.name)
def test_corrupted_page_is_noticed_by_its_checksum(new_log: Any, name: str, order: Order) -> None:
    log = new_log([[40], [40, 40]], write_page_checksum=True, use_dictionary=False)
    flip(log.files[1], 1, name, 0.9)
    batches = iter(log.reader(global_batch_size=8, order=order))
    good = [row for _ in range(10) for row in next(batches).rows_B.tolist()]
    assert good == list(range(80))
    with pytest.raises(ValueError) as caught:
        next(batches)
    assert str(caught.value).startswith(f"{log.files[1]}: row group 1 cannot be read: ")
    assert "CRC" in str(caught.value)


def test_corrupted_column_that_is_not_read_does_no_harm(new_log: Any) -> None:
    log = new_log([[40]], write_page_checksum=True, use_dictionary=False)
    flip(log.files[0], 0, "ignored", 0.9)
    assert log.rows() == list(range(40))


def test_any_error_of_the_decoder_names_the_file(new_log: Any) -> None:
    # Without checksums: what is noticed is noticed by the decoder, in errors of several kinds.
    log = new_log([[30]], use_dictionary=False, compression="none")
    whole, kinds = Path(log.files[0]).read_bytes(), set()
    for step in range(150):
        flip(log.files[0], 0, "tags", step / 150)
        try:
            list(log.reader())
        except ValueError as error:
            assert log.files[0] in str(error)
            kinds.add(type(error.__cause__).__name__)
        Path(log.files[0]).write_bytes(whole)
    assert {"OSError", "ArrowInvalid"} <= kinds
    assert log.rows() == list(range(30))


def test_no_flipped_bit_of_the_pages_goes_unnoticed(new_log: Any) -> None:
    log = new_log([[30], [30]], write_page_checksum=True, compression="zstd")
    file = Path(log.files[1])
    whole, expected = file.read_bytes(), [log.rows_of(batch) for batch in log.batches()]
    pages = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
    refused = 0
    for bit in np.random.default_rng(0).choice(8 * pages, 200, replace=False).tolist():
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            assert [log.rows_of(batch) for batch in log.batches()] == expected
        except ValueError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > 150, "expected the others to be in columns that are not read"
