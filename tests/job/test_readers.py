"""A prepared data set, from its manifest to a trained and scored run."""

import io
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jobs import compose
from omegaconf import OmegaConf
from ranks import run_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch._C._distributed_c10d import HashStore

from mbrec.columns import manifest
from mbrec.columns.manifest import load_folder
from mbrec.columns.schema import Categorical, Columns, Keep, MissingId, Numerical, OutOfVocabulary
from mbrec.config import settings as configuration
from mbrec.config.settings import Config, Data
from mbrec.distributed.process import Runtime
from mbrec.job import readers
from mbrec.prepare.writer import DatasetWriter
from mbrec.reader.dataset import resolve

ALONE = Runtime(0, 1, 1, torch.device("cpu"), HashStore())
BATCH, STEPS = 64, 10
COUNTED: dict[str, Any] = {"out_of_vocabulary": OutOfVocabulary.oov}
COLUMNS = Columns(
    {
        "city": Categorical(missing=MissingId.row, **COUNTED),
        "words": Categorical(multi_hot=True, **COUNTED),
        "item": Categorical(6, **COUNTED),
        "user": Categorical(),
        "age": Categorical(num_buckets=4),
        "last_words": Categorical(
            multi_hot=True,
            table="words",
            column="words_again",
            max_length=1,
            keep=Keep.last,
            **COUNTED,
        ),
    },
    {"price": Numerical(standardise=True)},
    {"click": "click", "conversion": "click * sold"},
)
CITIES = ["lima", "oslo", "rome", "bonn"]


def make_rows(n: int, seed: int, cities: list[str], price: float = 3.0) -> pa.Table:
    """Return rows whose cities become rarer from the first to the last."""
    random = np.random.default_rng(seed)
    share = np.arange(len(cities), 0, -1) ** 2.0
    city = random.choice(cities, n, p=share / share.sum())
    words = [[f"{c}-{k}" for k in range(random.integers(0, 3))] for c in city]
    click = (random.random(n) < 0.3 + 0.5 * (city == "rome")).astype(np.int8)
    return pa.table(
        {
            "city": pa.array(city, mask=random.random(n) < 0.05),
            "words": words,
            "words_again": words,
            "item": random.integers(0, 8, n),
            "user": random.permutation(n) % 50,
            "age": random.integers(0, int(20 * price), n).astype(np.float32),
            "price": random.normal(price, price, n),
            "click": click,
            "sold": random.integers(0, 2, n),
        }
    )


def write(folder: Path, train: pa.Table, test: pa.Table) -> Path:
    with DatasetWriter(folder, train.schema, labels=["click"], row_group_rows=100) as writer:
        writer.add("train", train)
        writer.add("test", test)
        writer.finish()
    return folder


def configure(data: Path, run: Path) -> Config:
    # Not `parse` of a YAML of one's own, which a clone does not have.
    config = compose(data, f"run.folder={run.parent}", f"run.name={run.name}", "monitor.every=5")
    config.data = Data(str(data), ["train/*.parquet"], ["test/*.parquet"], COLUMNS)
    config.trainer = replace(config.trainer, global_batch_size=BATCH, steps=STEPS)
    return config


def job(data: str, other: str, damaged: str, run: str, changed: list[str]) -> dict[str, Any]:
    """Train, go on with changed data, and score the run on two sets, as the commands do."""
    from mbrec import evaluate
    from mbrec.train import train

    found: dict[str, Any] = {}
    with (
        redirect_stdout(io.StringIO()) as printed,
        # Hydra's own state, and the group that the ranks of a test share.
        mock.patch("mbrec.config.composer.parsed", configuration.parse),
        mock.patch("mbrec.train.HydraConfig"),
        mock.patch("torch.distributed.destroy_process_group"),
    ):
        never = Path(run).with_name("never")
        try:
            train(OmegaConf.structured(configure(Path(damaged), never)))
        except ValueError as error:
            found["refused"] = str(error)
        found["left"] = [path.name for path in never.rglob("*") if path.is_file()]
        train(OmegaConf.structured(configure(Path(data), Path(run))))
        for name, path in {"own": data, "other": other}.items():
            target = Path(run).with_name(name)
            evaluate.evaluate(Path(run), [f"data.path={path}"], target)
            found[name] = pq.read_table(target / "part-00000.parquet").to_pydict()
        found["changed"] = {path: going_on(Path(path), Path(run)) for path in changed}
        found["learned"] = scored_with_others(Path(run))
    return found | {"printed": printed.getvalue()}


