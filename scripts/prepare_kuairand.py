"""Turns a KuaiRand archive (Pure, 1K or 27K) into the Parquet folders that training reads.

Training and evaluation want time order, which the archive's logs need not be in. So the logs are
first spilled into one file per ``date``, and each is then sorted by ``time_ms``, joined with the
user and video features and written. (Around midnight the order is not strict: some rows have
the date of the day after their time.) Memory holds the two feature tables and one day of log rows,
whatever the size of the archive.
"""

import argparse
import json
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from mbrec.data.kuairand import (
    FILE_NAME,
    HOURS,
    LABELS,
    LOG_SCHEMA,
    NUMERICAL,
    SCHEMA,
    TABS,
    Archive,
    Features,
    KuaiRandError,
    find_files,
    join_features,
    load_users,
    load_videos,
    read_log,
)

ROW_GROUP_ROWS = 8_192
FILE_ROW_GROUPS = 64
_JOIN_ROWS = 8 * ROW_GROUP_ROWS


def prepare(
    source: Path,
    out: Path,
    *,
    train_until: date,
    validate_until: date,
    overwrite: bool = False,
    block_bytes: int = 1 << 24,
) -> dict[str, Any]:
    """Writes the train, validation and test folders and ``summary.json`` under ``out``.

    Args:
        source: A folder with the archive's CSV files (plain or .gz), or the .tar.gz itself.
        out: The folder to create; it appears only when everything in it is complete.
        train_until: Last day of train.
        validate_until: Last day of validation; later days are test.
        overwrite: Replace ``out`` if an earlier call wrote it.
        block_bytes: Size of the pieces in which the CSV files are read.

    Returns:
        What ``summary.json`` holds: rows and label rates by split, the cardinality of every
        categorical column, mean and deviation of log1p of every numerical column over train.

    Raises:
        KuaiRandError: If a file, column or value is missing or wrong, or ``out`` exists.
    """
    if train_until > validate_until:
        raise KuaiRandError(f"train ends on {train_until}, after validation on {validate_until}")
    _check_out(out, overwrite)
    work = out.parent / f".{out.name}.{os.getpid()}.partial"
    work.mkdir(parents=True)
    try:
        archive = find_files(source if source.is_dir() else _extract(source, work / "archive"))
        users = load_users(archive.users, block_bytes)
        videos = load_videos(archive.videos, block_bytes)
        days = _spill_days(archive.logs, work / "days", block_bytes)
        if not any(day <= train_until for day in days):
            raise KuaiRandError(f"no log row is from {train_until} or earlier, train is empty")
        splits = {name: _Split(work / "out" / name) for name in ("train", "validation", "test")}
        for day, path in tqdm(days.items(), desc="writing", unit="day", disable=None):
            later = (day > train_until) + (day > validate_until)
            [*splits.values()][later].add_day(day, path, users, videos)
        summary = _summarise(archive, splits, users, videos)
        (work / "out" / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        if out.exists():
            out.rename(work / "replaced")
        (work / "out").rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return summary


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise KuaiRandError(f"{out} exists already: remove it or pass --overwrite")
    if not (out / "summary.json").is_file():
        raise KuaiRandError(f"{out} was not written by this script, so it is not overwritten")


def _extract(source: Path, folder: Path) -> Path:
    if not source.exists():
        raise KuaiRandError(f"{source}: no such file or folder")
    folder.mkdir()
    try:
        with tarfile.open(source, mode="r|*") as archive:
            for member in archive:
                name = Path(member.name).name
                if not FILE_NAME.fullmatch(name) or not (content := archive.extractfile(member)):
                    continue
                bar = {"total": member.size, "desc": f"extracting {name}", "disable": None}
                with (
                    tqdm.wrapattr(content, "read", **bar) as stream,
                    (folder / name).open("wb") as target,
                ):
                    shutil.copyfileobj(stream, target, 1 << 20)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise KuaiRandError(f"{source}: not a readable tar archive ({error})") from error
    return folder


def _spill_days(logs: list[Path], folder: Path, block: int) -> dict[date, Path]:
    folder.mkdir()
    writers: dict[int, Any] = {}
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    bar = tqdm(desc="reading logs", unit=" rows", unit_scale=True, mininterval=1, disable=None)
    with ExitStack() as stack, bar:
        for rows in (rows for path in logs for rows in read_log(path, block)):
            days = rows["date"].to_numpy()
            for day in np.unique(days).tolist():
                if day not in writers:
                    file = pa.ipc.new_file(str(folder / str(day)), LOG_SCHEMA, options=options)
                    writers[day] = stack.enter_context(file)
                writers[day].write_table(rows.filter(pa.array(days == day)))
            bar.update(len(days))
    epoch = date(1970, 1, 1)
    return {epoch + timedelta(days=day): folder / str(day) for day in sorted(writers)}


class _Split:
    """Writes one split in row groups of a fixed size and sums what the summary tells of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._writer: pq.ParquetWriter | None = None
        self._row_groups = 0
        self._pending = SCHEMA.empty_table()
        self._days: list[date] = []
        self._rows = self._unknown_users = self._unknown_videos = 0
        self._positives = np.zeros(len(LABELS), np.int64)
        self._moments = np.zeros((2, len(NUMERICAL)))

    def add_day(self, day: date, path: Path, users: Features, videos: Features) -> None:
        """Writes a day's log rows; days come in order."""
        self._days.append(day)
        with pa.OSFile(str(path)) as file:
            log = pa.ipc.open_file(file).read_all().combine_chunks()
        log = log.take(np.argsort(log["time_ms"].to_numpy(), kind="stable"))
        for start in range(0, len(log), _JOIN_ROWS):
            table = join_features(log.slice(start, _JOIN_ROWS), users, videos)
            self._write(table)
            self._rows += len(table)
            self._unknown_users += int((table["user_id"].to_numpy() == len(users.ids)).sum())
            self._unknown_videos += int((table["video_id"].to_numpy() == len(videos.ids)).sum())
            self._positives += [int(table[name].to_numpy().sum()) for name in LABELS]
            logs = [np.log1p(table[name].to_numpy().astype(np.float64)) for name in NUMERICAL]
            self._moments += [[values.sum() for values in logs], [v @ v for v in logs]]

    def _write(self, table: pa.Table) -> None:
        self._pending = pa.concat_tables([self._pending, table])
        while len(self._pending) >= ROW_GROUP_ROWS:
            self._write_row_group(self._pending.slice(0, ROW_GROUP_ROWS))
            self._pending = self._pending.slice(ROW_GROUP_ROWS)

    def _write_row_group(self, table: pa.Table) -> None:
        file, row_group = divmod(self._row_groups, FILE_ROW_GROUPS)
        if self._writer is None or row_group == 0:
            self._close_file()
            path = str(self._folder / f"part-{file:05}.parquet")
            options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
            self._writer = pq.ParquetWriter(path, SCHEMA, **options)
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._row_groups += 1

    def _close_file(self) -> None:
        if self._writer:
            self._writer.close()

    def finish(self) -> dict[str, Any]:
        """Completes the files and returns the split's part of the summary."""
        if len(self._pending):
            self._write_row_group(self._pending)
        self._close_file()
        rates = (self._positives / max(self._rows, 1)).tolist()
        return {
            "rows": self._rows,
            "first_day": str(self._days[0]) if self._days else None,
            "last_day": str(self._days[-1]) if self._days else None,
            "rows_of_unknown_users": self._unknown_users,
            "rows_of_unknown_videos": self._unknown_videos,
            "label_rates": dict(zip(LABELS, rates, strict=True)),
        }

    def log1p_statistics(self) -> dict[str, dict[str, float]]:
        """Mean and standard deviation of log1p of every numerical column."""
        mean, square = self._moments / max(self._rows, 1)
        std = np.sqrt(np.maximum(square - mean**2, 0))
        pairs = zip(NUMERICAL, mean.tolist(), std.tolist(), strict=True)
        return {name: {"mean": mean, "std": std} for name, mean, std in pairs}


def _summarise(
    archive: Archive, splits: dict[str, _Split], users: Features, videos: Features
) -> dict[str, Any]:
    fixed = {"hour": HOURS, "tab": TABS}
    return {
        "archive": archive.variant,
        "logs": [path.name for path in archive.logs],
        "splits": {name: split.finish() for name, split in splits.items()},
        "cardinality": {**users.cardinality, **videos.cardinality, **fixed},
        "log1p_of_numerical_in_train": splits["train"].log1p_statistics(),
    }


def _report(summary: dict[str, Any]) -> str:
    splits = summary["splits"].values()
    counts = ("rows", "first_day", "last_day", "rows_of_unknown_users", "rows_of_unknown_videos")
    table = [
        ("", list(summary["splits"])),
        *((key, [split[key] for split in splits]) for key in counts),
        *((label, [f"{split['label_rates'][label]:.4f}" for split in splits]) for label in LABELS),
    ]
    return "\n".join(
        f"{name:<24}" + "".join(f"{'-' if cell is None else cell:>12}" for cell in cells)
        for name, cells in table
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Turn a KuaiRand archive (Pure, 1K or 27K) into Parquet, split by date and "
        "ordered by date and time: OUT/train, OUT/validation, OUT/test, and OUT/summary.json.",
        epilog="Uses every log_standard file and no log_random file. While it runs, a folder "
        "beside OUT holds the unpacked archive, if IN is one, and a copy of the log.",
    )
    add = parser.add_argument
    source = "folder with the archive's files (.csv or .csv.gz, also in data/), or the .tar.gz"
    add("source", metavar="IN", type=Path, help=source)
    add("out", metavar="OUT", type=Path, help="folder to create")
    day = {"type": date.fromisoformat, "metavar": "YYYY-MM-DD"}
    last = "last day of validation, test is what follows (%(default)s)"
    add("--train-until", default=date(2022, 4, 29), help="last day of train (%(default)s)", **day)
    add("--validate-until", default=date(2022, 4, 30), help=last, **day)
    add("--overwrite", action="store_true", help="replace OUT if this script wrote it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        summary = prepare(**vars(args))
    except (KuaiRandError, OSError) as error:
        print(f"prepare_kuairand: {error}", file=sys.stderr)
        return 2
    print(f"{_report(summary)}\nwritten to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
