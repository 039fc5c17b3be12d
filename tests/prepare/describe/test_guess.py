"""What a column is used as, by its values and its name."""

import numpy as np
import pyarrow as pa
import pytest
from shop_logs import make_log, make_oddities, prepare, write

from mbrec.prepare.describe import clock
from mbrec.prepare.describe.guess import LARGEST_TABLE, guess, hash_size
from mbrec.prepare.describe.labels import count_labels, find_labels
from mbrec.prepare.describe.profile import read_profile

RANDOM = np.random.default_rng(5)


def look(folder, wanted=None):
    """Return the profile, the labels by name, and the guesses."""
    profile = read_profile(str(folder))
    labels, kept_out = find_labels(profile, wanted)
    return profile, {label.name: label for label in labels}, guess(profile, labels, kept_out)


def one_file(folder, **columns):
    rows = max(len(column) for column in columns.values())
    shared = {"user_id": RANDOM.integers(0, 9, rows), "clicked": RANDOM.integers(0, 2, rows)}
    return write(folder, {"train/a.parquet": pa.table(shared | columns)})


@pytest.fixture(scope="module")
def shop_folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("shop") / "data")


@pytest.fixture(scope="module")
def shop(shop_folder):
    return look(shop_folder)


@pytest.fixture(scope="module")
def oddities(tmp_path_factory):
    tables = {"train/a.parquet": make_oddities(1_500)}
    tables["test/a.parquet"] = make_oddities(300, late=True)
    return look(write(tmp_path_factory.mktemp("odd"), tables))


@pytest.mark.parametrize(
    ("column", "settings"),
    [
        ("user_id", {"hash_size": 120}),
        ("item_id", {"out_of_vocabulary": "oov"}),
        (
            "city",
            {
                "vocabulary": "vocabulary/city.parquet",
                "missing": "row",
                "out_of_vocabulary": "oov",
            },
        ),
        ("related", {"multi_hot": True, "weights": "related_score"}),
        ("price", {"transform": "log1p", "standardise": True}),
        ("age", {"standardise": True, "missing": "indicator"}),
        ("is_member", {}),
    ],
)
def test_features_of_a_prepared_log(shop, column, settings):
    assert shop[2][column].settings == settings


@pytest.mark.parametrize(
    ("column", "role", "reason"),
    [
        ("time", "left_out", "a time"),
        ("request", "left_out", "another value in nearly every row"),
        ("paid_cents", "left_out", "filled in only where bought is 1"),
        ("country", "left_out", "the same value in all"),
        ("related_score", "weights", "as many numbers as related has ids"),
        ("clicked", "label", "according to the manifest"),
    ],
)
def test_what_is_no_feature_of_a_prepared_log(shop, column, role, reason):
    assert shop[2][column].role.value == role
    assert reason in shop[2][column].reason


def test_hidden_columns_are_never_read(shop):
    profile, _, guesses = shop
    assert "__p_click" in make_log(1).column_names
    assert not any(name.startswith("__") for name in [*guesses, *profile.schema.names])


@pytest.mark.parametrize(
    ("column", "settings"),
    [
        ("class", {"cardinality": 7}),
        ("Yes", {"hash_size": 100}),
        ("hashes", {"hash_size": 400}),
        ("codes", {"hash_size": 100}),
        ("gap_code", {"cardinality": 4, "missing": "row"}),
        ("gap_list", {"cardinality": 4, "multi_hot": True, "missing": "row"}),
        ("coupon", {"cardinality": 2, "missing": "row"}),
        ("words", {"hash_size": 100, "multi_hot": True, "missing": "row"}),
    ],
)
def test_ids_without_a_manifest(oddities, column, settings):
    assert oddities[2][column].settings == settings


def test_long_lists_are_cut_at_the_length_of_nearly_all(oddities):
    settings = oddities[2]["long"].settings
    lengths = oddities[0].fields["long"].lengths
    assert 0.985 <= (lengths <= settings["max_length"]).mean() < 1
    assert settings["keep"] == "first"
    assert "longer ones keep their first" in oddities[2]["long"].reason


