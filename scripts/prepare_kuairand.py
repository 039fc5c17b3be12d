"""Turns a KuaiRand archive (Pure, 1K or 27K) into the Parquet folders that training reads.

Impressions of the Kuaishou app in April and May 2022: Gao et al., "KuaiRand: An Unbiased Sequential
Recommendation Dataset with Randomly Exposed Videos", CIKM 2022,
https://doi.org/10.1145/3511808.3557624, licence CC BY-SA 4.0, from https://kuairand.com.

The rows are sorted by date and time, joined with the features of their user and video, and given
their user's history: the last videos shown strictly before the row's time. A model that is
evaluated knows what happened while it was trained, and nothing later: histories of validation
end with the last day of train, those of test with the last day of validation.

Log rows that are equal in every column count once. Memory holds the two feature tables, about two
days of log rows, and the last events of every user, whatever the length of the log.
"""

import argparse
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mbrec.prepare.history import History
from mbrec.prepare.recipes.kuairand import (
    FILE_NAME,
    HOURS,
    LABELS,
    SCHEMA,
    TABS,
    Archive,
    Features,
    find_files,
    join_features,
    load_users,
    load_videos,
)
from mbrec.prepare.recipes.kuairand_days import EVENTS, Day, UserHistories, read_day, spill_days
from mbrec.prepare.script import run
from mbrec.prepare.writer import ROW_GROUP_ROWS, DatasetWriter, check_folder, summary

SPLITS = ("train", "validation", "test")
_JOIN_ROWS = 8 * ROW_GROUP_ROWS


def prepare(
    source: Path,
    out: Path,
    *,
    train_until: date,
    validate_until: date,
    history_event: str = "shown",
    history_length: int = 50,
    overwrite: bool = False,
    block_bytes: int = 1 << 24,
) -> dict[str, Any]:
    """Writes the train, validation and test folders under ``out`` and returns their manifest.

    Args:
        source: A folder with the archive's CSV files (plain or .gz), or the .tar.gz itself.
        out: The folder to create; it appears only when everything in it is complete.
        train_until: Last day of train.
        validate_until: Last day of validation; later days are test.
        history_event: What histories consist of, one of ``EVENTS``.
        history_length: Events that a history has at most.
        overwrite: Replace ``out`` if it is a prepared data set.
        block_bytes: Size of the pieces in which the CSV files are read.

    Raises:
        ValueError: If a file, column or value is missing or wrong, or ``out`` exists.
        OSError: If a file cannot be read, or ``out`` cannot be written.
    """
    if train_until > validate_until:
        raise ValueError(f"expected train to end by {validate_until}, got {train_until}")
    if history_event not in EVENTS:
        raise ValueError(f"expected a history of {', '.join(EVENTS)}, got {history_event}")
    history = History(history_length)
    check_folder(out, overwrite)
    work = out.absolute().parent / f".{out.name}.{os.getpid()}.unpacked"
    work.mkdir(parents=True)
    try:
        archive = find_files(source if source.is_dir() else _extract(source, work / "archive"))
        users = load_users(archive.users, block_bytes)
        videos = load_videos(archive.videos, block_bytes)
        days = spill_days(archive.logs, work / "days", block_bytes)
        if not any(day.date <= train_until for day in days):
            raise ValueError(f"expected log rows of {train_until} or earlier to train on, got none")
        histories = UserHistories(days, videos, history_event, history)
        with _writer(out, users, videos, overwrite) as writer:
            splits = [_Split(writer, name, users, videos) for name in SPLITS]
            _write_days(days, splits, histories, (train_until, validate_until))
            notes = _notes(archive, splits) | {"history_event": history_event}
            return writer.finish(notes=notes | {"history_length": history_length})
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _extract(source: Path, folder: Path) -> Path:
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
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
        raise ValueError(f"{source}: not a readable tar archive ({error})") from error
    return folder


