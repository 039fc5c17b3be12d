"""A draft is a schema that training takes: parsed, completed, and read with."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from shop_logs import make_log, make_oddities, prepare, write

from mbrec.columns import manifest
from mbrec.columns.schema import Columns
from mbrec.config.synthetic import Synthetic
from mbrec.config.tasks import Task
from mbrec.prepare.describe.command import Options, describe
from mbrec.prepare.synthetic.files import write as write_world
from mbrec.reader import dataset
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import open_store

RANDOM = np.random.default_rng(3)


def world(folder):
    sizes = {"rows": 3_000, "num_users": 50, "num_items": 40, "num_tags": 20}
    write_world(Synthetic(**sizes, rows_per_shard=500, history_length=5, raw_dense=True), folder)
    return folder


def plain(folder):
    """The files of the prepared log, without what was said of them."""
    prepare(folder)
    (folder / "manifest.json").unlink()
    return folder


def oddities(folder):
    late = make_oddities(300, late=True)
    return write(folder, {"train/a.parquet": make_oddities(900), "test/a.parquet": late})


def numbers(folder):
    """Numbers alone, one of which is a label; no splits."""
    columns = {"x": RANDOM.normal(size=900), "z": RANDOM.random(900)}
    columns["y"] = RANDOM.integers(0, 2, 900)
    table = pa.table(columns)
    return write(folder, {f"part-{k}.parquet": table.slice(300 * k, 300) for k in range(3)})


def one_file(folder):
    return write(folder, {"log.parquet": make_log(700)})


KINDS = {"world": world, "prepared": prepare, "plain": plain, "oddities": oddities}
KINDS |= {"numbers": numbers, "one_file": one_file}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns the folder of a kind, written once; it is only read."""
    return cache(lambda kind: KINDS[kind](tmp_path_factory.mktemp(kind) / "data"))


@pytest.fixture
def draft(capsys):
    """Returns the text of the draft for a folder."""

    def text(folder, *options):
        describe(str(folder), Options.parse(["plot=none", *options]))
        return capsys.readouterr().out

    return text


def parse(text):
    """Return the node and the schema of a draft."""
    node = OmegaConf.create(text)
    columns = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Columns), node.columns))
    assert isinstance(columns, Columns)
    return node, columns


def complete(folder, columns):
    store = open_store(str(folder))
    has = store.exists(manifest.NAME)
    return dataset.resolve(columns, manifest.load_folder(folder) if has else None)


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_evaluation_read_every_row_with_the_draft(kind, draft, made):
    folder = made(kind)
    node, columns = parse(draft(folder))
    assert node.path == str(folder)
    columns, store = complete(folder, columns), open_store(str(folder))
    tasks = {label: Task(label) for label in columns.labels}
    assert tasks
    options = {"global_batch_size": 128, "store": store}
    options["vocabularies"] = dataset.load_vocabularies(columns, store)
    for patterns in (node.train, node.evaluation):
        reader = ParquetReader(store.find(patterns), columns, tasks, **options)
        batches = list(reader)
        assert sum(int((batch.rows_B >= 0).sum()) for batch in batches) == reader.num_rows > 0
        # Standardised with figures that fit: nothing is far from what it was drawn with.
        assert max(float(batch.dense_BN.abs().max()) for batch in batches) < 30


def test_without_a_manifest_the_draft_says_what_the_manifest_would(draft, made):
    with_manifest = complete(made("prepared"), parse(draft(made("prepared")))[1])
    without = parse(draft(made("plain"), "labels=[clicked,bought]"))[1]
    assert without.labels == with_manifest.labels
    for name, feature in without.categorical.items():
        known = with_manifest.categorical[name]
        assert (feature.missing, feature.multi_hot) == (known.missing, known.multi_hot)
        if known.vocabulary is None:
            assert (feature.cardinality, feature.hash_size) == (known.cardinality, known.hash_size)
    assert list(without.numerical) == list(with_manifest.numerical)
    for name, feature in without.numerical.items():
        known = with_manifest.numerical[name]
        assert (feature.mean, feature.std) == pytest.approx((known.mean, known.std), rel=1e-5)


