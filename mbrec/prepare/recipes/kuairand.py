"""A KuaiRand archive (Pure, 1K or 27K).

Impressions of the Kuaishou app in April and May 2022: Gao et al., "KuaiRand: An Unbiased Sequential
Recommendation Dataset with Randomly Exposed Videos", CIKM 2022,
https://doi.org/10.1145/3511808.3557624.

The rows are sorted by date and time, joined with the features of their user and video, and given
their user's history: the last videos shown strictly before the row's time. A model that is
evaluated knows what happened while it was trained, and nothing later: histories of validation
end with the last day of train, those of test with the last day of validation.

Log rows that are equal in every column count once. Memory holds the two feature tables, about two
days of log rows, and the last events of every user, whatever the length of the log.
"""

import re
import shutil
import tarfile
import typing
import zlib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mbrec.prepare.delimited import BLOCK_BYTES
from mbrec.prepare.history import History
from mbrec.prepare.recipe import SPLITS, Recipe
from mbrec.prepare.recipes.kuairand_days import (
    HOURS,
    LOG_LABELS,
    TABS,
    Event,
    UserHistories,
    read_day,
    spill_days,
)
from mbrec.prepare.recipes.kuairand_features import (
    USER_CATEGORICAL,
    USER_NUMERICAL,
    VIDEO_CATEGORICAL,
    VIDEO_NUMERICAL,
    Features,
    load_users,
    load_videos,
)
from mbrec.prepare.spill import Spill
from mbrec.prepare.writer import ROW_GROUP_ROWS, DatasetWriter
from mbrec.reader.source import is_hidden

NUMERICAL = (*USER_NUMERICAL, *VIDEO_NUMERICAL, "video_age_days")
LABELS = (*LOG_LABELS, "conversion")
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("user_id", "video_id", "hour", "tab")),
        *((name, pa.int64()) for name in (*USER_CATEGORICAL, *VIDEO_CATEGORICAL)),
        ("tag", pa.list_(pa.int64())),
        ("history", pa.list_(pa.int32())),
        ("history_weights", pa.list_(pa.float32())),
        *((name, pa.float32()) for name in NUMERICAL),
        *((name, pa.int8()) for name in LABELS),
        ("time_ms", pa.int64()),
    ]
)
_JOIN_ROWS = 8 * ROW_GROUP_ROWS
# Of a split, for the manifest; unknown ones have no features.
_NOTES = {
    "first_day": None,
    "last_day": None,
    "rows_of_unknown_users": 0,
    "rows_of_unknown_videos": 0,
}
_FILE_NAME = re.compile(
    r"(?:log_standard_\w+|user_features|video_features_basic)_(pure|1k|27k)(?:_part\d+)?\.csv(\.gz)?"
)


