"""The picture of a data set: what it shows, read off the figure and not off its pixels."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from shop_logs import make_log, prepare, write

from mbrec.prepare.describe.command import Options, describe


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Describes a folder; returns the panels of the picture, and the file."""
    figures = []
    save, out = Figure.savefig, tmp_path_factory.mktemp("picture") / "a.png"

    def keep(figure, *args, **options):
        figures.append(figure)
        save(figure, *args, **options)

    def draw(folder, *options):
        describe(str(folder), Options.parse([f"plot={out}", *options]))
        return figures[-1].axes, out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        yield draw


@pytest.fixture(scope="module")
def shop(picture, tmp_path_factory):
    """The panels of a prepared log, and the file."""
    return picture(prepare(tmp_path_factory.mktemp("shop") / "data"))


def titles(axes):
    return [panel.get_title() for panel in axes]


def lines(panel):
    return {line.get_label(): line.get_xydata() for line in panel.lines}


def test_the_picture_shows_rates_ids_and_missing_values(shop):
    axes, file = shop
    assert file.read_bytes().startswith(b"\x89PNG")
    assert titles(axes) == [
        "Label rates by day (time)",
        "Frequencies of ids in the 2,000 training rows",
        "Missing values in the training rows",
    ]
    assert [label.get_text() for label in axes[2].get_yticklabels()] == ["city", "age"]


def test_rates_by_day_are_those_of_the_rows(shop):
    panel = shop[0][0]
    clicked = make_log(2_000)["clicked"].to_numpy().reshape(4, 500).mean(axis=1)
    assert lines(panel)["click"][:, 1] == pytest.approx(clicked)
    # Held-out splits are shaded, and each is named above its days.
    assert [text.get_text() for text in panel.texts] == ["train", "validation", "test"]
    assert len(panel.patches) == 2


def test_ids_are_ranked_by_their_frequency(shop):
    log = make_log(2_000)
    panel = shop[0][1]
    counts = np.sort(log["item_id"].value_counts().field("counts").to_numpy())[::-1]
    points = lines(panel)[f"item_id ({len(counts)})"]
    assert points[:, 1] == pytest.approx(counts[points[:, 0].astype(int) - 1])
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")


def test_without_a_time_rates_go_by_file(picture, tmp_path):
    table = make_log(900).drop(["time"])
    parts = {f"part-{k}.parquet": table.slice(300 * k, 300) for k in range(3)}
    panel = picture(write(tmp_path / "data", parts))[0][0]
    assert panel.get_title() == "Label rates by file (no column states the time)"
    rates = [part["clicked"].to_numpy().mean() for part in parts.values()]
    drawn = np.concatenate([line.get_xydata() for line in panel.lines[:2]])
    assert drawn[:, 0].tolist() == [0, 1, 2]
    assert drawn[:, 1] == pytest.approx(rates)


def test_splits_that_overlap_in_time_differ_by_their_lines(picture, tmp_path):
    tables = {
        f"{split}/a.parquet": make_log(900, seed=k) for k, split in enumerate(("train", "test"))
    }
    panel = picture(write(tmp_path / "data", tables))[0][0]
    assert not panel.patches
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["click", "conversion", "train", "test"]


def test_legends_lie_outside_of_the_axes(shop):
    for panel in shop[0][:2]:
        box = panel.get_legend().get_window_extent()
        assert box.x0 >= panel.get_window_extent().x1


def test_rare_labels_get_a_logarithmic_axis(picture, tmp_path):
    table = make_log(2_000)
    rare = np.zeros(2_000, np.int8)
    rare[::250] = 1
    table = table.append_column("hated", pa.array(rare)).append_column("liked", pa.array(1 - rare))
    folder = write(tmp_path / "data", {"train/a.parquet": table, "test/a.parquet": table})
    assert picture(folder, "labels=[clicked]")[0][0].get_yscale() == "linear"
    assert picture(folder, "labels=[liked,hated]")[0][0].get_yscale() == "log"


def test_a_file_that_cannot_be_written_costs_the_picture_alone(tmp_path, capsys):
    folder = prepare(tmp_path / "data")
    describe(str(folder), Options.parse([f"plot={tmp_path / 'nowhere' / 'a.png'}"]))
    streams = capsys.readouterr()
    assert "columns:" in streams.out
    assert "no picture: " in streams.err


def test_the_picture_lies_beside_the_data_unless_it_is_not_wanted(tmp_path):
    folder = write(tmp_path / "data", {"train/a.parquet": make_log(60)})
    describe(str(folder), Options(plot="none"))
    assert not (folder / "describe.png").exists()
    describe(str(folder), Options())
    assert (folder / "describe.png").exists()


def test_nothing_to_draw_draws_nothing(tmp_path, capsys):
    table = pa.table({"x": np.random.default_rng(0).normal(size=90)})
    folder = write(tmp_path, {"train/a.parquet": table, "test/a.parquet": table})
    describe(str(folder), Options())
    assert "no picture: there are no labels" in capsys.readouterr().err
    assert not (folder / "describe.png").exists()