def test_histories_keep_their_last_ids(tmp_path):
    lists = pa.array([list(range(n)) for n in (3, 120, 240)] * 30)
    found = look(one_file(tmp_path / "log", seen_history=lists))[2]["seen_history"]
    assert (found.settings["max_length"], found.settings["keep"]) == (240, "last")
    assert "the newest, if they end with these" in found.reason


def test_numbers_get_the_mean_and_deviation_of_what_the_model_sees(oddities):
    guesses = oddities[2]
    price = np.log1p(make_oddities(1_500)["2nd price (EUR)"].to_numpy())
    settings = guesses["2nd price (EUR)"].settings
    assert settings == {
        "transform": "log1p",
        "mean": pytest.approx(price.mean(), rel=1e-5),
        "std": pytest.approx(price.std(), rel=1e-5),
    }
    assert guesses["nan"].settings["missing"] == "indicator"
    for name in ("gap", "gap_nan"):
        assert guesses[name].settings["missing"] == "indicator", "missing in the test rows alone"
    assert "clip" not in guesses["a.b"].settings
    assert set(guesses["balance"].settings) == {"mean", "std"}


def test_values_far_out_are_clipped_and_do_not_rule_the_scale(oddities):
    settings = oddities[2]["cauchy"].settings
    values = make_oddities(1_500)["cauchy"].to_numpy()
    assert settings["clip"] == pytest.approx(np.quantile(values, [0.01, 0.99]), rel=0.2)
    clipped = np.clip(values, *settings["clip"])
    assert settings["std"] == pytest.approx(clipped.std(), rel=0.2)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("infinite", "holds infinities"),
        ("brand_id", "ids as floating-point numbers"),
        ("vector", "lists of numbers"),
        ("decimal", "no feature takes this type"),
        ("struct", "no feature takes this type"),
        ("binary", "no feature takes this type"),
        ("empty", "empty in the training rows"),
        ("date", "a time"),
        ("yyyymmdd", "a time"),
        ("comment", "an outcome by its name: a label of type string"),
        ("comment", "free text"),
    ],
)
def test_what_cannot_be_a_feature_is_left_out_with_the_reason(oddities, column, reason):
    assert oddities[2][column].role.value == "left_out"
    assert reason in oddities[2][column].reason


def test_a_click_and_a_purchase_are_named_for_the_existing_tasks(shop):
    labels = shop[1]
    assert {name: label.expression for name, label in labels.items()} == {
        "click": "clicked",
        "conversion": "clicked * bought",
    }


def test_a_conversion_that_implies_the_click_is_the_column_itself(tmp_path):
    clicked = RANDOM.integers(0, 2, 300)
    bought = clicked * RANDOM.integers(0, 2, 300)
    labels = look(one_file(tmp_path, clicked=clicked, is_conversion=bought))[1]
    assert labels["conversion"].expression == "is_conversion"


def test_names_of_columns_that_are_no_names_of_python_are_quoted(oddities):
    assert oddities[1]["click"].expression == "`is click`"


def test_small_columns_of_0_and_1_are_labels_only_where_no_name_shows_one(tmp_path):
    flags = {name: RANDOM.integers(0, 2, 99).astype(np.int8) for name in ("income", "college")}
    other = RANDOM.integers(0, 2, 99)
    folder = write(tmp_path, {"train/a.parquet": pa.table(flags | {"sex": other})})
    assert list(look(folder)[1]) == ["income", "college"]
    assert list(look(one_file(tmp_path / "b", **flags))[1]) == ["clicked"]


def test_labels_that_were_asked_for_are_the_only_ones(shop_folder):
    _, labels, guesses = look(shop_folder, ["is_member"])
    assert list(labels) == ["member"]
    assert guesses["clicked"].reason == "an outcome, and not a label here"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("click", "expected columns of time, .* in labels, got click"),
        ("city", "got city: a label of type string"),
        ("age", "got age: a label with missing values"),
        ("item_id", r"got item_id: an outcome with values 0 to \d+; a label needs 0 to 1"),
        ("country", "got country: a label of type string"),
    ],
)
def test_a_requested_column_that_cannot_be_a_label_is_refused_by_name(shop_folder, wanted, message):
    with pytest.raises(ValueError, match=message):
        look(shop_folder, [wanted])


