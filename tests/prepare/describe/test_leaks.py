"""Outcomes, and what gives them away, are not features without a remark; honest columns stay."""

import numpy as np
import pyarrow as pa
import pytest
from shop_logs import write

from mbrec.prepare.describe.draft import remarks
from mbrec.prepare.describe.guess import Role, guess
from mbrec.prepare.describe.labels import count_labels, find_labels
from mbrec.prepare.describe.profile import read_profile

ROWS = 4_000
RANDOM = np.random.default_rng(2)
CLICK = (RANDOM.random(ROWS) < 0.2).astype(np.int64)
BUY = CLICK * (RANDOM.random(ROWS) < 0.3)
HONEST = {
    "user": RANDOM.integers(0, 50, ROWS),
    "item": pa.array([f"i{k}" for k in RANDOM.integers(0, 3_000, ROWS)]),
    "price": np.exp(RANDOM.normal(1, 1, ROWS)),
}


def draft(folder, columns, wanted=None):
    """Return the labels by name, the guesses, and the remarks."""
    table = pa.table(HONEST | columns)
    tables = {"train/a.parquet": table, "test/a.parquet": table.slice(0, 900)}
    profile = read_profile(str(write(folder, tables)))
    labels, kept_out = find_labels(profile, wanted)
    guesses = guess(profile, labels, kept_out)
    found = {label.name: label for label in labels}
    by_label = count_labels(profile, labels).by_label() if labels else {}
    rates = {label: by_split["train"] for label, by_split in by_label.items()}
    assert rates.keys() == found.keys()
    assert rates == pytest.approx(rates), "no rate is NaN"
    return found, guesses, remarks(labels, guesses), rates


@pytest.mark.parametrize(
    ("values", "expression"),
    [
        (CLICK, "click"),
        (CLICK == 1, "click"),
        (CLICK.astype(np.float32), "click"),
        (2 * CLICK - 1, "click > 0"),
        (2.0 * CLICK - 1, "click > 0"),
        (CLICK * RANDOM.integers(1, 4, ROWS), "click > 0"),
        (CLICK * RANDOM.integers(1, 4, ROWS).astype(float), "click > 0"),
        (pa.array(np.where(CLICK == 1, "yes", "no")), "click == 'yes'"),
        (pa.array(np.where(CLICK == 1, "yes", "no")).dictionary_encode(), "click == 'yes'"),
        (pa.array(np.where(CLICK == 1, "T", "")), "click == 'T'"),
        (pa.array(np.where(CLICK == 1, np.where(BUY == 1, "Y", "y"), "n")), "click in ('Y', 'y')"),
    ],
)
def test_an_outcome_is_a_label_whatever_its_values(tmp_path, values, expression):
    labels, guesses, said, rates = draft(tmp_path, {"click": values, "buy": BUY})
    assert labels["click"].expression == expression
    assert rates == {"click": CLICK.mean(), "conversion": BUY.mean()}
    assert guesses["click"].role is Role.label
    assert any(f"label click: {expression}" in line for line in said) == (expression != "click")
    assert not any(line.startswith(("left out", "check")) for line in said)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (pa.array(CLICK, mask=np.arange(ROWS) % 99 == 0), "missing values"),
        (np.where(np.arange(ROWS) % 99 == 0, np.nan, CLICK), "'click > 0'"),
        (pa.array(["yn"[c] for c in CLICK], mask=np.arange(ROWS) % 9 == 0), "missing values"),
        (pa.array(np.where(CLICK == 1, "top", "none")), "may be: click == 'none'"),
        (pa.array([f"c{k % 900}" for k in range(ROWS)]), "a label of type string"),
        (1 + CLICK, "values 0 to 2|values 1 to 2"),
        (CLICK * RANDOM.random(ROWS), "between 0 and 1"),
        (CLICK * RANDOM.normal(size=ROWS), "a label needs 0 to 1"),
        (pa.array([[k] * int(c) for k, c in enumerate(CLICK)]), "lists of int64"),
    ],
)  # fmt: skip
def test_an_outcome_that_can_be_no_label_is_left_out_with_the_reason(tmp_path, values, reason):
    labels, guesses, said, _ = draft(tmp_path, {"click": values, "buy": BUY})
    assert list(labels) == ["buy"]
    assert guesses["click"].role is Role.left_out
    assert guesses["click"].reason.startswith("an outcome by its name: ")
    assert any(part in guesses["click"].reason for part in reason.split("|"))
    assert [line.split(":")[0] for line in said] == ["left out click"]