class _Split:
    """Writes the rows of one split, and counts what the manifest's notes tell of it."""

    def __init__(self, writer: DatasetWriter, name: str, users: Features, videos: Features) -> None:
        self.name, self._writer, self._users, self._videos = name, writer, users, videos
        self._days: list[date] = []
        self.duplicates = self._unknown_users = self._unknown_videos = 0

    def add(self, day: Day, history: History) -> None:
        """Writes a day's log rows; days come in order."""
        self._days.append(day.date)
        log, duplicates = read_day(day)
        self.duplicates += duplicates
        for start in range(0, len(log), _JOIN_ROWS):
            rows = log.slice(start, _JOIN_ROWS)
            before = history.before(rows["user_id"].to_numpy(), rows["time_ms"].to_numpy())
            table = join_features(rows, self._users, self._videos, before)
            self._unknown_users += int((table["user_id"].to_numpy() == len(self._users.ids)).sum())
            videos = table["video_id"].to_numpy()
            self._unknown_videos += int((videos == len(self._videos.ids)).sum())
            self._writer.add(self.name, table)

    def notes(self) -> dict[str, Any]:
        """Returns the days, and the rows whose user or video has no features."""
        return {
            "first_day": str(self._days[0]) if self._days else None,
            "last_day": str(self._days[-1]) if self._days else None,
            "rows_of_unknown_users": self._unknown_users,
            "rows_of_unknown_videos": self._unknown_videos,
        }


def _write_days(
    days: list[Day], splits: list[_Split], histories: UserHistories, ends: tuple[date, date]
) -> None:
    for day in tqdm(days, desc="writing", unit="day", disable=None):
        later = sum(day.date > end for end in ends)
        # Rows of validation know what those of train do, rows of test what those of both do.
        known_until = ends[max(later - 1, 0)]
        splits[later].add(day, histories.of_day(day, known_until))


def _writer(out: Path, users: Features, videos: Features, overwrite: bool) -> DatasetWriter:
    cardinality = {**users.cardinality, **videos.cardinality, "hour": HOURS, "tab": TABS}
    cardinality["history"] = cardinality["video_id"]
    # `read_day` drops duplicates of log rows. Others may look alike only here, where less is kept.
    return DatasetWriter(out, SCHEMA, labels=LABELS, cardinality=cardinality, overwrite=overwrite)


def _notes(archive: Archive, splits: list[_Split]) -> dict[str, Any]:
    return {
        "archive": archive.variant,
        "logs": [path.name for path in archive.logs],
        "source": "https://kuairand.com",
        "licence": "CC BY-SA 4.0",
        "duplicate_log_rows": sum(split.duplicates for split in splits),
        "splits": {split.name: split.notes() for split in splits},
    }


def _report(manifest: Mapping[str, Any]) -> str:
    """Returns the manifest's table, and a line for each split of what the notes add."""
    notes = manifest["notes"]
    lines = [summary(dict(manifest) | {"duplicates_dropped": notes["duplicate_log_rows"]})]
    for name, split in notes["splits"].items():
        days = f"{split['first_day']} to {split['last_day']}" if split["first_day"] else "no days"
        unknown = f"{split['rows_of_unknown_users']:,} rows of unknown users"
        unknown += f", {split['rows_of_unknown_videos']:,} of unknown videos"
        lines.append(f"{name}: {days}; {unknown}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare_kuairand.py",
        description="Turn a KuaiRand archive (Pure, 1K or 27K) into Parquet, split by date and "
        "ordered by date and time: OUT/train, OUT/validation, OUT/test, and OUT/manifest.json.",
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
    event = "which videos the column history has, by what the user did (%(default)s)"
    add("--history-event", choices=EVENTS, default=EVENTS[0], help=event)
    add("--history-length", type=int, default=50, metavar="N", help="at most so many (%(default)s)")
    add("--overwrite", action="store_true", help="replace OUT if it is a prepared data set")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(_parser(), prepare, _report, argv)


if __name__ == "__main__":
    sys.exit(main())