def test_outcomes_that_stop_training_are_no_labels(tmp_path):
    liked = pa.array([0, 1, None] * 40)
    never = np.zeros(120, np.int8)
    labels, guesses = look(one_file(tmp_path, liked=liked, bought=never))[1:]
    assert list(labels) == ["clicked"]
    assert guesses["bought"].reason == "the same value in all training rows"
    assert guesses["liked"].role.value == "left_out"
    assert "a label with missing values" in guesses["liked"].reason


def test_ids_beyond_2_to_the_53_are_not_the_same_value(tmp_path):
    session = 2**60 + RANDOM.integers(0, 100, 900)
    guesses = look(one_file(tmp_path, session=session, same=np.full(900, 2**60)))[2]
    assert guesses["session"].settings["hash_size"] == 200
    assert guesses["same"].reason == "the same value in all training rows"


def test_hash_sizes_are_round_and_about_twice_the_number_of_ids():
    assert [hash_size(n) for n in (1, 60, 1_234, 98_765)] == [100, 120, 2_500, 200_000]
    assert hash_size(10**9) == LARGEST_TABLE


@pytest.mark.parametrize(
    ("name", "values", "first_day"),
    [
        ("date", np.array(["2024-03-01", "2024-03-02"], "datetime64[D]"), 19_783),
        ("at", np.array(["2024-03-01T23:00", "2024-03-02"], "datetime64[us]"), 19_783),
        ("day", ["2024-03-01", "2024-03-02T10:00:00"], 19_783),
        ("event_date", [20240301, 20240302], 19_783),
        ("ts", [19_783 * 86_400 + 5, 19_784 * 86_400], 19_783),
        ("time_ms", [19_783 * 86_400_000 + 5, 19_784 * 86_400_000], 19_783),
        ("day", [3, 4], 3),
    ],
)
def test_days_are_read_off_times_of_any_kind(tmp_path, name, values, first_day):
    repeated = pa.concat_arrays([pa.array(values)] * 30)
    clicked = pa.array([0, 1] * 30)
    profile, labels, guesses = look(one_file(tmp_path, **{name: repeated, "clicked": clicked}))
    assert guesses[name].role.value == "left_out"
    found = clock.find_clock(profile)
    assert found is not None
    assert found.name == name
    rates = count_labels(profile, list(labels.values()))
    by_day = {day: tuple(sums) for day, sums in rates.splits["train"].items()}
    assert by_day == {first_day: (30, 0), first_day + 1: (30, 30)}


@pytest.mark.parametrize(
    ("name", "values"),
    [("play_time_ms", [1_000, 90_000]), ("item_at", ["top", "left"]), ("day", [5, -1])],
)
def test_durations_and_places_are_no_times(tmp_path, name, values):
    profile = look(one_file(tmp_path, **{name: values * 30}))[0]
    assert clock.find_clock(profile) is None


def test_a_number_that_drifts_out_of_what_is_trained_on_is_marked(tmp_path):
    tables = {
        f"{split}/a.parquet": make_log(400).append_column(
            "shift", pa.array(start + np.arange(400.0))
        )
        for split, start in (("train", 0), ("test", 400))
    }
    guesses = look(write(tmp_path, tables))[2]
    assert "DRIFTS: other files have 400 to 799" in guesses["shift"].reason
    assert "DRIFTS" not in guesses["price"].reason


def test_counts_that_are_mostly_at_their_end_do_not_drift(tmp_path):
    tables = {
        f"{split}/a.parquet": make_log(400).append_column(
            "num_views", pa.array(RANDOM.choice([0, 1, 2, 1_500], 400, p=[0.6, 0.2, 0.1, 0.1]))
        ).append_column("score", pa.array(-RANDOM.choice([0.0, 0.5, 7.0], 400, p=[0.6, 0.2, 0.2])))
        for split in ("train", "test")
    }  # fmt: skip
    guesses = look(write(tmp_path, tables))[2]
    assert {guesses[name].role.value for name in ("num_views", "score")} == {"numerical"}
    assert not any("DRIFTS" in guessed.reason for guessed in guesses.values())