def test_a_question_with_an_outcome_in_its_name_is_one_however_it_is_answered(tmp_path):
    answers = {"": CLICK, "_too": 2 * CLICK - 1, "_also": pa.array(["ny"[c] for c in CLICK])}
    names = ("video_liked", "isShare", "did_user_buy", "click_y")
    asked = {name + more: values for name in names for more, values in answers.items()}
    guesses = draft(tmp_path, asked)[1]
    assert {guesses[name].role for name in asked} == {Role.label}


def test_numbers_of_earlier_outcomes_are_features(tmp_path):
    names = ("follow_user_num", "click_rate", "order_id", "target_item", "num_likes", "view_type")
    columns = {name: RANDOM.integers(0, 40, ROWS) for name in names}
    guesses = draft(tmp_path, {**columns, "click": CLICK, "buy": BUY})[1]
    assert {guesses[name].role for name in names} <= {Role.categorical, Role.numerical}


NOISE = RANDOM.normal(size=ROWS)
LEAKS = {
    "label and noise": np.round(0.9 * CLICK + 0.05 * NOISE, 4),
    "the label inverted": 7.5 - CLICK + 0.01 * NOISE,
    "seconds": np.where(CLICK == 1, RANDOM.exponential(30, ROWS), RANDOM.exponential(0.3, ROWS)),
    "page": pa.array([f"p{k % 50}" if c else "none" for k, c in enumerate(CLICK)]),
    "page or null": pa.array([f"p{k % 50}" if c else None for k, c in enumerate(CLICK)]),
    "page of some": pa.array([f"p{k}" if c and k % 3 else "" for k, c in enumerate(CLICK)]),
    "events": 1 + 3 * CLICK + 2 * BUY,
    "code": RANDOM.permutation(900)[RANDOM.integers(0, 450, ROWS) + 450 * CLICK],
    "state": pa.array(np.where(CLICK == 1, "open", np.where(NOISE > 0, "seen", "sent"))),
    "pages": pa.array([[f"p{k % 5}"] * int(c) for k, c in enumerate(CLICK)]),
    "amount": BUY * RANDOM.integers(100, 9_000, ROWS),
    "both ends": np.where(CLICK == 1, np.sign(NOISE) * (3 + abs(NOISE)), np.tanh(NOISE)),
}


def test_what_gives_an_outcome_away_is_left_out_and_honest_columns_stay(tmp_path):
    guesses, said = draft(tmp_path, {**LEAKS, "click": CLICK, "buy": BUY})[1:3]
    assert {name for name, g in guesses.items() if g.instead} == LEAKS.keys()
    assert {
        name for name, g in guesses.items() if g.role in (Role.categorical, Role.numerical)
    } == {*HONEST}
    for name in LEAKS:
        assert guesses[name].reason.split(" where ")[1].startswith(("click is 1", "buy is 1"))
        assert any(line.startswith(f"left out {name}: ") for line in said)
        assert guesses[name].instead in (Role.categorical, Role.numerical)


def test_a_column_that_is_nearly_too_good_is_kept_and_marked(tmp_path):
    score = 1.9 * CLICK + NOISE
    guesses, said = draft(tmp_path, {"score": score, "click": CLICK, "buy": BUY})[1:3]
    assert guesses["score"].role is Role.numerical
    assert guesses["score"].reason.startswith("LEAK? alone it tells where click is 1 with an AUC")
    assert [line.split(":")[0] for line in said] == ["check score"]


def test_outcomes_by_other_readings_are_given_away_too(tmp_path):
    columns = {"click": 2 * CLICK - 1, "buy": pa.array(["ny"[b] for b in BUY])}
    columns["score"] = BUY + 0.05 * NOISE
    guesses = draft(tmp_path, columns)[1]
    assert "where buy == 'y' with an AUC of 1.000" in guesses["score"].reason


