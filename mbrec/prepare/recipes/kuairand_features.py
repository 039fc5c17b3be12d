"""What KuaiRand says of its users and videos, in memory as codes and float32 values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mbrec.prepare.delimited import Format, read_delimited

# A missing upload date becomes a day after every log date, so that the age clips to zero.
_NEVER = 2**30

USER_NUMERICAL = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_USER_RANGES = tuple(f"{name}_range" for name in USER_NUMERICAL)
_USER_FLAGS = ("is_lowactive_period", "is_live_streamer", "is_video_author")
_ONEHOT = tuple(f"onehot_feat{i}" for i in range(18))
USER_CATEGORICAL = ("user_active_degree", *_USER_FLAGS, *_USER_RANGES, *_ONEHOT)
VIDEO_NUMERICAL = ("video_duration", "server_width", "server_height")
_VIDEO_TYPES = ("video_type", "upload_type", "visible_status", "music_type")
VIDEO_CATEGORICAL = ("author_id", "music_id", *_VIDEO_TYPES)
_TEXT = ("user_active_degree", *_USER_RANGES, "video_type", "upload_type")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Features:
    """Row i of `table` describes `ids[i]`; one more row, the last, is for an unknown id.

    `cardinality` is the number of ids or codes that a column can have.
    """

    ids: Ints
    table: pa.Table
    cardinality: dict[str, int]

    def positions(self, ids: Ints) -> Ints:
        """Return the row of every id."""
        last = len(self.ids) - 1
        contiguous = self.ids[0] == 0 and self.ids[last] == last
        guess = ids if contiguous else np.searchsorted(self.ids, ids)
        guess = np.clip(guess, 0, last)
        return np.where(self.ids[guess] == ids, guess, last + 1)


def load_users(path: Path, block_bytes: int) -> Features:
    """Read user_features_*.csv."""
    return _load(path, "user_id", USER_CATEGORICAL, USER_NUMERICAL, {}, block_bytes)


def load_videos(path: Path, block_bytes: int) -> Features:
    """Read video_features_basic_*.csv."""
    extra = {"tag": pa.string(), "upload_dt": pa.date32()}
    return _load(path, "video_id", VIDEO_CATEGORICAL, VIDEO_NUMERICAL, extra, block_bytes)


def _load(
    path: Path,
    id_name: str,
    categorical: tuple[str, ...],
    numerical: tuple[str, ...],
    extra: dict[str, pa.DataType],
    block_bytes: int,
) -> Features:
    types = {id_name: pa.int64(), **dict.fromkeys(categorical, pa.float64())}
    types |= {name: pa.string() for name in categorical if name in _TEXT}
    types |= {**dict.fromkeys(numerical, pa.float32()), **extra}
    schema = pa.schema([*types.items()])
    optional = [name for name in types if name != id_name]
    pieces = read_delimited(
        path, types, format=Format(quoted=True), optional=optional, block_bytes=block_bytes
    )
    table = pa.concat_tables([schema.empty_table(), *(piece.table for piece in pieces)])
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
    if not len(column):
        raise ValueError(f"{path}: expected rows, got none")
    ids = np.sort(column.to_numpy())
    if (repeated := ids[1:][ids[1:] == ids[:-1]]).size:
        raise ValueError(f"{path}: expected a row for each id, got several of id {repeated[0]}")
    return ids


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], int]:
    """Return codes 1.. in the order of the sorted distinct values, 0 for a missing value."""
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_numpy(zero_copy_only=False)
    codes = np.zeros(len(distinct) + 1, np.int32)
    codes[np.argsort(distinct)] = np.arange(1, len(distinct) + 1)
    return codes[encoded.indices.fill_null(len(distinct)).to_numpy()], len(codes)


def _tags(path: Path, column: pa.ChunkedArray) -> tuple[pa.Array, int]:
    """Return a list of codes 0.. for each comma-joined set of tags, an empty one for none."""
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
