"""AUC within groups equals scikit-learn's, with ties, nulls and groups of one label."""

from pathlib import Path

import jobs
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks
from sklearn.metrics import roc_auc_score

from mbrec.metrics.grouped_auc import gauc


def by_hand(groups, scores, labels):
    parts, sizes = [], []
    for group in np.unique(groups):
        here = groups == group
        if 0 < labels[here].sum() < here.sum():
            parts.append(roc_auc_score(labels[here], scores[here]))
            sizes.append(here.sum())
    return float(np.average(parts, weights=sizes)) if parts else None


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.integers(0, 1)),
    max_size=40,
)


@settings(max_examples=100)
@given(ROWS)
def test_gauc_is_the_mean_of_the_groups_auc_weighted_by_their_rows(rows):
    groups, scores, labels = (
        (np.array(part) for part in zip(*rows, strict=True))
        if rows
        else (np.empty(0, int), np.empty(0), np.empty(0, int))
    )
    assert gauc(groups, scores, labels) == pytest.approx(by_hand(groups, scores, labels))


def test_groups_with_one_label_have_no_gauc():
    assert gauc(np.array([1, 1]), np.array([0.1, 0.2]), np.array([1, 1])) is None


def score(data: str, folder: str) -> dict:
    """Return the report of a run, and the predictions that it is of."""
    from mbrec.distributed import process
    from mbrec.job import build

    overrides = ["monitor.group=user", "trainer.steps=4"]
    config = jobs.compose(Path(data), *overrides)
    runtime = process.start()
    trainer, sharded = build.trainer(config, runtime, Path(folder))
    report = trainer.fit()
    kept = []
    again = trainer.evaluator.evaluate(
        sharded.model,
        lambda o: kept.append(
            [part.numpy().copy() for part in (o.rows_B, o.predictions_BK, o.labels_BK, o.masks_BK)]
        ),
    )
    assert again == report
    found, _ = trainer.evaluator._loader.reader.locate(np.zeros(1, int))
    return {
        "report": report,
        "kept": [np.concatenate(part) for part in zip(*kept, strict=True)],
        "file": found[0],
    }


def test_an_evaluation_on_two_ranks_has_the_gauc_of_all_rows(tiny_data, tmp_path):
    ranks = run_ranks(score, 2, tmp_path, str(tiny_data), str(tmp_path / "run"))
    rows, predictions, labels, masks = (
        np.concatenate(part) for part in zip(*(rank["kept"] for rank in ranks), strict=True)
    )
    real = rows >= 0
    users = pq.read_table(ranks[0]["file"], columns=["user"])["user"].to_numpy()[rows[real]]
    for k, task in enumerate(["ctr", "cvr", "conv_imp"]):
        shown = masks[real, k] > 0
        expected = by_hand(users[shown], predictions[real, k][shown], labels[real, k][shown])
        for rank in ranks:
            found = rank["report"][task]["gauc"]
            assert found == (expected if expected is None else pytest.approx(expected, abs=1e-9))


def refused(data: str, folder: str) -> str:
    from mbrec.distributed import process
    from mbrec.job import build

    config = jobs.compose(Path(data), "monitor.group=nobody")
    with pytest.raises(ValueError, match=r"monitor\.group, got nobody; .* has .*user") as error:
        build.trainer(config, process.start(), Path(folder))
    return str(error.value)


def test_a_group_that_is_no_column_is_refused_by_name(tiny_data, tmp_path):
    run_ranks(refused, 1, tmp_path, str(tiny_data), str(tmp_path / "run"))