def going_on(data: Path, run: Path) -> str:
    """Return what is said to a run that goes on from another one, on other data."""
    from mbrec.distributed import process
    from mbrec.job import build, resume

    config = configure(data, run.with_name(f"on_{data.name}"))
    config.resume.path, config.trainer.steps = str(run), STEPS + 1
    folder = Path(config.run.folder) / str(config.run.name)
    try:
        build.trainer(config, process.start(), folder, source=resume.source(config, folder))
    except ValueError as error:
        return str(error)
    return ""


def scored_with_others(run: Path) -> str:
    """Return what is said to a run whose vocabulary has been replaced."""
    from mbrec.evaluate import evaluate

    file = run / CITY
    content = file.read_bytes()
    pq.write_table(pa.table({"value": pq.read_table(file)["value"][::-1]}), file)
    try:
        evaluate(run, [], run.with_name("never_scored"))
    except ValueError as error:
        return str(error)
    finally:
        file.write_bytes(content)
    return ""


CITY = "vocabulary/city.parquet"


def write_changed(folder: Path, rows: dict[str, pa.Table]) -> None:
    """Write data sets of the same layout whose values mean something else."""
    inverted = {}
    for split, table in rows.items():
        labels = pa.array(1 - table["click"].to_numpy())
        inverted[split] = table.set_column(table.column_names.index("click"), "click", labels)
    write(folder / "inverted", inverted["train"], inverted["test"])
    # The words of a vocabulary in another order, with everything that belongs to it.
    shutil.copytree(folder / "data", permuted := folder / "permuted")
    values = pq.read_table(permuted / CITY)["value"].to_pylist()
    pq.write_table(pa.table({"value": values[::-1]}), permuted / CITY)
    known = manifest.load_folder(permuted)
    known.files[CITY] = manifest.describe(permuted / CITY, len(values))
    manifest.save(known, permuted)


@pytest.fixture(scope="module")
def rows() -> dict[str, pa.Table]:
    return {
        "train": make_rows(BATCH * STEPS, 0, CITIES),
        "test": make_rows(200, 1, ["rome", "pune", *CITIES]),
    }


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write(folder / "data", rows["train"], rows["test"])
    # The same cities, rarest first, dearer, and with the same rows to be scored.
    others = make_rows(BATCH * STEPS, 2, CITIES[::-1], price=9.0)
    write(folder / "other", others, rows["test"])
    write(folder / "damaged", rows["train"], rows["test"])
    damage(folder / "damaged")
    write_changed(folder, rows)
    return folder


def damage(data: Path) -> None:
    with (data / "train" / "part-00000.parquet").open("ab") as file:
        file.write(b"more")
    (data / "test" / "part-00000.parquet").unlink()
    (data / "train" / "part-00001.parquet").write_bytes(b"stray")


@pytest.fixture(scope="module")
def done(folder) -> dict[str, Any]:
    names = [str(folder / name) for name in ("data", "other", "damaged", "runs/run")]
    (ranks := folder / "ranks").mkdir()
    changed = [str(folder / name) for name in ("inverted", "permuted")]
    (found,) = run_ranks(job, 1, ranks, *names, changed)
    return found


@pytest.fixture
def config(folder: Path) -> Config:
    return configure(folder / "data", folder / "runs" / "unused")


def test_schema_is_completed_by_the_manifest(config, folder):
    store = readers.open_data(config, ALONE)
    assert store.name == str(folder / "data")
    expected = resolve(COLUMNS, load_folder(folder / "data"))
    assert config.data.columns == expected
    assert expected != COLUMNS
    assert expected.categorical["city"].vocabulary == "vocabulary/city.parquet"
    # A second look, as for the evaluation rows, finds nothing left to do.
    readers.open_data(config, ALONE)
    assert config.data.columns == expected


def test_data_without_a_manifest_needs_a_complete_schema(config, folder, tmp_path):
    (tmp_path / "train").symlink_to(folder / "data" / "train")
    config.data.path = str(tmp_path)
    with pytest.raises(ValueError, match=r"no manifest\.json: the cardinality of 'city'"):
        readers.open_data(config, ALONE)
    config.data.columns = Columns({"item": Categorical(8)}, {}, {"click": "click"})
    config.tasks = {"ctr": config.tasks["ctr"]}
    assert readers.train_reader(config, ALONE).num_rows == BATCH * STEPS


