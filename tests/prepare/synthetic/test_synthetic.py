"""Properties of the synthetic impression log and of its oracle."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import omegaconf
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from mbrec.config import synthetic
from mbrec.config.synthetic import BASE_RATES, LABELS, ORACLE_PREFIX, Conflict, Synthetic
from mbrec.prepare.synthetic import files as world_files
from mbrec.prepare.synthetic.files import write
from mbrec.prepare.synthetic.optimum import auc_optimum, normalized_entropy_optimum
from mbrec.prepare.synthetic.shard import Shard
from mbrec.prepare.synthetic.world import World

SMALL_ROWS = 200_000
CALIBRATION_ROWS = 100_000
FEATURES = ["day", "user", "item", "tags", *(f"x{column}" for column in range(8))]
ORACLES = [*LABELS, "click_conversion", "conversion_label"]


def tiny(**changes: Any) -> Synthetic:
    return replace(Synthetic(rows=8_192, num_users=500, num_items=200, num_tags=50), **changes)


@pytest.fixture(scope="module", params=list(Conflict), ids=lambda conflict: conflict.name)
def small(request: pytest.FixtureRequest) -> tuple[Conflict, Shard]:
    """200,000 rows of the default world, for each correlation of the tasks."""
    return request.param, World(Synthetic(conflict=request.param)).shard(0, SMALL_ROWS)


@pytest.fixture(scope="module")
def tiny_world() -> World:
    return World(tiny())


def scored_tasks(shard: Shard) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Probabilities and labels of every task on the rows where it is observed."""
    clicked = shard.labels[:, 0] == 1
    p, y = shard.probabilities, shard.labels
    tasks = {label: (p[:, task], y[:, task]) for task, label in enumerate(LABELS)}
    tasks["conversion"] = (p[clicked, 1], y[clicked, 1])
    tasks["counterfactual_conversion"] = (p[:, 1], shard.conversion_label)
    tasks["click_conversion"] = (p[:, 0] * p[:, 1], y[:, 1])
    return tasks


