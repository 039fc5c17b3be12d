"""The KuaiRand data set: its files, what is read from them and the columns that training gets.

The feature tables are held in memory as codes and float32 values; the logs are read in pieces.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pcsv

from mbrec.reader.source import is_hidden

# A missing upload date becomes a day after every log date, so that the age clips to zero.
_NEVER = 2**30

_USER_NUMERICAL = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_USER_RANGES = tuple(f"{name}_range" for name in _USER_NUMERICAL)
_USER_FLAGS = ("is_lowactive_period", "is_live_streamer", "is_video_author")
_ONEHOT = tuple(f"onehot_feat{i}" for i in range(18))
_USER_CATEGORICAL = ("user_active_degree", *_USER_FLAGS, *_USER_RANGES, *_ONEHOT)
_VIDEO_NUMERICAL = ("video_duration", "server_width", "server_height")
_VIDEO_TYPES = ("video_type", "upload_type", "visible_status", "music_type")
_VIDEO_CATEGORICAL = ("author_id", "music_id", *_VIDEO_TYPES)
_TEXT = ("user_active_degree", *_USER_RANGES, "video_type", "upload_type")
_CATEGORICAL = (*_USER_CATEGORICAL, *_VIDEO_CATEGORICAL)
NUMERICAL = (*_USER_NUMERICAL, *_VIDEO_NUMERICAL, "video_age_days")
_RARE_LABELS = ("is_comment", "is_follow", "is_forward", "is_hate")
_LOG_LABELS = ("is_click", "long_view", "is_like", "is_profile_enter", *_RARE_LABELS)
LABELS = (*_LOG_LABELS, "conversion")
_LOG_TIMES = ("play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time")
_LOG_OTHERS = (*_LOG_TIMES, "is_rand")
HOURS = 24
TABS = 15  # the data set's description gives 0..14

_LOG_TYPES = {
    "user_id": pa.int64(),
    "video_id": pa.int64(),
    "date": pa.timestamp("s"),
    "hourmin": pa.int32(),
    "time_ms": pa.int64(),
    "tab": pa.int32(),
    **dict.fromkeys(_LOG_LABELS, pa.int8()),
    # No features: most are known after the impression only. They tell which rows are duplicates.
    **dict.fromkeys(_LOG_OTHERS, pa.float64()),
}
# Exclusive upper bounds.
_LOG_BOUNDS = {"hourmin": HOURS * 100, "tab": TABS, **dict.fromkeys(_LOG_LABELS, 2)}
# Dates as days since 1970.
LOG_SCHEMA = pa.schema([*(_LOG_TYPES | {"date": pa.int32()}).items()])
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("user_id", "video_id", "hour", "tab")),
        *((name, pa.int64()) for name in _CATEGORICAL),
        ("tag", pa.list_(pa.int64())),
        ("history", pa.list_(pa.int32())),
        ("history_weights", pa.list_(pa.float32())),
        *((name, pa.float32()) for name in NUMERICAL),
        *((name, pa.int8()) for name in LABELS),
        ("time_ms", pa.int64()),
    ]
)
FILE_NAME = re.compile(
    r"(?:log_standard_\w+|user_features|video_features_basic)_(pure|1k|27k)(?:_part\d+)?\.csv(\.gz)?"
)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Archive:
    """The files of one archive; ``variant`` is pure, 1k or 27k, ``logs`` are in date order."""

    variant: str
    logs: list[Path]
    users: Path
    videos: Path


@dataclass(frozen=True)
class Features:
    """Row i of ``table`` describes ``ids[i]``; one more row, the last, is for an unknown id.

    ``cardinality`` is the number of ids or codes a column can have.
    """

    ids: Ints
    table: pa.Table
    cardinality: dict[str, int]

    def positions(self, ids: Ints) -> Ints:
        """Returns the row of every id."""
        last = len(self.ids) - 1
        contiguous = self.ids[0] == 0 and self.ids[last] == last
        guess = ids if contiguous else np.searchsorted(self.ids, ids)
        guess = np.clip(guess, 0, last)
        return np.where(self.ids[guess] == ids, guess, last + 1)


def find_files(folder: Path) -> Archive:
    """Finds the files of the one archive that a folder holds, plain or .gz.

    Raises:
        ValueError: Naming the file that is missing, or the archives where there are several.
    """
    variants: dict[str, dict[str, Path]] = {}
    # Sorted, so that where both are there the plain file is taken before its .gz.
    for path in sorted(p for at in ("*", "data/*", "*/data/*") for p in folder.glob(at)):
        match = FILE_NAME.fullmatch(path.name)
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
    return Archive(variant, [files[name] for name in logs], files[users], files[videos])


def load_users(path: Path, block: int) -> Features:
    """Reads user_features_*.csv, ``block`` bytes at a time."""
    return _load_features(path, "user_id", _USER_CATEGORICAL, _USER_NUMERICAL, {}, block)


def load_videos(path: Path, block: int) -> Features:
    """Reads video_features_basic_*.csv, ``block`` bytes at a time."""
    extra = {"tag": pa.string(), "upload_dt": pa.date32()}
    return _load_features(path, "video_id", _VIDEO_CATEGORICAL, _VIDEO_NUMERICAL, extra, block)


def read_log(path: Path, block: int) -> Iterator[pa.Table]:
    """Reads a log_*.csv in pieces of ``block`` bytes, as ``LOG_SCHEMA``.

    Raises:
        ValueError: Naming the file and what is missing or wrong in it.
    """
    for batch in _read_csv(path, _LOG_TYPES, block):
        table = pa.Table.from_batches([batch])
        for name in _LOG_TYPES:
            if table[name].null_count and name not in _LOG_OTHERS:
                raise ValueError(f"{path}: column {name}: expected a value in every row, got none")
        for name, bound in _LOG_BOUNDS.items():
            values = table[name].to_numpy()
            if (wrong := values[(values < 0) | (values >= bound)]).size:
                expected = f"expected 0 to {bound - 1}, got {wrong[0]}"
                raise ValueError(f"{path}: column {name}: {expected}")
        days = table["date"].cast(pa.date32()).cast(pa.int32())
        yield table.set_column(2, LOG_SCHEMA.field("date"), days)


def join_features(
    log: pa.Table, users: Features, videos: Features, history: pa.ListArray
) -> pa.Table:
    """Gives log rows their history and their user's and video's features, as ``SCHEMA``."""
    columns: dict[str, Any] = {name: log[name] for name in ("tab", "time_ms", *_LOG_LABELS)}
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


def _read_csv(path: Path, types: dict[str, pa.DataType], block: int) -> Iterator[pa.RecordBatch]:
    header: list[str] = []
    try:
        with pa.input_stream(str(path)) as stream:
            first_line = stream.read(1 << 16).partition(b"\n")[0]
            header = next(csv.reader([first_line.decode("utf-8-sig").strip()]))
        if missing := [name for name in types if name not in header]:
            raise ValueError(
                f"{path}: expected a column {', '.join(missing)}, got {', '.join(header)}"
            )
        convert = pcsv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            strings_can_be_null=True,
            timestamp_parsers=["%Y%m%d"],
        )
        # Without threads pyarrow can say which row it could not read.
        read = pcsv.ReadOptions(block_size=block, use_threads=False)
        with pcsv.open_csv(str(path), read_options=read, convert_options=convert) as reader:
            yield from reader
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        named = re.sub(r"column #(\d+)", lambda m: f"column {header[int(m[1])]}", str(error))
        raise ValueError(f"{path}: {named}") from error


def _load_features(
    path: Path,
    id_name: str,
    categorical: tuple[str, ...],
    numerical: tuple[str, ...],
    extra: dict[str, pa.DataType],
    block: int,
) -> Features:
    types = {id_name: pa.int64(), **dict.fromkeys(categorical, pa.float64())}
    types |= {name: pa.string() for name in categorical if name in _TEXT}
    types |= {**dict.fromkeys(numerical, pa.float32()), **extra}
    schema = pa.schema([*types.items()])
    table = pa.Table.from_batches(_read_csv(path, types, block), schema)
    ids = _sorted_ids(path, table[id_name])
    # The unknown id's row has no values, so it is encoded as any other missing value is.
    unknown = pa.table([pa.nulls(1, type_) for type_ in types.values()], schema=schema)
    order = np.append(np.argsort(table[id_name].to_numpy()), len(ids))
    table = pa.concat_tables([table, unknown])

    columns: dict[str, Any] = {}
    cardinality = {id_name: len(ids) + 1}
    for name in categorical:
        columns[name], cardinality[name] = _codes(table[name])
    for name in numerical:
        # A negative count or size is no more known than an empty one, and log1p must not see it.
        columns[name] = np.maximum(table[name].fill_null(0).to_numpy(), 0)
    if "tag" in types:
        columns["tag"], cardinality["tag"] = _tags(path, table["tag"])
    if "upload_dt" in types:
        columns["upload_dt"] = table["upload_dt"].cast(pa.int32()).fill_null(_NEVER).to_numpy()
    return Features(ids, pa.table(columns).take(order), cardinality)


def _sorted_ids(path: Path, column: pa.ChunkedArray) -> Ints:
    if len(column) == 0 or column.null_count:
        raise ValueError(f"{path}: expected rows, each with an id, got none or some without")
    ids = np.sort(column.to_numpy())
    if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
        raise ValueError(f"{path}: expected a row for each id, got several of id {repeated[0]}")
    return ids


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], int]:
    """Codes 1.. in the order of the sorted distinct values, 0 for a missing value."""
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
    codes = np.zeros(len(distinct) + 1, np.int32)
    codes[np.argsort(distinct)] = np.arange(1, len(distinct) + 1)
    return codes[encoded.indices.fill_null(len(distinct)).to_numpy()], len(codes)


def _tags(path: Path, column: pa.ChunkedArray) -> tuple[pa.Array, int]:
    """One list of codes 0.. for each comma-joined set of tags, an empty one for none."""
    encoded = column.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    try:
        sets = [[int(tag) for tag in text.split(",")] for text in texts]
    except ValueError as error:
        raise ValueError(
            f"{path}: column tag: expected numbers joined by commas: {error}"
        ) from error
    code = {tag: i for i, tag in enumerate(sorted({tag for tags in sets for tag in tags}))}
    lists = [*([code[tag] for tag in tags] for tags in sets), []]
    rows = pa.array(lists, pa.list_(pa.int32())).take(encoded.indices.fill_null(len(sets)))
    return rows, len(code)