@pytest.mark.parametrize("make", [readers.train_reader, readers.evaluation_reader])
def test_files_that_differ_from_the_manifest_are_told_all_at_once(folder, config, make):
    config.data.path = str(folder / "damaged")
    with pytest.raises(ValueError, match="the files are not those of the manifest") as error:
        make(config, ALONE)
    _, *problems = str(error.value).splitlines()
    base = folder / "damaged"
    assert sorted(problem.strip().partition(": expected")[0] for problem in problems) == [
        f"{base}/test/part-00000.parquet: missing",
        f"{base}/train/part-00000.parquet: changed",
        f"{base}/train/part-00001.parquet: unknown: not in the manifest",
    ]


def test_file_outside_of_the_splits_is_nobodys_business(folder, config):
    (folder / "data" / "readme.txt").write_text("notes")
    assert readers.train_reader(config, ALONE).num_rows == BATCH * STEPS


def test_evaluation_has_the_vocabulary_of_the_run(folder, config, tmp_path):
    # Three of the four words, in another order: what the data had when the run was trained.
    vocabulary = "vocabulary/city.parquet"
    city = replace(COLUMNS.categorical["city"], cardinality=3, vocabulary=vocabulary)
    config.data.columns = replace(COLUMNS, categorical={"city": city}, numerical={})
    (tmp_path / "vocabulary").mkdir()
    pq.write_table(pa.table({"value": ["bonn", "rome", "lima"]}), tmp_path / vocabulary)
    reader = readers.evaluation_reader(config, ALONE, tmp_path)
    ids = [row for batch in reader for row in batch.sparse["city"].values().tolist()]
    codes = {"bonn": 0, "rome": 1, "lima": 2, None: 4}
    cities = pq.read_table(folder / "data" / "test")["city"].to_pylist()
    assert ids == [codes.get(city, 3) for city in cities]
    with pytest.raises(ValueError, match=r"city\.parquet: expected the 3 values .* got 4"):
        readers.evaluation_reader(config, ALONE)


def test_batch_of_a_rank_is_its_share_of_the_global_one(config):
    for world, size in {1: 64, 2: 32, 3: 22, 64: 1}.items():
        assert readers.batch_size(config, replace(ALONE, world_size=world)) == size


@pytest.mark.slow
def test_damaged_data_is_refused_before_anything_is_trained(done):
    assert done["refused"].startswith("the files are not those of the manifest:\n")
    assert len(done["refused"].splitlines()) == 4
    assert done["left"] == [".lock", "status.json"]  # which says that it failed


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_data_of_the_same_layout(done, folder):
    said = {Path(path).name: text for path, text in done["changed"].items()}
    # So the vocabularies, which are the same, have passed.
    assert "others of the same sizes (the values of 'click'" in said["inverted"]
    assert "the SHA-256 of files differ); give the data" in said["inverted"]
    assert said["permuted"].startswith("expected the vocabularies of the checkpoint")
    reversed_ = "'city' (vocabulary/city.parquet): 4 values -> as many, others or in another order"
    assert reversed_ in said["permuted"] and "(data.path)" in said["permuted"]
    assert "'words'" not in said["permuted"]


@pytest.mark.slow
def test_a_run_is_not_scored_with_other_vocabularies_than_it_learned(done, folder):
    assert "'city' (vocabulary/city.parquet): 4 values -> as many, others" in done["learned"]
    assert f"the files in {folder / 'runs/run'} were damaged or replaced" in done["learned"]


@pytest.mark.slow
def test_run_keeps_the_numbers_and_the_vocabularies_it_was_trained_with(done, folder):
    run, data = folder / "runs" / "run", folder / "data"
    expected = resolve(COLUMNS, load_folder(data))
    assert configuration.load(run / "config.yaml", []).data.columns == expected
    # In the file itself, where one can read them.
    saved: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    saved = saved["data"]["columns"]
    assert saved["categorical"]["user"]["cardinality"] == 50
    assert len(saved["categorical"]["age"]["boundaries"]) == 3
    assert saved["numerical"]["price"]["mean"] == pytest.approx(3, abs=0.5)
    for name in ("vocabulary/city.parquet", "vocabulary/words.parquet"):
        assert (run / name).read_bytes() == (data / name).read_bytes()