def log_loss(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -np.where(y == 1, np.log(p), np.log1p(-p))


def read_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# The world


def test_rates_match_the_base_rates(small: tuple[Conflict, Shard]) -> None:
    _, shard = small
    for task, rate in enumerate(BASE_RATES):
        p, y = scored_tasks(shard)[LABELS[task]]
        # The intercepts' own error counts too: they are fitted on a finite sample.
        fitted_on = CALIBRATION_ROWS * (0.1 if LABELS[task] == "conversion" else 1)
        error = math.sqrt(rate * (1 - rate) / len(y) + p.var() / fitted_on)
        assert abs(y.mean() - rate) < 4 * error, LABELS[task]


def test_planted_optimum_is_the_designed_one(small: tuple[Conflict, Shard]) -> None:
    conflict, shard = small
    click, given_click, like, share, comment = shard.probabilities.T
    # Least NE and highest AUC, from a prototype with a random stream of its own.
    designed: list[tuple[tuple[np.ndarray, ...], float, float]] = [
        ((click,), 0.8384, 0.7861),
        ((like,), 0.818, 0.826),
        ((share,), 0.884, 0.806),
        ((comment,), 0.880, 0.800),
    ]
    if conflict is Conflict.aligned:
        designed += [((given_click, click), 0.8563, 0.786), ((click * given_click,), 0.8009, 0.879)]
    if conflict is Conflict.conflict:
        designed += [((given_click, click), 0.8620, 0.781), ((click * given_click,), 0.9306, 0.748)]
    for p_and_weight, entropy, auc in designed:
        measured = normalized_entropy_optimum(*p_and_weight), auc_optimum(*p_and_weight)
        assert measured == (pytest.approx(entropy, abs=0.013), pytest.approx(auc, abs=0.013))


def test_gradient_cosine_on_dense_features_is_the_planted_correlation(
    small: tuple[Conflict, Shard],
) -> None:
    conflict, shard = small
    labels = np.stack([shard.labels[:, 0], shard.conversion_label, shard.labels[:, 2]], axis=1)
    directions = (labels - labels.mean(axis=0)).T @ shard.dense.astype(np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    conversion, like = {"aligned": (0.3, 0.3), "independent": (0, 0), "conflict": (-0.6, -0.3)}[
        conflict.name
    ]
    assert cosines[0, 1] == pytest.approx(conversion, abs=0.05)
    assert cosines[0, 2] == pytest.approx(like, abs=0.05)
    assert cosines[1, 2] == pytest.approx(0 if conflict is Conflict.independent else 0.3, abs=0.05)


def test_logits_have_the_planted_correlations_and_variances(small: tuple[Conflict, Shard]) -> None:
    conflict, shard = small
    logits = np.log(shard.probabilities / (1 - shard.probabilities))
    np.testing.assert_allclose(np.corrcoef(logits.T), conflict.correlation, atol=0.06)
    np.testing.assert_allclose(logits.std(axis=0), synthetic.SIGMAS, rtol=0.03)


def test_planted_correlations_are_positive_definite() -> None:
    for conflict in Conflict:
        assert np.linalg.eigvalsh(conflict.correlation).min() > 0.1, conflict


@pytest.mark.parametrize("shares", [[0.35, 0.15, 0.15, 0.10, 0.25], [0.45, 0.2, 0.2, 0.15, 0.0]])
def test_dense_features_explain_their_share_of_the_variance(shares: list[float]) -> None:
    shard = World(tiny(shares=shares)).shard(0, 50_000)
    logits = np.log(shard.probabilities / (1 - shard.probabilities))
    features = np.column_stack([np.ones(len(logits)), shard.dense])
    residual = logits - features @ np.linalg.lstsq(features, logits, rcond=None)[0]
    explained = 1 - residual.var(axis=0) / logits.var(axis=0)
    np.testing.assert_allclose(explained, shares[0], atol=0.06)


@pytest.mark.parametrize("interaction", [0.0, 0.25])
def test_logits_add_up_over_users_and_items_only_without_interaction(interaction: float) -> None:
    shares = [0.35, 0.15, 0.15, 0.35 - interaction, interaction]
    shard = World(tiny(num_users=100, num_items=50, shares=shares)).shard(0, 3_000)
    logit = np.log(shard.probabilities[:, 0] / (1 - shard.probabilities[:, 0]))
    design = np.hstack([shard.dense, np.eye(100)[shard.users], np.eye(50)[shard.items]])
    # Normal equations: the design is sparse and wide, and its columns are not independent.
    inverse = np.linalg.pinv(design.T @ design, rcond=1e-9, hermitian=True)
    residual = logit - design @ (inverse @ (design.T @ logit))
    assert residual.var() / logit.var() == pytest.approx(
        interaction, abs=0.1 if interaction else 1e-9
    )


def test_few_ids_take_most_of_the_rows(small: tuple[Conflict, Shard]) -> None:
    _, shard = small
    for ids, size, share, median in [
        (shard.users, 5_000, 0.25, 13),
        (shard.items, 2_000, 0.34, 28),
    ]:
        counts = np.sort(np.bincount(ids, minlength=size))
        assert len(counts) == size
        assert counts[-size // 100 :].sum() / len(ids) == pytest.approx(share, abs=0.02)
        assert np.median(counts) == pytest.approx(median, abs=2)


def test_tags_are_multi_hot_and_belong_to_the_item(small: tuple[Conflict, Shard]) -> None:
    _, shard = small
    offsets, values = shard.tags.offsets.to_numpy(), shard.tags.values.to_numpy()
    assert set(np.diff(offsets)) == {1, 2, 3, 4, 5}
    assert offsets[0] == 0
    assert offsets[-1] == len(values)
    assert values.min() >= 0
    assert values.max() < 300
    rows = np.split(values[: offsets[5_000]], offsets[1:5_000])
    tags_of: dict[int, list[int]] = {}
    for item, tags in zip(shard.items[:5_000], rows, strict=True):
        assert tags_of.setdefault(item, tags.tolist()) == tags.tolist()
    assert any(len(set(tags)) < len(tags) for tags in tags_of.values())


# The oracle


def test_funnel_probability_is_the_exact_product(small: tuple[Conflict, Shard]) -> None:
    _, shard = small
    table = shard.table()
    click, conversion, funnel = (
        table[ORACLE_PREFIX + name].to_numpy()
        for name in ("click", "conversion", "click_conversion")
    )
    assert np.array_equal(funnel, click * conversion)
    assert np.array_equal(shard.labels[:, 1], shard.labels[:, 0] * shard.conversion_label)
    assert shard.conversion_label.sum() > 5 * shard.labels[:, 1].sum()


def test_oracle_is_calibrated(small: tuple[Conflict, Shard]) -> None:
    for task, (p, y) in scored_tasks(small[1]).items():
        assert abs(p.sum() / y.sum() - 1) < 3 / math.sqrt(p.sum()), task


def test_realised_loss_of_the_oracle_agrees_with_the_optimum(small: tuple[Conflict, Shard]) -> None:
    for task, (p, y) in scored_tasks(small[1]).items():
        entropy = -p * np.log(p) - (1 - p) * np.log1p(-p)
        difference = log_loss(p, y) - entropy
        error = difference.std() / math.sqrt(len(y))
        assert abs(difference.mean()) < 4 * error, task


def test_another_rows_or_task_oracle_is_worse(small: tuple[Conflict, Shard]) -> None:
    _, shard = small
    p, y = scored_tasks(shard)["click"]
    best = log_loss(p, y)
    for wrong in (np.roll(p, 1), shard.probabilities[:, 2], p**0.5, p**1.2):
        gap = log_loss(wrong, y) - best
        assert gap.mean() > 4 * gap.std() / math.sqrt(len(y))
    assert log_loss(np.roll(p, 1), y).mean() > log_loss(np.full_like(p, y.mean()), y).mean()


def test_oracle_is_the_best_ranking_in_expectation(small: tuple[Conflict, Shard]) -> None:
    p, y = (values[:20_000] for values in scored_tasks(small[1])["click"])
    ranks = np.empty(len(p))
    ranks[np.argsort(p)] = np.arange(len(p))
    positives = y.sum()
    above = ranks[y == 1].sum() - positives * (positives - 1) / 2
    assert above / positives / (len(p) - positives) == pytest.approx(auc_optimum(p), abs=0.03)


probabilities = st.lists(st.sampled_from([0.0, 1e-9, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=2)


@given(probabilities.filter(lambda p: 0 < sum(p) < len(p)))
def test_normalized_entropy_lies_between_certainty_and_ignorance(p: list[float]) -> None:
    measured = normalized_entropy_optimum(np.array(p))
    assert -1e-12 <= measured <= 1 + 1e-9
    assert normalized_entropy_optimum(np.array(p), np.full(len(p), 3.0)) == pytest.approx(measured)


def test_normalized_entropy_ignores_rows_without_weight() -> None:
    kept = np.array([0.1, 0.4])
    weighted = normalized_entropy_optimum(np.array([0.1, 0.4, 0.9]), np.array([1.0, 1.0, 0.0]))
    assert weighted == pytest.approx(normalized_entropy_optimum(kept))
    assert normalized_entropy_optimum(np.full(4, 0.3)) == pytest.approx(1)


@given(probabilities, st.data())
def test_auc_counts_ordered_pairs_and_half_the_ties(p: list[float], data: st.DataObject) -> None:
    weight = data.draw(st.lists(st.integers(1, 3), min_size=len(p), max_size=len(p)))
    won = total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j:
                pair = weight[i] * weight[j] * p[i] * (1 - p[j])
                total += pair
                won += pair * (0.5 if p[i] == p[j] else p[i] > p[j])
    if total > 1e-6:
        assert auc_optimum(np.array(p), np.array(weight)) == pytest.approx(won / total, rel=1e-6)


# Determinism


def test_any_shard_is_reproducible_alone(tiny_world: World) -> None:
    in_order = [tiny_world.shard(index, 500).table() for index in range(4)]
    other = World(tiny())
    for index in (3, 0, 2, 1):
        assert other.shard(index, 500).table().equals(in_order[index])
    assert not in_order[0].equals(in_order[1])


def test_short_shard_is_the_beginning_of_a_long_one(tiny_world: World) -> None:
    short, long = tiny_world.shard(5, 100), tiny_world.shard(5, 1_000)
    for name in ("users", "items", "dense", "labels", "conversion_label"):
        assert np.array_equal(getattr(short, name), getattr(long, name)[:100]), name
    assert short.tags.equals(long.tags[:100])
    np.testing.assert_allclose(short.probabilities, long.probabilities[:100], rtol=1e-12)


def test_seed_changes_the_rows(tiny_world: World) -> None:
    other = World(tiny(seed=18)).shard(0, 100)
    assert not np.array_equal(other.users, tiny_world.shard(0, 100).users)


def test_rows_stay_what_they_were(tiny_world: World) -> None:
    # Mathematical libraries may differ in the last bit, which may turn a label here and there.
    shard = tiny_world.shard(0, 8_192)
    np.testing.assert_allclose(shard.labels.sum(axis=0), [836, 45, 260, 30, 59], atol=4)
    assert shard.conversion_label.sum() == pytest.approx(285, abs=4)
    assert len(shard.tags.values) == pytest.approx(13_379, abs=20)
    users, items = np.bincount(shard.users), np.bincount(shard.items)
    assert (users.argmax(), items.argmax()) == (258, 113)
    assert (users.max(), items.max()) == pytest.approx((135, 618), abs=4)


# Files


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(tiny(rows_per_shard=1_000), tmp_path / name)
    first, second = read_bytes(tmp_path / "first"), read_bytes(tmp_path / "second")
    digests = [{k: hashlib.sha256(v).hexdigest() for k, v in d.items()} for d in (first, second)]
    assert digests[0] == digests[1]
    assert len(first) == 4


def test_files_hold_the_shards_in_order_and_the_last_rows_are_held_out(tmp_path: Path) -> None:
    settings = tiny(rows=2_003, rows_per_shard=100, evaluation_fraction=0.25)
    write(settings, tmp_path / "log")
    world = World(settings)
    train_rows = [100] * 15 + [2]
    evaluation_rows = [100] * 5 + [1]
    for part, rows, first in (("train", train_rows, 0), ("evaluation", evaluation_rows, 16)):
        expected = [world.shard(first + k, count).table() for k, count in enumerate(rows)]
        files = [parquet.ParquetFile(path) for path in sorted((tmp_path / "log" / part).iterdir())]
        groups = [file.read_row_group(g) for file in files for g in range(file.num_row_groups)]
        assert [group.num_rows for group in groups] == rows
        assert pa.concat_tables(groups).equals(pa.concat_tables(expected))
    assert len(list((tmp_path / "log" / "train").iterdir())) == 2
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("rows", [2, 3, 7, 99, 101])
def test_row_counts_are_exact_however_few(tmp_path: Path, rows: int) -> None:
    settings = tiny(rows=rows, rows_per_shard=50, evaluation_fraction=0.3)
    write(settings, tmp_path / "log")
    train, evaluation = (
        parquet.read_table(tmp_path / "log" / part).num_rows for part in ("train", "evaluation")
    )
    assert train + evaluation == rows
    assert evaluation == settings.evaluation_rows == round(rows * 0.3)


def test_columns_are_features_labels_and_prefixed_oracles(tmp_path: Path) -> None:
    write(tiny(rows=100), tmp_path / "log")
    schema = parquet.read_schema(tmp_path / "log" / "train" / "part-00000.parquet")
    assert schema.names == FEATURES + list(LABELS) + [ORACLE_PREFIX + name for name in ORACLES]
    expected = (
        [pa.int32()]
        + [pa.int64()] * 2
        + [pa.list_(pa.int64())]
        + [pa.float32()] * 8
        + [pa.int8()] * 5
    )
    assert [f.type for f in schema] == expected + [pa.float64()] * 6 + [pa.int8()]


def test_flipped_byte_is_noticed(tmp_path: Path) -> None:
    write(tiny(rows=1_000), tmp_path / "log")
    path = tmp_path / "log" / "train" / "part-00000.parquet"
    column = parquet.ParquetFile(path).metadata.row_group(0).column(FEATURES.index("x3"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        parquet.ParquetFile(path, page_checksum_verification=True).read()


def test_world_file_names_the_settings(tmp_path: Path) -> None:
    settings = tiny(rows=100, conflict=Conflict.conflict)
    write(settings, tmp_path / "log")
    world = json.loads((tmp_path / "log" / "world.json").read_text())
    assert world["fingerprint"] == settings.fingerprint
    assert world["settings"]["conflict"] == "conflict"
    assert list(world["intercepts"]) == list(LABELS)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError, MemoryError])
def test_interrupted_write_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    draw = World.shard

    def fail_at_third(world: World, index: int, rows: int) -> Shard:
        if index == 2:
            raise interruption
        return draw(world, index, rows)

    settings = tiny(rows=500, rows_per_shard=100)
    monkeypatch.setattr(World, "shard", fail_at_third)
    with pytest.raises(interruption):
        write(settings, tmp_path / "parent" / "log")
    assert not list((tmp_path / "parent").iterdir())
    monkeypatch.undo()
    write(settings, tmp_path / "parent" / "log")
    assert parquet.read_table(tmp_path / "parent" / "log" / "train").num_rows == 400


def test_leftovers_of_a_killed_write_are_not_taken_for_a_data_set(tmp_path: Path) -> None:
    leftover = tmp_path / ".log.0123abcd.partial" / "train"
    leftover.mkdir(parents=True)
    (tmp_path / "log").mkdir()
    write(tiny(rows=100), tmp_path / "log")
    assert parquet.read_table(tmp_path / "log" / "train").num_rows == 80


def test_finished_folder_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tiny(rows=100), tmp_path / "log")
    before = read_bytes(tmp_path / "log")
    monkeypatch.setattr(world_files, "World", None)
    write(tiny(rows=100), tmp_path / "log")
    with pytest.raises(FileExistsError, match=r"expected .* got "):
        write(tiny(rows=101), tmp_path / "log")
    assert read_bytes(tmp_path / "log") == before


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="other files"):
        write(tiny(rows=100), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_writer_that_finishes_second_yields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder = tiny(rows=100), tmp_path / "log"
    rename, races = Path.rename, []

    def lose_the_race(path: Path, target: Path) -> Path:
        monkeypatch.undo()
        write(settings, folder)
        races.append(read_bytes(folder))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", lose_the_race)
    write(settings, folder)
    assert races == [read_bytes(folder)]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_progress_is_shown_only_if_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tiny(rows=100), tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    write(tiny(rows=100), tmp_path / "loud", progress=True)
    assert "100/100" in capsys.readouterr().err


# Settings


@pytest.mark.parametrize(
    "nonsense",
    [
        {"rows": 0},
        {"rows": 1},
        {"rows": 2, "evaluation_fraction": 0.01},
        {"num_users": 0},
        {"num_items": 4},
        {"num_tags": -1},
        {"seed": -1},
        {"rows_per_shard": 0},
        {"evaluation_fraction": 0.0},
        {"evaluation_fraction": 1.0},
        {"evaluation_fraction": math.nan},
        {"shares": []},
        {"shares": [1.0]},
        {"shares": [0.35, 0.15, 0.15, 0.10, 0.2]},
        {"shares": [0.5, 0.5, 0.5, -0.5, 0.0]},
        {"shares": [math.nan, 0.5, 0.5, 0.0, 0.0]},
        {"days": 0},
        {"drift": -0.1},
        {"drift": math.inf},
        {"scale": [1.0, 1.0, 1.0, 1.0]},
        {"scale": [1.0, 1.0, 0.0, 1.0, 1.0]},
        {"scale": [1.0, 1.0, 4.1, 1.0, 1.0]},
        {"scale": [1.0, 1.0, math.nan, 1.0, 1.0]},
        {"history_length": -1},
        {"delay": -1.0},
        {"delay": math.nan},
        {"delay": 1.0, "horizon": -1.0},
        {"horizon": 1.0},
        {"shares": [0.5, 0.5, 0.0, 0.0, math.nan]},
    ],
)
def test_nonsense_settings_are_refused(nonsense: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, got "):
        Synthetic(**nonsense)  # pyright: ignore[reportArgumentType]


def test_fewest_entities_give_a_world() -> None:
    for seed in range(3):
        shard = World(Synthetic(num_users=20, num_items=20, num_tags=20, seed=seed)).shard(0, 100)
        assert np.isfinite(shard.probabilities).all()


def test_fingerprint_tells_settings_apart() -> None:
    variants = [
        tiny(),
        tiny(seed=18),
        tiny(rows=8_193),
        tiny(conflict=Conflict.conflict),
        tiny(shares=[0.45, 0.2, 0.2, 0.15, 0.0]),
        tiny(rows_per_shard=100),
        tiny(evaluation_fraction=0.5),
        tiny(days=7),
        tiny(drift=1.0),
        tiny(scale=[1, 2, 1, 1, 1]),
        tiny(history_length=5),
        tiny(raw_dense=True),
        tiny(delay=1.0),
        tiny(delay=1.0, horizon=1.0),
    ]
    assert len({settings.fingerprint for settings in variants}) == len(variants)
    assert tiny().fingerprint == tiny().fingerprint
    assert tiny(shares=[1, 0, 0, 0, 0]).fingerprint == tiny(shares=[1.0, 0, 0, 0, 0]).fingerprint
    assert tiny(scale=[1] * 5, drift=0).fingerprint == tiny().fingerprint
    assert tiny(drift=1).fingerprint == tiny(drift=1.0).fingerprint


def test_fingerprint_of_the_defaults_changes_with_the_version_alone() -> None:
    # Old data sets would be written again: raise the version only if the rows are others.
    assert (synthetic.VERSION, Synthetic().fingerprint) == (2, "6020b8eee33a7340")


def test_configuration_names_the_conflict() -> None:
    config = omegaconf.OmegaConf.structured(Synthetic)
    config.merge_with_dotlist(["conflict=conflict", "rows=1000", "shares=[1,0,0,0,0]"])
    settings = omegaconf.OmegaConf.to_object(config)
    assert settings == Synthetic(rows=1_000, conflict=Conflict.conflict, shares=[1, 0, 0, 0, 0])
    with pytest.raises(omegaconf.errors.ValidationError):
        config.merge_with_dotlist(["conflict=quarrel"])


def test_import_needs_neither_torch_nor_pyarrow() -> None:
    program = (
        "import sys, mbrec.config.synthetic;"
        "print({'torch', 'pyarrow', 'tqdm'} & set(sys.modules) or 'none')"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "none"