def test_a_label_of_a_few_rows_accuses_no_column_and_says_so(tmp_path):
    rare = np.zeros(ROWS, np.int64)
    rare[[5, 700, 3_000]] = 1
    columns = {"click": CLICK, "is_hate": rare, "score": rare + 0.01 * NOISE}
    guesses, said = draft(tmp_path, columns)[1:3]
    assert guesses["score"].role is Role.numerical
    assert "LEAK" not in guesses["score"].reason
    assert said == ["label hate: too few of its rows to test features for leaks (3 positive)"]


@pytest.mark.parametrize(
    ("positives", "role"), [(10, Role.numerical), (32, Role.numerical), (400, Role.left_out)]
)
def test_the_fewer_the_positive_the_more_it_takes_to_accuse(tmp_path, positives, role):
    # A score whose AUC is .96, for any number of positive rows.
    rare = (np.arange(ROWS) % (ROWS // positives) == 0).astype(np.int64)
    score = np.random.default_rng(3).permutation(ROWS).astype(float)
    score[rare == 1] = np.quantile(score, np.linspace(0.92, 1, positives))
    guesses = draft(tmp_path, {"score": score, "is_hate": rare})[1]
    assert guesses["score"].role is role
    assert guesses["score"].is_suspect == (positives == 32)


def test_an_id_of_a_robot_is_marked_and_not_left_out(tmp_path):
    user = RANDOM.integers(0, 2_000, ROWS)
    user[::40] = 7
    hate = (user == 7).astype(np.int64)
    guesses = draft(tmp_path, {"user": user, "is_hate": hate})[1]
    assert guesses["user"].role is Role.categorical
    assert guesses["user"].reason.startswith("LEAK? alone it tells where is_hate is 1")


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99])
def test_a_rare_flag_is_no_effect_of_a_frequent_label(tmp_path, rate):
    click = (RANDOM.random(ROWS) < rate).astype(np.int64)
    flags = {f"flag_{k}": np.zeros(ROWS, np.int64) for k in range(9)}
    for flag in flags.values():
        flag[RANDOM.choice(np.flatnonzero(click), 28 if rate == 0.5 else 60, replace=False)] = 1
    guesses = draft(tmp_path, {**flags, "click": click})[1]
    assert {guesses[name].role for name in flags} == {Role.categorical}


def test_an_effect_in_some_rows_is_one_though_it_tells_few_of_the_positive(tmp_path):
    refund = np.zeros(ROWS)
    refund[np.flatnonzero(BUY)[:25]] = 9.5
    refunded = draft(tmp_path, {"refund": refund, "click": CLICK, "buy": BUY})[1]["refund"]
    assert "filled in only where click is 1" in refunded.reason


def test_a_purchase_without_a_click_still_gives_its_price_away(tmp_path):
    buy = (RANDOM.random(ROWS) < 0.05).astype(np.int64)
    paid = buy * RANDOM.integers(100, 9_000, ROWS)
    labels, guesses = draft(tmp_path, {"click": CLICK, "buy": buy, "paid_cents": paid})[:2]
    assert labels["conversion"].expression == "click * buy"
    assert "filled in only where buy is 1" in guesses["paid_cents"].reason


def test_a_bag_that_is_left_out_takes_its_weights_along(tmp_path):
    lengths = CLICK * RANDOM.integers(1, 4, ROWS)
    bags = pa.array([list(range(n)) for n in lengths], pa.list_(pa.int64()))
    weights = pa.array([[0.5] * n for n in lengths], pa.list_(pa.float64()))
    guesses = draft(tmp_path, {"seen": bags, "seen_weight": weights, "click": CLICK})[1]
    assert {guesses[name].role for name in ("seen", "seen_weight")} == {Role.left_out}


def test_readings_other_than_0_and_1_can_be_asked_for(tmp_path):
    columns = {"click": 2 * CLICK - 1, "buy": BUY, "liked": pa.array(["ny"[c] for c in CLICK])}
    labels, guesses, _, _ = draft(tmp_path, columns, ["liked"])
    assert labels["liked"].expression == "liked == 'y'"
    assert guesses["click"].reason == "an outcome, and not a label here"
    assert guesses["click"].instead is not None
