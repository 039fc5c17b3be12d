import io
from contextlib import redirect_stdout
from typing import Any
from unittest import mock

import numpy as np
from jobs import compose
from ranks import run_ranks

from research.bench import contest, data, peers

BATCH, STEPS, ROUNDS = 64, 3, 2


def test_table_is_the_same_each_time_and_within_its_cardinalities():
    table, again = contest.make_table(500), contest.make_table(500)
    for name, column in table.items():
        assert np.array_equal(column, again[name])
        assert len(column) == 500
    for name, size in contest.CARDINALITIES.items():
        assert 0 <= table[name].min() <= table[name].max() < size
    assert set(table) - set(contest.CARDINALITIES) - set(contest.LABELS) == {
        f"x{i}" for i in range(contest.NUM_DENSE)
    }
    for name in contest.LABELS:
        assert set(table[name].tolist()) == {0, 1}


def installed(*names: str) -> Any:
    """Let only these of the peers be installed."""
    from importlib.util import find_spec

    def find(name: str, package: str | None = None) -> object:
        return name in names if name in data.PEERS else find_spec(name, package)

    return mock.patch("importlib.util.find_spec", find)


def test_peers_that_are_not_installed_are_named_with_how_to_install_them(monkeypatch):
    def never(*_: Any) -> None:
        raise AssertionError("expected no contest")

    monkeypatch.setattr(contest, "measure", never)
    with installed(), redirect_stdout(io.StringIO()) as printed:
        data._peers(mock.sentinel.config)
    text = printed.getvalue()
    for name in ("torch-rechub", "deepctr-torch"):
        assert f"{name} is not installed (pip install {name})" in text


def test_only_the_peers_that_are_installed_compete(monkeypatch):
    asked = []
    monkeypatch.setattr(contest, "measure", lambda config, names: asked.append(names) or {})
    with installed("deepctr_torch"), redirect_stdout(io.StringIO()) as printed:
        data._peers(mock.sentinel.config)
    assert asked == [["deepctr_torch"]]
    assert "pip install torch-rechub" in printed.getvalue()
    assert "deepctr" not in printed.getvalue()


def measured(folder: str) -> dict[str, Any]:
    from pathlib import Path

    config = compose(Path(folder), f"trainer.global_batch_size={BATCH}", "model.embedding_dim=4")
    columns = list(config.data.columns.categorical)
    table, seen = contest.make_table, []
    with (
        mock.patch.object(contest, "make_table", lambda rows: table(rows)),
        mock.patch.multiple(contest, ROWS=300, STEPS=STEPS, ROUNDS=ROUNDS),
        mock.patch.dict(contest.CARDINALITIES, {f"id{i}": 50 for i in range(8)}),
    ):

        def peer(table: Any, cardinalities: Any, labels: Any, size: int, dim: int) -> peers.Peer:
            assert len(table["a"]) == 300 // BATCH * BATCH
            assert (cardinalities, labels, size, dim) == (
                contest.CARDINALITIES,
                contest.LABELS,
                BATCH,
                4,
            )
            return peers.Peer(
                "peer 1.0", lambda n: seen.append(("load", n)), lambda n: seen.append(("train", n))
            )

        with mock.patch.object(peers, "peer", peer, create=True):
            alone, both = contest.measure(config, []), contest.measure(config, ["peer"])
    # The caller's own settings are as they were.
    assert list(config.data.columns.categorical) == columns
    return {"alone": alone, "both": both, "seen": seen}


def test_ours_and_a_peers_blocks_have_equally_many_steps(tmp_path):
    (found,) = run_ranks(measured, 1, tmp_path, str(tmp_path))
    names = {"loaders alone, 300 rows": "mbrec, from Parquet"}
    names["training, 13 tables x 4"] = "mbrec, hook, from Parquet"
    assert found["alone"].keys() == found["both"].keys() == names.keys()
    for title, ours in names.items():
        assert list(found["alone"][title].rows_per_second) == [ours]
        speed = found["both"][title]
        assert list(speed.rows_per_second) == [ours, "peer 1.0"]
        assert min(speed.rows_per_second.values()) > 0
        assert speed.ratios[ours].median == 1
    # Once for its rows, twice to warm up, and in each round.
    calls = 3 + ROUNDS
    assert found["seen"] == [("load", STEPS)] * calls + [("train", STEPS)] * calls