@pytest.mark.slow
def test_other_data_is_scored_with_the_vocabulary_and_statistics_of_the_run(done, folder):
    own, other = (folder / name for name in ("data", "other"))
    cities = [
        pq.read_table(f / "vocabulary/city.parquet")["value"].to_pylist() for f in (own, other)
    ]
    assert cities[0] == cities[1][::-1] == CITIES
    numbers = [resolve(COLUMNS, load_folder(f)) for f in (own, other)]
    assert numbers[0].categorical["age"].boundaries != numbers[1].categorical["age"].boundaries
    assert abs(numbers[0].numerical["price"].mean - numbers[1].numerical["price"].mean) > 3
    first, second = done["own"], done["other"]
    assert len(set(first["prediction_ctr"])) > 150
    for key in first:
        if key != "file":
            assert first[key] == second[key], key
    assert {Path(name).parents[1].name for name in second["file"]} == {"other"}


@pytest.mark.slow
def test_tensorboard_has_the_shares_of_ids_outside_the_vocabulary_and_cut_off(done, folder, rows):
    events = EventAccumulator(str(folder / "runs/run/tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    scalars = events.Tags()["scalars"]
    tags = {tag for tag in scalars if "out_of_vocabulary" in tag}
    names = ["city", "words", "item", "last_words"]
    kinds = ["out_of_vocabulary", "evaluation_out_of_vocabulary"]
    assert tags == {f"{kind}/{name}" for kind in kinds for name in names}

    def share(split: str, name: str, known: Any) -> float:
        lists = rows[split][{"last_words": "words"}.get(name, name)].to_pylist()
        if name == "last_words":
            lists = [words[-1:] for words in lists]
        values = [v for words in lists for v in words] if name.endswith("words") else lists
        return sum(v is not None and v not in known for v in values) / len(values)

    def truncated(split: str) -> float:
        lengths = list(map(len, rows[split]["words"].to_pylist()))
        return 1 - sum(min(length, 1) for length in lengths) / sum(lengths)

    words = set(rows["train"]["words"].combine_chunks().flatten().to_pylist())
    known = {"city": CITIES, "words": words, "item": range(6)}
    for name in names:
        column = {"last_words": "words"}.get(name, name)
        # Each training row once, in two parts of equal length.
        train = events.Scalars(f"out_of_vocabulary/{name}")
        assert [event.step for event in train] == [5, 10]
        expected = share("train", name, known[column])
        assert sum(e.value for e in train) / 2 == pytest.approx(expected, abs=1e-6)
        (event,) = events.Scalars(f"evaluation_out_of_vocabulary/{name}")
        assert event.step == STEPS
        assert event.value == pytest.approx(share("test", name, known[column]), abs=1e-6)
        assert event.value > 0.1
    assert {tag for tag in scalars if "truncated" in tag} == {
        "truncated/last_words",
        "evaluation_truncated/last_words",
    }
    train = events.Scalars("truncated/last_words")
    (event,) = events.Scalars("evaluation_truncated/last_words")
    assert sum(e.value for e in train) / 2 == pytest.approx(truncated("train"), abs=0.05)
    assert event.value == pytest.approx(truncated("test"), abs=1e-6)


def test_files_that_are_trained_on_and_evaluated_on_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def reader(*names: str) -> Any:
        return mock.Mock(row_groups=[mock.Mock(file=name) for name in names], rank=0)

    readers.warn_of_overlap(reader("a", "b"), reader("c"))
    assert caplog.messages == []
    readers.warn_of_overlap(reader("a", "b"), reader("b", "c"))
    assert caplog.messages == ["1 files are trained on and evaluated on, such as b"]


@pytest.mark.parametrize(
    ("groups", "rows", "shuffle_rows", "streams", "warns"),
    [
        (16, 1_000_000, 65_536, 2, False),
        (16, 1_000_000, 65_536, 3, True),
        (1, 1_000_000, 65_536, 1, True),
        # All rows of a reader fit into a window; none is shuffled.
        (1, 60_000, 65_536, 1, False),
        (1, 1_000_000, 0, 1, False),
    ],
)
def test_too_few_row_groups_to_mix_are_told(
    caplog: pytest.LogCaptureFixture,
    groups: int,
    rows: int,
    shuffle_rows: int,
    streams: int,
    warns: bool,
) -> None:
    reader = mock.Mock(row_groups=[None] * groups, num_rows=rows, shuffle_rows=shuffle_rows, rank=0)
    reader.streams.return_value = streams
    readers.warn_of_poor_shuffle(reader, 0)
    assert [record.message for record in caplog.records] == (
        [
            "the shuffle is poor: expected at least 8 row groups for each reader, got "
            f"{groups} for {streams}; use fewer workers, data.order=exact, or files with smaller "
            "row groups"
        ]
        if warns
        else []
    )
