"""Each table has the paper's rows and figures beside ours, and trains what it needs."""

import csv

import pytest
from matplotlib.figure import Figure
from outcomes import Launcher

from mbrec.study import launch
from mbrec.study.jobs import EXPLOSION
from research.paper import printed as paper
from research.paper import table1, table2, table3, table4
from research.paper.data_sets import KUAIRAND, SIZES, SYNTHETIC, data_sets
from research.paper.runs import Runs

NEX = "balancer=gradvac"


@pytest.fixture
def made(monkeypatch, tmp_path):
    def make(*tables, size="tiny", data=SYNTHETIC, gains=None, nex=lambda job: False):
        launcher = Launcher(gains or {}, nex)
        monkeypatch.setattr(launch, "run", launcher.run)
        chosen = SIZES[size]
        runs = Runs(tmp_path, range(chosen.seeds), chosen, data_sets(chosen, data, "k"))
        runs.run([job for table in tables for job in table.PART.tuning_jobs(runs)])
        runs.run([job for table in tables for job in table.PART.jobs(runs)])
        return runs, launcher

    return make


def rows_of(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data", [SYNTHETIC, KUAIRAND])
def test_table_3_has_all_methods_and_baselines_beside_the_paper(made, size, data):
    runs, launcher = made(table3, size=size, data=data)
    page = table3.write(runs)
    names = [row[0] for row in page.table.rows]
    assert names[: len(paper.METHODS)] == list(paper.METHODS)
    assert {"Static weights, tuned", "Single-task models", "smallest detectable gain"} < set(names)
    ours = next(row for row in page.table.rows if row[0] == "MultiBalance")
    assert ours[2::2] == ["+0.476", "+0.738", "+0.091", "-0.014", "-0.032", "+0.015"]
    assert isinstance(page.picture, Figure)
    jobs = launcher.batches[1]
    assert all(len(seeds_of(jobs, job)) == runs.size.seeds for job in jobs)


def seeds_of(jobs, job):
    same = [other for other in jobs if other.name.rpartition("/")[0] == job.name.rpartition("/")[0]]
    return {other.overrides[-1] for other in same}


def test_an_explosion_is_nex_as_in_the_paper(made):
    runs, _ = made(table3, nex=lambda job: NEX in job.overrides and "feeds_a" in job.name)
    rows = rows_of(table3.write(runs).table)
    assert rows["Gradient Vaccine"]["Feeds A, average"] == "NEX"
    assert rows["Gradient Vaccine"]["paper"]  # of a later column: the paper's NEX is in Feeds A
    assert "NEX" not in rows["PCGrad"].values()
    reasons = [result.reason for result in runs.results.values() if result.reason]
    assert reasons
    assert all(reason.startswith(EXPLOSION) for reason in reasons)


def test_table_2_tells_why_the_tables_are_no_target(made):
    runs, launcher = made(table2)
    page = table2.write(runs)
    rows = [row for row in page.table.rows if row[1] == "Categorical Feature Module"]
    assert [row[0] for row in rows] == ["MGDA", "MoCo"]
    assert all(set(row[2:]) == {"N/A"} for row in rows)
    assert any("N/A: a fused table applies" in note for note in page.notes)
    mgda = page.table.rows[0]
    assert mgda[:4] == ["MGDA", "Interaction Module", "1.50 (0.50 to 2.50)", "82.353"]
    at = [word for job in launcher.batches[1] for word in job.overrides if word.startswith("hook.")]
    assert set(at) == {"hook.at=interaction", "hook.at=numerical"}
    static = rows_of(page.table)["Static weights, tuned"]
    assert static["QPS drop (%)"] == mgda[2]  # measured, as the others are
    assert any("On the model of the NE gains" in note for note in page.notes)
    # What is timed must not run beside anything that is not: it comes last.
    measured = ["measure_overhead" in job.overrides[-1] for job in launcher.batches[1]]
    assert measured == sorted(measured)


def test_table_4_has_the_papers_rates(made):
    runs, _ = made(table4, gains={"balancer.lr=2": 0.7})
    rows = rows_of(table4.write(runs).table)
    for rate, printed in paper.RATES.items():
        row = next(
            r for r in table4.write(runs).table.rows if r[0] == f"learning rate = {rate:.1f}"
        )
        assert [float(row[2]), float(row[4])] == list(printed)
    gain = float(rows["learning rate = 2.0"]["Feeds A, average"].split()[0])
    assert gain == pytest.approx(0.7, abs=0.05)


def test_table_1_counts_what_the_models_have(made):
    runs, _ = made(table1)
    page = table1.write(runs)
    rows = rows_of(page.table)
    counted = table1.parameters(())
    ratio = 100 * counted["categorical"] / sum(counted.values())
    assert rows["Ratio of Categorical Module"]["default job"] == f"{ratio:.2f}%"
    assert rows["Ratio of Categorical Module"]["paper: Crossmedia"] == "99.98%"
    trained = rows["Ratio of Categorical Module"]["Ads (synthetic, click against conversion)"]
    assert trained == "90.00%"


def test_a_page_says_that_the_data_are_not_metas(made, tmp_path):
    runs, _ = made(table4)
    path = table4.write(runs).save(tmp_path / "out", "- command: x")
    text = path.read_text()
    assert paper.LABEL in text
    assert "not Meta's" in text
    with (tmp_path / "out" / "table4.csv").open() as lines:
        assert len(list(csv.reader(lines))) == 7
    assert (tmp_path / "out" / "table4.png").stat().st_size > 5000