def write(
    writer: DatasetWriter,
    source: Path,
    *,
    train_until: date = date(2022, 4, 29),
    validate_until: date = date(2022, 4, 30),
    history_event: Event = "shown",
    history_length: int = 50,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Add all rows; see `Recipe`."""
    if train_until > validate_until:
        raise ValueError(f"expected train to end by {validate_until}, got {train_until}")
    if history_event not in (events := typing.get_args(Event)):
        raise ValueError(f"expected a history of {', '.join(events)}, got {history_event}")
    history = History(history_length)
    variant, logs, users_file, videos_file = _find_files(
        source if source.is_dir() else _extract(source, writer.scratch / "archive")
    )
    users, videos = load_users(users_file, block_bytes), load_videos(videos_file, block_bytes)
    writer.cardinality |= {**users.cardinality, **videos.cardinality, "hour": HOURS, "tab": TABS}
    writer.cardinality["history"] = videos.cardinality["video_id"]
    with Spill(writer.scratch / "days") as spilled:
        days = spill_days(logs, spilled, block_bytes)
    if not any(day.date <= train_until for day in days):
        raise ValueError(f"expected log rows of {train_until} or earlier to train on, got none")
    histories = UserHistories(spilled, days, videos, history_event, history)
    ends = train_until, validate_until
    splits: dict[str, dict[str, Any]] = {name: dict(_NOTES) for name in SPLITS}
    duplicates = 0
    for day in tqdm(days, desc="writing", unit="day", disable=None):
        later = sum(day.date > end for end in ends)
        # Rows of validation know what those of train do, rows of test what those of both do.
        known = histories.of_day(day, ends[max(later - 1, 0)])
        log, repeated = read_day(spilled, day)
        duplicates += repeated
        notes = splits[SPLITS[later]]
        notes |= {"first_day": notes["first_day"] or str(day.date), "last_day": str(day.date)}
        for table in _joined(log, users, videos, known, notes):
            writer.add(SPLITS[later], table)
    return {
        "archive": variant,
        "logs": [path.name for path in logs],
        "source": "https://kuairand.com",
        "licence": "CC BY-SA 4.0",
        "duplicate_log_rows": duplicates,
        "splits": splits,
        "history_event": history_event,
        "history_length": history_length,
    }


def _extract(source: Path, folder: Path) -> Path:
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    folder.mkdir()
    try:
        with tarfile.open(source, mode="r|*") as archive:
            for member in archive:
                name = Path(member.name).name
                if not _FILE_NAME.fullmatch(name) or not (content := archive.extractfile(member)):
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


def _find_files(folder: Path) -> tuple[str, list[Path], Path, Path]:
    """Return the variant, logs, users and videos of the one archive in a folder, plain or .gz."""
    variants: dict[str, dict[str, Path]] = {}
    # Sorted, so that where both are there the plain file is taken before its .gz.
    for path in sorted(p for at in ("*", "data/*", "*/data/*") for p in folder.glob(at)):
        match = _FILE_NAME.fullmatch(path.name)
        if match and not is_hidden(path.relative_to(folder).as_posix()):
            variants.setdefault(match[1], {}).setdefault(path.name.removesuffix(".gz"), path)
    looked = f"looked in {folder}, data/ and */data/ in it, for the name with or without .gz"
    if not variants:
        wanted = "log_standard_*.csv, user_features_*.csv, video_features_basic_*.csv"
        raise ValueError(f"expected files of KuaiRand-Pure, -1K or -27K ({wanted}); {looked}")
    if len(variants) > 1:
        found = ", ".join(sorted(variants))
        raise ValueError(f"{folder}: expected the files of one archive, got those of {found}")
    ((variant, files),) = variants.items()
    users, videos = f"user_features_{variant}.csv", f"video_features_basic_{variant}.csv"
    logs = [name for name in files if name.startswith("log_standard_")]
    for name in (users, videos, *(logs or [f"log_standard_*_{variant}.csv"])):
        if name not in files:
            raise ValueError(f"{name} is missing; {looked}")
    # The numbers in a log's name are its first and last day and its part.
    logs.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return variant, [files[name] for name in logs], files[users], files[videos]


def _joined(
    log: pa.Table, users: Features, videos: Features, known: History, notes: dict[str, Any]
) -> Iterator[pa.Table]:
    """Yield log rows with features and history; count in the notes those without features."""
    for start in range(0, len(log), _JOIN_ROWS):
        rows = log.slice(start, _JOIN_ROWS)
        before = known.before(rows["user_id"].to_numpy(), rows["time_ms"].to_numpy())
        table = _join(rows, users, videos, before)
        for name, features in (("user", users), ("video", videos)):
            unknown = table[f"{name}_id"].to_numpy() == len(features.ids)
            notes[f"rows_of_unknown_{name}s"] += int(unknown.sum())
        yield table


def _join(log: pa.Table, users: Features, videos: Features, history: pa.ListArray) -> pa.Table:
    """Give log rows their history and their user's and video's features."""
    columns: dict[str, Any] = {name: log[name] for name in ("tab", "time_ms", *LOG_LABELS)}
    columns |= {"history": history, "history_weights": _weights(history)}
    for id_name, features in (("user_id", users), ("video_id", videos)):
        at = features.positions(log[id_name].to_numpy())
        rows = features.table.take(at)
        columns |= {id_name: at, **dict(zip(rows.column_names, rows.columns, strict=True))}
    age = log["date"].to_numpy() - columns["upload_dt"].to_numpy()
    columns["video_age_days"] = np.maximum(age, 0)
    columns["hour"] = log["hourmin"].to_numpy() // 100
    columns["conversion"] = log["is_click"].to_numpy() * log["long_view"].to_numpy()
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)


def _weights(history: pa.ListArray) -> pa.ListArray:
    """1 / sqrt(n) for each of n events: sums of long lists are not larger than those of short."""
    lengths = history.value_lengths().to_numpy()
    weights = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    return pa.ListArray.from_arrays(history.offsets, pa.array(weights, pa.float32()))


def _report(notes: Mapping[str, Any]) -> list[str]:
    lines = [f"rows dropped that equal an earlier row of the log: {notes['duplicate_log_rows']:,}"]
    for name, split in notes["splits"].items():
        days = f"{split['first_day']} to {split['last_day']}" if split["first_day"] else "no days"
        unknown = f"{split['rows_of_unknown_users']:,} rows of unknown users"
        unknown += f", {split['rows_of_unknown_videos']:,} of unknown videos"
        lines.append(f"{name}: {days}; {unknown}")
    return lines


RECIPE = Recipe(
    title="a KuaiRand archive (Pure, 1K or 27K), split by date and ordered by date and time",
    files="folder with the archive's files (.csv or .csv.gz, also in data/), or the .tar.gz",
    terms="https://kuairand.com, under CC BY-SA 4.0. Uses every log_standard file and no "
    "log_random file. While it runs, a hidden folder beside OUT holds the unpacked archive, if IN "
    "is one, and a copy of the log",
    schema=SCHEMA,
    labels=LABELS,
    write=write,
    options={
        "train_until": "last day of train (%(default)s)",
        "validate_until": "last day of validation, test is what follows (%(default)s)",
        "history_event": "which videos the column history has, by what the user did (%(default)s)",
        "history_length": "maximum number of videos in it (%(default)s)",
    },
    report=_report,
)
