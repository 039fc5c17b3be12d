"""Tests of `prepare kuairand` on generated archives in the KuaiRand format."""

import gzip
import os
import tarfile
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared import compose_data, encoded, manifest_of, unfit_columns

from mbrec.columns.manifest import load_folder
from mbrec.prepare import writer
from mbrec.prepare.command import main
from mbrec.prepare.describe.guess import guess
from mbrec.prepare.describe.labels import find_labels
from mbrec.prepare.describe.profile import read_profile
from mbrec.prepare.recipes.kuairand import NUMERICAL, RECIPE
from mbrec.reader.dataset import resolve

LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
USER_HEADER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,"
    "follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
    "friend_user_num_range,register_days,register_days_range,onehot_feat0,onehot_feat1,"
    "onehot_feat2,onehot_feat3,onehot_feat4,onehot_feat5,onehot_feat6,onehot_feat7,onehot_feat8,"
    "onehot_feat9,onehot_feat10,onehot_feat11,onehot_feat12,onehot_feat13,onehot_feat14,"
    "onehot_feat15,onehot_feat16,onehot_feat17"
)
VIDEO_HEADER = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,"
    "server_width,server_height,music_id,music_type,tag"
)
EARLY, LATE = "log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv"
USERS, VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv"
# No tag, duration, music type or upload date for video 2; unsorted ids; tag 9 sorts before 39.
VIDEO_ROWS = [
    "3,70,NORMAL,2022-04-10,Web,0.0,9233.0,720.0,1280.0,9000000002,9.0,39",
    '0,50,AD,2022-04-09,ShortImport,0.0,87433.0,720.0,960.0,9000000001,4.0,"9,39"',
    "2,70,NORMAL,,Web,0.0,,720.0,1280.0,0,,",
    '1,60,UNKNOWN,2022-04-30,Kmovie,1.0,5000.0,540.0,960.0,9000000003,11.0,"20,9,1"',
]
DAYS = (20220420, 20220428, 20220429, 20220430, 20220501, 20220502)
LABELS = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view")

Files = dict[str, str]
Prepare = Callable[..., dict[str, pa.Table]]


def _user_row(user: int) -> str:
    degree = ("full_active", "UNKNOWN", "low_active")[user % 3]
    onehot = ",".join(str(float((user * k) % 5)) if (user + k) % 7 else "" for k in range(18))
    return (
        f"{user},{degree},0,{-124 if user % 2 else 1},0,{user * 100},500+,{user},"
        f'"[1,10)",{-124 if user == 1 else 3},"[1,5)",{800 + user},730+,{onehot}'
    )


