"""What is said of excess NE has the right sign, and no more weight than the seeds give it."""

import pytest
from made_runs import write_events
from outcomes import Launcher

from mbrec.study import launch
from mbrec.study.jobs import Job
from research.paper import figure2, magnitude, readings
from research.paper.data_sets import SIZES, SYNTHETIC, data_sets
from research.paper.runs import DEFAULTS, Runs

SIZE = SIZES["tiny"]
OURS = "balancer.prior_strength=0.3"  # of one of the rows of both pages


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Train nothing, write event files, and return the page of a part."""

    def make(module, gains, *, nex=lambda job: False, seeds=5):
        launcher = Launcher(gains, nex)
        monkeypatch.setattr(launch, "run", launcher.run)
        part, runs = (
            module.PART,
            Runs(tmp_path, range(seeds), SIZE, data_sets(SIZE, SYNTHETIC, "k")),
        )
        runs.run(part.tuning_jobs(runs))
        jobs = part.jobs(runs)
        runs.run(jobs)
        for job in jobs:
            if not (tmp_path / job.folder).exists():
                _write(tmp_path, job)
        return part.write(runs)

    return make


def _write(folder, job: Job):
    steps = [(step, _figures(step)) for step in range(1, 9)]
    (folder / job.folder).mkdir(parents=True)
    write_events(folder / job.folder, steps)


def _figures(step):
    large, small = {"grad_norm": 9.0, "weight": 0.1}, {"grad_norm": 1.0, "weight": 0.45}
    found = {}
    for task, values in {"ctr": large, "cvr": small, "conv_imp": small}.items():
        found |= {f"{tag}/{task}": value + (step < 4) for tag, value in values.items()}
        found[f"effective_weight/{task}"] = found[f"weight/{task}"] / 2
        found[f"weighted_norm/{task}"] = found[f"weight/{task}"] * found[f"grad_norm/{task}"]
    return found


def row(page, name):
    cells = next(row for row in page.table.rows if row[0] == name)
    return dict(zip(page.table.columns, cells, strict=True))


def number(text):
    return float(text.split()[0])


def test_a_lower_ne_is_a_negative_difference_and_a_gain(written):
    page = written(magnitude, {OURS: 1.0})
    ours = row(page, "MultiBalance, prior in output, lam 0.3")
    # NE of .9 less 1 %, on every seed.
    assert number(ours["against equal"]) == pytest.approx(-0.009, abs=3e-4)
    assert ours["ctr against equal"].endswith("*")
    assert row(page, "equal weights")["against equal"] == ""
    assert ours["w, mean"] == "0.10, 0.45, 0.45"
    assert number(row(page, "smallest detectable difference")["against equal"]) < 0.001
    note = next(note for note in page.notes if "8.5`, MultiBalance, prior in output" in note)
    assert "the dominated tasks gain, and no task loses" in note
    assert "9.0 times cvr's" in page.notes[0]


def test_a_higher_ne_is_a_loss(written):
    page = written(magnitude, {OURS: -1.0})
    ours = row(page, "MultiBalance, prior in output, lam 0.3")
    assert number(ours["against equal"]) == pytest.approx(0.009, abs=3e-4)
    note = next(note for note in page.notes if "8.5`, MultiBalance, prior in output" in note)
    assert "do not all gain, and a task loses more than twice" in note


def test_one_seed_shows_no_gain_and_no_loss(written):
    page = written(magnitude, {OURS: -5.0}, seeds=1)
    assert not any("loses more" in note or "no task loses" in note for note in page.notes)
    assert any("one seed shows nothing" in note for note in page.notes)


def test_an_explosion_takes_its_own_row_alone(written):
    page = written(magnitude, {}, nex=lambda job: OURS in job.overrides and "seed_1" in job.name)
    assert row(page, "MultiBalance, prior in output, lam 0.3")["mean"] == "NEX"
    assert row(page, "MultiBalance, prior in output, lam 1")["mean"] != "NEX"


def test_without_equal_weights_the_others_keep_their_means(written):
    page = written(
        readings, {}, nex=lambda job: job.overrides[-2] == "balancer=equal" and not job.only
    )
    assert row(page, "equal weights")["mean"] == "NEX"
    ours = row(page, "output w, lr 0.1, lam 0.3")
    assert number(ours["mean"]) == pytest.approx(0.1, abs=0.01)
    assert ours["against equal"] == "NEX of the baseline"


def test_figure_2_has_weights_as_updated_and_as_merged(written):
    page = written(figure2, {})
    ours = row(page, DEFAULTS.name)
    assert [ours[f"(d) task weight, {t}"] for t in ("ctr", "cvr")] == ["0.1", "0.45"]
    assert [ours[f"(d) weight as merged, {t}"] for t in ("ctr", "cvr")] == ["0.05", "0.225"]
    assert ours["largest / smallest weighted magnitude"] == "2.00"


def test_figure_2_of_a_run_that_exploded_is_nex(written):
    page = written(figure2, {}, nex=lambda job: "balancer=multibalance" in job.overrides)
    assert set(row(page, DEFAULTS.name).values()) == {DEFAULTS.name, "NEX"}
    assert row(page, "equal weights")["(c) gradient magnitude, ctr"] == "9"