@pytest.mark.parametrize("kind", ["prepared", "oddities", "world"])
def test_every_column_is_named_once_with_its_type_and_reason(kind, draft, made):
    text = draft(made(kind))
    if kind == "world":
        assert not re.search("take it back|LEAK", text), "all columns of the world are honest"
    listed = [line for line in text.split("columns:\n")[1].splitlines() if line]
    sections = ("  categorical:", "  numerical:", "  labels:", "  # Left out:")
    taken_back = ("  #     to take it back, add below ", "  #       ")
    listed = [line for line in listed if not line.startswith((*sections, *taken_back))]
    assert all(re.search(r"  # \S|  #   \S", line) for line in listed), listed
    _, columns = parse(text)
    features = columns.categorical | columns.numerical
    named = Counter(feature.column or name for name, feature in features.items())
    named.update(f.weights for f in columns.categorical.values() if f.weights)
    assert max(named.values()) == 1
    assert not any(name.startswith("__") for name in named)


def test_the_same_data_gives_the_same_draft(draft, made):
    assert draft(made("plain")) == draft(made("plain"))


def test_numbers_alone_get_a_table_of_buckets(draft, tmp_path):
    columns = parse(draft(numbers(tmp_path)))[1]
    assert list(columns.categorical) == ["x_bucket"]
    assert len(columns.categorical["x_bucket"].boundaries or []) == 9
    assert set(columns.numerical) == {"x", "z"}


def test_rates_of_labels_stand_beside_them_for_each_split(draft, made):
    folder = made("prepared")
    text = draft(folder)
    found = manifest.load_folder(folder).splits
    rates = [f"{name} {split.label_rates['clicked']:.4g}" for name, split in found.items()]
    assert f"# int8; {', '.join(rates)}; a label according" in text
    both = [
        (log["clicked"].to_numpy() * log["bought"].to_numpy()).mean()
        for log in (make_log(2_000), make_log(500, first=2_000), make_log(500, first=2_500))
    ]
    assert f"train {both[0]:.4g}, validation {both[1]:.4g}, test {both[2]:.4g}" in text


def test_a_data_set_without_labels_is_drafted_and_says_so(draft, tmp_path):
    table = pa.table({"user_id": RANDOM.integers(0, 9, 90), "x": RANDOM.random(90)})
    text = draft(write(tmp_path, {"train/a.parquet": table, "test/a.parquet": table}))
    assert "No column looks like a label" in text
    assert parse(text)[1].labels == {}


def test_a_data_set_without_features_is_refused(draft, tmp_path):
    table = pa.table({"clicked": [0, 1] * 20, "request": [f"r{i}" for i in range(40)]})
    with pytest.raises(ValueError, match=r"expected a column of ids, .* another value in nearly"):
        draft(write(tmp_path, {"train/a.parquet": table}))


def test_the_lines_that_take_columns_back_make_features_of_them(draft, tmp_path):
    table = make_log(1_000)
    score = table["clicked"].to_numpy() + RANDOM.normal(0, 0.05, len(table))
    pages = pa.array(
        [f"p {k % 9}" if c else None for k, c in enumerate(table["clicked"].to_pylist())]
    )
    table = table.append_column("the score", pa.array(score)).append_column("page", pages)
    folder = write(tmp_path, {"train/a.parquet": table, "test/a.parquet": table})
    lines = draft(folder).splitlines()
    assert not parse("\n".join(lines))[1].numerical.keys() & {"the_score"}
    section_of = [line.removeprefix("  #     to take it back, add below ") for line in lines]
    back = [
        (f"  {section_of[k]}", lines[k + 1]) for k in range(len(lines)) if section_of[k] != lines[k]
    ]
    for section, line in back:
        lines.insert(lines.index(section) + 1, f"    {line.removeprefix('  #       ')}")
    columns = parse("\n".join(lines))[1]
    assert columns.numerical["the_score"].column == "the score"
    assert {"page", "paid_cents"} <= columns.categorical.keys()
    store = open_store(str(folder))
    reader = ParquetReader(
        store.find(["train/*.parquet"]), columns, {"click": Task("click")}, store=store,
        global_batch_size=128,
    )  # fmt: skip
    assert sum(int((batch.rows_B >= 0).sum()) for batch in reader) == 1_000


def test_columns_that_the_manifest_lacks_are_not_used(draft, tmp_path):
    folder = prepare(tmp_path / "data")
    known = manifest.load_folder(folder)
    known.columns["priced"] = known.columns.pop("price")
    manifest.save(known, folder)
    text = draft(folder)
    assert "#   price: not in the manifest" in text
    assert "price" not in parse(text)[1].numerical