def _log(days: tuple[int, ...], rows: int, seed: int, users: int = 5) -> str:
    """Log rows in the order of the user, not of time."""
    rng = np.random.default_rng(seed)
    lines = [LOG_HEADER]
    for user in np.sort(rng.integers(users, size=rows)).tolist():
        day = days[rng.integers(len(days))]
        hour, video, tab = rng.integers(24), rng.integers(4), rng.integers(15)
        midnight = datetime.strptime(f"{day}+0800", "%Y%m%d%z").timestamp()
        millis = int(midnight) * 1000 + rng.integers(86_400_000)
        marks = ",".join(str(mark) for mark in rng.integers(2, size=7))
        lines.append(
            f"{user},{video},{day},{hour * 100},{millis},{marks},11,22,33,44,"
            f"{rng.integers(2)},0,{tab}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def files() -> Files:
    return {
        EARLY: _log(DAYS[:1], 40, seed=1),
        LATE: _log(DAYS[1:], 300, seed=2),
        USERS: "\n".join([USER_HEADER, *map(_user_row, range(5))]) + "\n",
        VIDEOS: "\n".join([VIDEO_HEADER, *VIDEO_ROWS]) + "\n",
    }


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    def run(source: Files | Path, **options: Any) -> dict[str, pa.Table]:
        if not isinstance(source, Path):
            source = _write(source, tmp_path / "plain")
        limits = {"train_until": date(2022, 4, 29), "validate_until": date(2022, 4, 30)}
        RECIPE.prepare(source, tmp_path / "out", **(limits | options))
        return _read(tmp_path / "out")

    return run


def _write(files: Files, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def _read(out: Path) -> dict[str, pa.Table]:
    """The splits that have rows."""
    return {name: pq.read_table(out / name) for name in manifest_of(out)["splits"]}


def _rows(text: str) -> list[dict[str, str]]:
    header, *lines = text.splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def _as_gz(files: Files, folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for name, text in files.items():
        (folder / "data" / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def _as_parent(files: Files, folder: Path) -> Path:
    (folder / "KuaiRand-Pure").mkdir(parents=True)
    _write(files, folder / "KuaiRand-Pure" / "data")
    return folder


def _as_tar(files: Files, folder: Path) -> Path:
    path = folder.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(_write(files, folder), "KuaiRand-Pure/data")
    return path


@pytest.mark.parametrize("form", [_as_gz, _as_parent, _as_tar])
def test_every_form_of_the_archive_gives_the_same_parquet(
    form: Callable[[Files, Path], Path],
    files: Files,
    prepare: Prepare,
    tmp_path: Path,
) -> None:
    expected = prepare(files)
    assert prepare(form(files, tmp_path / "other"), overwrite=True) == expected
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize("block_bytes", [700, 4096])
def test_the_size_of_the_pieces_read_does_not_change_the_result(
    block_bytes: int, files: Files, prepare: Prepare
) -> None:
    expected = prepare(files)
    assert prepare(files, overwrite=True, block_bytes=block_bytes) == expected


def test_every_row_goes_to_the_split_of_its_date_in_the_order_of_time(
    files: Files, prepare: Prepare
) -> None:
    splits = prepare(files)
    rows = _rows(files[EARLY]) + _rows(files[LATE])
    for name, days in (("train", DAYS[:3]), ("validation", DAYS[3:4]), ("test", DAYS[4:])):
        times = sorted(int(row["time_ms"]) for row in rows if int(row["date"]) in days)
        assert splits[name]["time_ms"].to_pylist() == times
        assert times


def test_the_limits_of_the_splits_can_be_chosen(files: Files, prepare: Prepare) -> None:
    splits = prepare(files, train_until=date(2022, 4, 20), validate_until=date(2022, 5, 1))
    last = sum(row["date"] == "20220502" for row in _rows(files[LATE]))
    assert [len(split) for split in splits.values()] == [40, 300 - last, last]


def test_labels_and_context_are_those_of_the_log_row(files: Files, prepare: Prepare) -> None:
    table = pa.concat_tables(prepare(files).values())
    rows = {int(row["time_ms"]): row for row in _rows(files[EARLY]) + _rows(files[LATE])}
    for got in table.to_pylist():
        row = rows[got["time_ms"]]
        for name in (*LABELS, "is_profile_enter", "tab", "user_id", "video_id"):
            assert got[name] == int(row[name])
        assert got["hour"] == int(row["hourmin"]) // 100


def test_conversion_is_a_click_with_a_long_view(files: Files, prepare: Prepare) -> None:
    table = pa.concat_tables(prepare(files).values())
    click, view = table["is_click"].to_numpy(), table["long_view"].to_numpy()
    assert (table["conversion"].to_numpy() == (click & view)).all()
    assert 0 < table["conversion"].to_numpy().sum() < click.sum()


def test_what_is_known_only_after_the_impression_is_not_written(
    files: Files, prepare: Prepare
) -> None:
    names = set(prepare(files)["train"].column_names)
    assert not names & {"play_time_ms", "profile_stay_time", "comment_stay_time", "duration_ms"}


def test_video_columns_are_those_of_the_video(files: Files, prepare: Prepare) -> None:
    expected = {
        0: {"author_id": 1, "music_id": 2, "video_type": 1, "upload_type": 2, "music_type": 1,
            "visible_status": 1, "tag": [1, 3], "video_duration": 87433, "server_height": 960},
        1: {"author_id": 2, "music_id": 4, "video_type": 3, "upload_type": 1, "music_type": 3,
            "visible_status": 2, "tag": [2, 1, 0], "video_duration": 5000, "server_height": 960},
        2: {"author_id": 3, "music_id": 1, "video_type": 2, "upload_type": 3, "music_type": 0,
            "visible_status": 1, "tag": [], "video_duration": 0, "server_height": 1280},
        3: {"author_id": 3, "music_id": 3, "video_type": 2, "upload_type": 3, "music_type": 2,
            "visible_status": 1, "tag": [3], "video_duration": 9233, "server_height": 1280},
    }  # fmt: skip
    for got in pa.concat_tables(prepare(files).values()).to_pylist():
        wanted = expected[got["video_id"]]
        assert {name: got[name] for name in wanted} == wanted


def test_video_age_counts_days_and_is_zero_before_or_without_an_upload_date(
    files: Files, prepare: Prepare
) -> None:
    seen = {(row["video_id"], row["video_age_days"]) for row in prepare(files)["test"].to_pylist()}
    assert seen == {(0, 22), (0, 23), (1, 1), (1, 2), (2, 0), (3, 21), (3, 22)}
    early = prepare(files, overwrite=True)["train"].to_pylist()
    assert {row["video_age_days"] for row in early if row["video_id"] == 1} == {0}


def test_user_columns_are_those_of_the_user(files: Files, prepare: Prepare) -> None:
    degrees = ["full_active", "UNKNOWN", "low_active"]
    for got in pa.concat_tables(prepare(files).values()).to_pylist():
        user = got["user_id"]
        degree = sorted(degrees).index(degrees[user % 3]) + 1
        assert got["user_active_degree"] == degree
        assert got["follow_user_num"] == user * 100
        assert got["register_days"] == 800 + user
        assert got["friend_user_num"] == (0 if user == 1 else 3)
        assert got["is_live_streamer"] == (1 if user % 2 else 2)
        assert got["onehot_feat0"] == (0 if user % 7 == 0 else 1)


def test_ids_that_are_not_0_to_n_become_positions_among_the_sorted_ids(
    files: Files, prepare: Prepare
) -> None:
    plain = prepare(files)
    for name in (EARLY, LATE, VIDEOS):
        column = 0 if name == VIDEOS else 1
        header, *lines = files[name].splitlines()
        cells = [line.split(",") for line in lines]
        for row in cells:
            row[column] = str(int(row[column]) * 1000 + 7)
        files[name] = "\n".join([header, *map(",".join, cells)]) + "\n"
    assert prepare(files, overwrite=True) == plain


def test_an_unknown_user_or_video_gets_the_reserved_id_and_empty_features(
    files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    line = files[LATE].splitlines()[1].split(",")
    line[:3] = ["77", "88", "20220502"]
    files[LATE] += ",".join(line) + "\n"
    test = prepare(files)["test"].to_pylist()
    (row,) = [row for row in test if row["user_id"] == 5]
    assert row["video_id"] == 4
    assert row["tag"] == []
    for name in ("author_id", "user_active_degree", "onehot_feat3", "register_days", "music_id"):
        assert row[name] == 0
    assert row["video_duration"] == row["video_age_days"] == row["fans_user_num"] == 0
    manifest = manifest_of(tmp_path / "out")
    notes = manifest["notes"]["splits"]
    assert notes["test"]["rows_of_unknown_users"] == 1
    assert notes["test"]["rows_of_unknown_videos"] == 1
    assert notes["train"]["rows_of_unknown_users"] == 0
    assert manifest["columns"]["user_id"]["cardinality"] == 6
    assert manifest["columns"]["video_id"]["cardinality"] == 5


def test_codes_stay_below_the_cardinality_and_no_value_is_missing(
    files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    table = pa.concat_tables(prepare(files).values())
    columns = manifest_of(tmp_path / "out")["columns"]
    labels = {"is_profile_enter", "conversion", *LABELS}
    others = {*NUMERICAL, "history_weights"}
    assert {name for name in table.column_names if "cardinality" not in columns[name]} == others
    for name in set(table.column_names) - labels - others - {"time_ms"}:
        column = table[name].combine_chunks()
        values = (column.flatten() if name in ("tag", "history") else column).to_numpy()
        assert values.min() >= 0
        assert values.max() < columns[name]["cardinality"]
    for name in NUMERICAL:
        assert np.isfinite(table[name].to_numpy()).all()
    assert sum(table[name].null_count for name in table.column_names) == 0


def test_cardinalities_are_those_of_the_feature_files_not_of_the_rows(
    files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    lines = files[LATE].splitlines(keepends=True)
    prepare(files | {EARLY: _log(DAYS[:1], 3, seed=1, users=1), LATE: lines[0]})
    columns = manifest_of(tmp_path / "out")["columns"]
    expected = {"user_id": 6, "video_id": 5, "history": 5, "hour": 24, "tab": 15, "tag": 4}
    assert {name: columns[name]["cardinality"] for name in expected} == expected


def test_the_manifest_describes_the_written_splits_and_their_files(
    files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    splits = prepare(files)
    manifest = manifest_of(tmp_path / "out")
    for name, table in splits.items():
        assert manifest["splits"][name]["rows"] == len(table)
        for label, rate in manifest["splits"][name]["label_rates"].items():
            assert rate == pytest.approx(table[label].to_numpy().mean())
    assert set(manifest["splits"]["train"]["label_rates"]) == {*LABELS, "is_profile_enter"} | {
        "conversion"
    }
    values = np.log1p(splits["train"]["fans_user_num"].to_numpy().astype(np.float64))
    told = manifest["columns"]["fans_user_num"]
    assert told["log1p_mean"] == pytest.approx(values.mean())
    assert told["log1p_std"] == pytest.approx(values.std())
    notes = manifest["notes"]
    assert notes["archive"] == "pure"
    assert notes["logs"] == [EARLY, LATE]
    assert notes["splits"]["train"]["first_day"] == "2022-04-20"
    assert notes["splits"]["test"]["last_day"] == "2022-05-02"
    assert (notes["history_event"], notes["history_length"]) == ("shown", 50)
    assert {path.split("/")[0] for path in manifest["files"]} == set(splits)


def test_only_rows_that_are_equal_in_every_column_of_the_log_are_duplicates(
    files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    plain = prepare(files)
    header, *lines = files[LATE].splitlines(keepends=True)
    cells = dict(zip(LOG_HEADER.split(","), lines[5].strip().split(","), strict=True))
    other = ",".join((cells | {"play_time_ms": "12"}).values()) + "\n"
    again = header + "".join([*lines, lines[5], lines[7], lines[5]])
    assert prepare(files | {LATE: again}, overwrite=True) == plain
    assert manifest_of(tmp_path / "out")["notes"]["duplicate_log_rows"] == 3
    with_other = prepare(files | {LATE: again + other}, overwrite=True)
    assert sum(map(len, with_other.values())) == sum(map(len, plain.values())) + 1


@pytest.mark.parametrize(
    "name", ["kuairand_pure", "kuairand_history", "kuairand_1k", "kuairand_27k"]
)
def test_the_configuration_fits_what_is_written_and_needs_nothing_but_the_manifest(
    name: str, files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    splits = prepare(files)
    job = compose_data(name, tmp_path / "out")
    assert unfit_columns(job.data.columns, splits["train"]) == []
    columns = resolve(job.data.columns, load_folder(tmp_path / "out"))
    assert columns.categorical["user_id"].num_embeddings == 6
    assert columns.numerical["fans_user_num"].std != 1
    assert len(encoded(job, tmp_path / "out", "test")) > 1


def _clicks(rows: list[dict[str, str]], user: int, before: int, until: int) -> list[int]:
    """Videos that a user clicked before a time, on days up to one, newest first."""
    past = [
        (int(row["time_ms"]), int(row["video_id"]))
        for row in rows
        if int(row["user_id"]) == user
        and row["is_click"] == "1"
        and int(row["time_ms"]) < before
        and int(row["date"]) <= until
    ]
    return [video for _, video in sorted(past, reverse=True)]


def test_histories_end_with_training_for_the_rows_that_a_model_is_evaluated_on(
    files: Files, prepare: Prepare
) -> None:
    rows = _rows(files[EARLY]) + _rows(files[LATE])
    splits = prepare(files, history_length=7, history_event="is_click")
    known = {"train": 20220429, "validation": 20220429, "test": 20220430}
    for name, until in known.items():
        for got in splits[name].to_pylist():
            past = _clicks(rows, got["user_id"], got["time_ms"], until)
            assert got["history"] == past[:7]
            number = len(got["history"])
            assert got["history_weights"] == pytest.approx([max(number, 1) ** -0.5] * number)
    assert max(map(len, splits["train"]["history"].to_pylist())) == 7


def test_histories_can_be_of_long_views_or_of_all_impressions(
    files: Files, prepare: Prepare
) -> None:
    lengths = {
        event: sum(map(len, prepare(files, history_event=event, overwrite=True)["test"]["history"]))
        for event in ("long_view", "is_click", "shown")
    }
    assert lengths["shown"] > max(lengths["long_view"], lengths["is_click"])
    with pytest.raises(ValueError, match="expected a history of shown, is_click, long_view, got x"):
        prepare(files, history_event="x", overwrite=True)


def test_users_without_features_do_not_share_a_history(files: Files, prepare: Prepare) -> None:
    line = files[LATE].splitlines()[1].split(",")
    for user, day, clicked in ((77, "20220428", "1"), (88, "20220429", "0"), (77, "20220501", "0")):
        line[0], line[2], line[5] = str(user), day, clicked
        line[4] = str(int(line[4]) + 1)
        files[LATE] += ",".join(line) + "\n"
    splits = prepare(files)
    (of_88,) = [
        r for r in splits["train"].to_pylist()[-200:] if r["user_id"] == 5 and not r["is_click"]
    ]
    (of_77,) = [r for r in splits["test"].to_pylist() if r["user_id"] == 5]
    assert of_88["history"] == []
    assert of_77["history"] == [int(line[1])]


def test_logs_in_parts_are_all_used(files: Files, prepare: Prepare, tmp_path: Path) -> None:
    plain = prepare(files)
    header, *lines = files[LATE].splitlines(keepends=True)
    parts = {
        "log_standard_4_22_to_5_08_27k_part2.csv": header + "".join(lines[100:]),
        "log_standard_4_22_to_5_08_27k_part1.csv": header + "".join(lines[:100]),
        "log_standard_4_08_to_4_21_27k_part1.csv": files[EARLY],
        "log_random_4_22_to_5_08_27k.csv": "not read",
        "user_features_27k.csv": files[USERS],
        "video_features_basic_27k.csv": files[VIDEOS],
        "video_features_statistic_27k_part1.csv": "not read",
    }
    assert prepare(_write(parts, tmp_path / "parts"), overwrite=True) == plain


def test_files_have_full_row_groups_a_limited_size_and_checksums(
    files: Files, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FILE_ROW_GROUPS", 2)
    files[EARLY] = _log(DAYS[:1], 20_000, seed=3)
    prepare({**files, LATE: _log(DAYS[1:2], 9_000, seed=4)})
    paths = sorted((tmp_path / "out" / "train").iterdir())
    metadata = [pq.read_metadata(path) for path in paths]
    sizes = [[m.row_group(i).num_rows for i in range(m.num_row_groups)] for m in metadata]
    assert sizes == [[8192, 8192], [8192, 29_000 - 3 * 8192]]

    damaged = bytearray(paths[0].read_bytes())
    column = metadata[0].row_group(0).column(metadata[0].num_columns - 1)
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    paths[0].write_bytes(damaged)
    with pytest.raises(OSError, match=r"checksum|CRC"):
        pq.read_table(paths[0], page_checksum_verification=True)


def test_the_command_reports_the_splits_and_where_they_are(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "out"
    assert main(["kuairand", str(_write(files, tmp_path / "in")), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "validation: 2022-04-30 to 2022-04-30; 0 rows of unknown users" in printed
    assert all(text in printed for text in ("is_profile_enter", f"written to {out}"))


def test_the_command_says_what_is_wrong_without_a_traceback(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del files[USERS]
    source = str(_write(files, tmp_path / "in"))
    assert main(["kuairand", source, str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"prepare kuairand: {USERS} is missing; looked in {tmp_path}")
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("name", [USERS, VIDEOS, "log_standard_"])
def test_a_missing_file_is_named(name: str, files: Files, prepare: Prepare, tmp_path: Path) -> None:
    kept = {file: text for file, text in files.items() if not file.startswith(name)}
    with pytest.raises(ValueError, match=rf"^{name}.* is missing; looked in .*plain"):
        prepare(kept)
    assert os.listdir(tmp_path) == ["plain"]


@pytest.mark.parametrize(
    ("file", "column"), [(LATE, "tab"), (USERS, "onehot_feat9"), (VIDEOS, "tag")]
)
def test_a_missing_column_and_its_file_are_named(
    file: str, column: str, files: Files, prepare: Prepare
) -> None:
    header, rest = files[file].split("\n", 1)
    files[file] = "\n".join([header.replace(column, "renamed"), rest])
    expected = rf"{file}: expected the columns {column}, got a file with (user|video)_id,"
    with pytest.raises(ValueError, match=expected):
        prepare(files)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("date", "20221399", "row 302, column date: expected timestamp.*20221399"),
        ("is_click", "yes", "row 302, column is_click: expected int8, got .yes"),
        ("is_like", "2", "row 302, column is_like: expected 0 to 1, got 2"),
        ("hourmin", "2400", "row 302, column hourmin: expected 0 to 2399, got 2400"),
        ("tab", "15", "row 302, column tab: expected 0 to 14, got 15"),
        ("user_id", "", "row 302, column user_id: expected a value, got none"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_its_file(
    column: str, value: str, message: str, files: Files, prepare: Prepare
) -> None:
    cells = dict(zip(LOG_HEADER.split(","), files[LATE].splitlines()[-1].split(","), strict=True))
    files[LATE] += ",".join((cells | {column: value}).values()) + "\n"
    with pytest.raises(ValueError, match=rf"{LATE}: .*{message}"):
        prepare(files)


def test_a_feature_row_given_twice_is_an_error(files: Files, prepare: Prepare) -> None:
    files[VIDEOS] += VIDEO_ROWS[0] + "\n"
    with pytest.raises(
        ValueError, match=rf"{VIDEOS}: expected a row for each id, got several of id 3"
    ):
        prepare(files)


def test_files_of_two_archives_are_not_mixed(files: Files, prepare: Prepare) -> None:
    with pytest.raises(ValueError, match="files of one archive, got those of 1k, pure"):
        prepare(files | {"user_features_1k.csv": files[USERS]})


def test_truncated_archives_are_named(files: Files, prepare: Prepare, tmp_path: Path) -> None:
    path = _as_tar(files, tmp_path / "archive")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"archive\.tar\.gz: not a readable tar"):
        prepare(path)
    folder = _as_gz(files, tmp_path / "gz")
    log = folder / "data" / f"{LATE}.gz"
    log.write_bytes(log.read_bytes()[:2000])
    with pytest.raises(OSError, match=rf"{LATE}\.gz: .*[Tt]runcated"):
        prepare(folder)


def test_limits_that_leave_train_empty_or_cross_are_errors(files: Files, prepare: Prepare) -> None:
    with pytest.raises(ValueError, match="log rows of 2022-04-19 or earlier to train on, got none"):
        prepare(files, train_until=date(2022, 4, 19))
    with pytest.raises(ValueError, match="expected train to end by 2022-04-30, got 2022-05-03"):
        prepare(files, train_until=date(2022, 5, 3))


def test_an_existing_output_is_replaced_only_on_request_and_only_if_written_here(
    files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    mine = tmp_path / "out" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ValueError, match=r"out exists already.*--overwrite"):
        prepare(files)
    with pytest.raises(ValueError, match="so it is not overwritten"):
        prepare(files, overwrite=True)
    assert mine.read_text() == "mine"


def test_a_failure_leaves_the_earlier_output_as_it_was(
    files: Files, prepare: Prepare, tmp_path: Path
) -> None:
    before = prepare(files)
    with pytest.raises(ValueError):
        prepare(files | {LATE: files[LATE] + "broken\n"}, overwrite=True)
    assert _read(tmp_path / "out") == before
    assert sorted(os.listdir(tmp_path)) == ["out", "plain"]


@pytest.mark.skipif(
    "MBREC_KUAIRAND_RAW" not in os.environ,
    reason="MBREC_KUAIRAND_RAW does not name a folder with the KuaiRand-Pure files",
)
def test_real_kuairand_pure_has_the_known_rows_and_rates_and_no_leak(
    prepare: Prepare, tmp_path: Path
) -> None:
    splits = prepare(Path(os.environ["MBREC_KUAIRAND_RAW"]))
    manifest = manifest_of(tmp_path / "out")
    notes = manifest["notes"]["splits"]
    days = notes["train"]["first_day"], notes["test"]["last_day"]
    if days != ("2022-04-25", "2022-05-04"):
        pytest.skip(f"the counts are known for the log of 04-25 to 05-04, not {days}")
    assert len(splits["train"]) + len(splits["validation"]) == 92_034
    assert len(splits["test"]) == 75_247
    rates = {
        "is_click": 0.4511,
        "conversion": 0.3171,
        "is_like": 0.0177,
        "is_profile_enter": 0.0191,
    }
    table = pa.concat_tables(splits.values())
    for label, rate in rates.items():
        assert table[label].to_numpy().mean() == pytest.approx(rate, abs=5e-5)
    ids = [manifest["columns"][name]["cardinality"] for name in ("user_id", "video_id", "history")]
    assert ids == [27_286, 7_584, 7_584]
    profile = read_profile(str(tmp_path / "out"))
    labels, kept_out = find_labels(profile)
    guesses = guess(profile, labels, kept_out)
    suspected = [name for name, one in guesses.items() if one.instead or one.is_suspect]
    assert (len(labels), suspected) == (9, [])
