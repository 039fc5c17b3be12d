"""Every tensor of a checkpoint has its place in a model, and the reverse, or that is an error."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import compose
from torch import Tensor, nn

from mbrec.checkpoint import match as matching
from mbrec.checkpoint.match import Layout, copy_kept, dims, kept_positions, match

HEIGHT = 6
BAGS = "bottom.categorical.embeddings.embedding_bags"
DIMS = {"cross.kernels.0": [0, 1], "cross.bias.0": [0], "projection.weight": [1]}
DIMS |= {"projection.bias": []}
ADAM = ["exp_avg", "exp_avg_sq"]
Sizes = dict[str, tuple[int, ...]]


def layout(tasks: list[str], inputs: dict[str, int], kind: str = "table_wise") -> Layout:
    tables = {name: [name] for name in inputs if name != "(numerical)"}
    return Layout(tasks, inputs, tables, dict.fromkeys(tables, f"{kind} on 0"), DIMS)


def sizes(of: Layout) -> Sizes:
    """Return the tensors of a small model: names as a run has them."""
    width = sum(of.inputs.values())
    dense: Sizes = {
        "bottom.interaction.cross.kernels.0": (width, width),
        "bottom.interaction.cross.bias.0": (width, 1),
        "bottom.interaction.projection.weight": (HEIGHT, width),
        "bottom.interaction.projection.bias": (HEIGHT,),
    }
    dense |= {f"bottom.numerical.mlp.{i}": (3,) for i in range("(numerical)" in of.inputs)}
    dense |= {f"heads.mlps.{task}.0.weight": (1, HEIGHT) for task in of.tasks}
    found: Sizes = {f"model.{BAGS}.{t}.weight": (10, of.inputs[t]) for t in of.tables}
    found |= {f"optimizer.{BAGS}.{t}.weight.{t}.momentum1": (10,) for t in of.tables}
    for name, size in dense.items():
        found |= {f"model.{name}": size, f"optimizer.{name}.step": ()}
        found |= {f"optimizer.{name}.{kind}": size for kind in ADAM}
    return found | {f"{matching.BALANCER}weight.{task}": () for task in of.tasks}


BEFORE = layout(["ctr", "cvr"], {"user": 4, "item": 4, "(numerical)": 3})

names = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), unique=True)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, Layout]:
    """Two layouts, in which a table has the same width wherever it is."""
    widths = dict(zip("abcde", draw(st.lists(st.integers(1, 3), min_size=5)), strict=False))
    both = []
    for _ in range(2):
        inputs = {name: widths[name] for name in draw(names)} | {"(numerical)": 2}
        tasks = draw(st.lists(st.sampled_from(["t", "u", "v"]), unique=True, min_size=1))
        both.append(layout(tasks, inputs, draw(st.sampled_from(["table_wise", "row_wise"]))))
    return both[0], both[1]


def changes(before: Layout, now: Layout) -> dict[str, set[str]]:
    """Return the tasks and tables that came and went, as they are named to allow it."""
    was, is_now = ({*of.tasks, *of.tables} for of in (before, now))
    return {"allow_new": is_now - was, "allow_dropped": was - is_now}


@given(layouts())
def test_every_tensor_is_loaded_or_belongs_to_what_was_named(both):
    before, now = both
    saved, own = sizes(before), sizes(now)
    named = changes(before, now)
    found = match(saved, own, before, now, **named)
    balancer = {name for name in saved | own if name.startswith(matching.BALANCER)}
    assert found.keys() == (own.keys() & saved.keys()) - balancer
    for one, other, allowed in ((own, saved, "allow_new"), (saved, own, "allow_dropped")):
        owners = [matching.owner(name) for name in one.keys() - other.keys() - balancer]
        assert {name for _, name in filter(None, owners)} == named[allowed]
        assert None not in owners
    differ = list(before.inputs.items()) != list(now.inputs.items())
    wide = ("kernels.0", "cross.bias.0", "projection.weight")
    stems = {name for name in own if name.removeprefix("model.").endswith(wide)}
    stems |= {f"optimizer.{n.removeprefix('model.')}.{k}" for n in stems for k in ADAM}
    resized = {name for name, along in found.items() if along}
    assert resized == (stems if differ else set())


@pytest.mark.parametrize("side", ["checkpoint", "model"])
@pytest.mark.parametrize("changed", [False, True])
def test_each_tensor_that_one_side_lacks_is_told_by_name(side, changed):
    now = layout(["cvr", "like"], {"city": 2, "item": 4, "(numerical)": 3}) if changed else BEFORE
    named = changes(BEFORE, now)
    saved, own = sizes(BEFORE), sizes(now)
    match(saved, own, BEFORE, now, **named)
    lacking, other = (saved, own) if side == "checkpoint" else (own, saved)
    alone = {name for name in lacking if name not in other}
    tried = 0
    for name in lacking:
        if name in alone or name.startswith(matching.BALANCER):
            continue
        left = {key: size for key, size in lacking.items() if key != name}
        pair = (left, own) if side == "checkpoint" else (saved, left)
        what = "nothing saved for" if side == "checkpoint" else "no place for the saved"
        with pytest.raises(ValueError, match=f"{what} {re.escape(name)}(;|$)"):
            match(*pair, BEFORE, now, **named)
        tried += 1
    assert tried > 15


def test_a_task_that_is_new_does_not_excuse_a_table_of_its_name():
    now = layout(["ctr", "cvr", "item"], BEFORE.inputs)
    saved = {name: size for name, size in sizes(BEFORE).items() if "bags.item." not in name}
    with pytest.raises(ValueError, match=r"nothing saved for .*bags\.item\.weight, "):
        match(saved, sizes(now), BEFORE, now, allow_new=["item"])


@pytest.mark.parametrize(
    ("tasks", "inputs", "option"),
    [
        (["ctr", "cvr", "like"], ["user", "item"], "'resume.allow_new=[like]'"),
        (["ctr", "cvr"], ["city", "user", "item"], "'resume.allow_new=[city]'"),
        (["ctr", "cvr", "like"], ["user", "item", "city"], "'resume.allow_new=[city,like]'"),
        (["ctr"], ["user", "item"], "'resume.allow_dropped=[cvr]'"),
        (["ctr", "cvr"], ["user"], "'resume.allow_dropped=[item]'"),
        (["ctr"], ["user"], "'resume.allow_dropped=[cvr,item]'"),
    ],
)
def test_what_is_not_named_is_refused_with_the_option_that_names_it(tasks, inputs, option):
    now = layout(tasks, dict.fromkeys(inputs, 4) | {"(numerical)": 3})
    with pytest.raises(ValueError) as error:
        match(sizes(BEFORE), sizes(now), BEFORE, now)
    assert option in str(error.value)
    key, _, text = option.strip("'").removeprefix("resume.").partition("=")
    named = text.strip("[]").split(",")
    match(sizes(BEFORE), sizes(now), BEFORE, now, **{key: named})
    # And after a restart, when the checkpoint is one of the model as it is now.
    match(sizes(now), sizes(now), now, now, **{key: named})


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"allow_new": ["lkie"]}, r"of the model in resume\.allow_new, got lkie"),
        ({"allow_dropped": ["cvr"]}, r"no longer has in resume\.allow_dropped, got cvr"),
        ({"allow_dropped": ["item"]}, r"no longer has in resume\.allow_dropped, got item"),
    ],
)
def test_a_name_that_allows_nothing_is_refused(named, message):
    with pytest.raises(ValueError, match=message):
        match(sizes(BEFORE), sizes(BEFORE), BEFORE, BEFORE, **named)


def test_a_feature_of_a_table_that_stays_is_named_itself():
    before = Layout(["ctr"], {"item": 4}, {"ids": ["item"]}, {"ids": "table_wise on 0"})
    now = Layout(
        ["ctr"], {"seen": 4, "item": 4}, {"ids": ["seen", "item"]}, before.plan, {"x": [0]}
    )
    with pytest.raises(ValueError, match=re.escape("'resume.allow_new=[seen]'")):
        match({}, {}, before, now)
    assert match({}, {}, before, now, allow_new=["seen"]) == {}
    both = Layout(["ctr"], {"seen": 4, "item": 4}, {"ids": ["seen"], "item": ["item"]}, {})
    # A table's own features come with it.
    one = Layout(["ctr"], {"seen": 4}, {"ids": ["seen"]}, {})
    with pytest.raises(ValueError, match=re.escape("'resume.allow_new=[item]'")):
        match({}, {}, one, both)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (f"model.{BAGS}.user.weight", (10, 5)),
        (f"model.{BAGS}.user.weight", (11, 4)),
        (f"optimizer.{BAGS}.user.weight.user.momentum1", (20,)),
        ("model.heads.mlps.ctr.0.weight", (2, HEIGHT)),
        ("model.bottom.interaction.projection.bias", (HEIGHT + 1,)),
        ("optimizer.bottom.interaction.projection.weight.exp_avg", (HEIGHT, 12)),
    ],
)
@pytest.mark.parametrize("changed", [False, True])
def test_another_size_is_refused_with_both_sizes_and_both_plans(name, size, changed):
    inputs = {"city": 4} | BEFORE.inputs if changed else BEFORE.inputs
    now = layout(["ctr", "cvr"], inputs, "row_wise")
    saved = sizes(BEFORE) | {name: size}
    with pytest.raises(ValueError) as error:
        match(saved, sizes(now), BEFORE, now, allow_new=["city"] if changed else [])
    message = str(error.value)
    assert f"expected size {list(sizes(now)[name])} of {name}, got {list(size)}" in message
    assert f"the plan was: {BEFORE.describe_plan()}; it is now: {now.describe_plan()}" in message


def test_a_width_that_changed_with_the_inputs_is_refused():
    # One input alone: then the table is as wide as all of the input.
    before, now = layout(["ctr"], {"user": 4}), layout(["ctr"], {"user": 8})
    with pytest.raises(ValueError, match=r"expected size \[10, 8\] of .*user\.weight, got \[10, 4"):
        match(sizes(before), sizes(now), before, now)


@pytest.mark.parametrize(
    "inputs",
    [
        {"item": 4, "user": 4, "(numerical)": 3},
        {"user": 4, "city": 4, "(numerical)": 3},
        {"city": 4, "user": 4, "(numerical)": 3},
    ],
)
def test_inputs_in_other_places_are_not_taken_for_the_same_where_the_width_is(inputs):
    now = layout(["ctr", "cvr"], inputs)
    named = changes(BEFORE, now)
    found = match(sizes(BEFORE), sizes(now), BEFORE, now, **named)
    assert found["model.bottom.interaction.cross.kernels.0"] == [0, 1]
    assert found["optimizer.bottom.interaction.projection.weight.exp_avg"] == [1]
    assert found["optimizer.bottom.interaction.projection.weight.step"] == []
    unknown = Layout(now.tasks, now.inputs, now.tables, now.plan)
    with pytest.raises(ValueError, match=r"the inputs of the checkpoint \(user, item, \(num"):
        match(sizes(BEFORE), sizes(now), BEFORE, unknown, **named)


def test_dims_are_those_of_the_inputs_and_none_where_sizes_do_not_fit():
    wider = layout(["ctr", "cvr"], {"city": 2} | BEFORE.inputs)
    kernel, head = "model.bottom.interaction.cross.kernels.0", "model.heads.mlps.ctr.0.weight"
    projection = "optimizer.bottom.interaction.projection.weight.exp_avg"
    assert dims(kernel, (11, 11), (13, 13), BEFORE, wider) == [0, 1]
    assert dims(kernel, (11, 11), (11, 11), BEFORE, BEFORE) == []
    assert dims(kernel, (11, 11), (13, 13), BEFORE, BEFORE) is None
    assert dims(kernel, (11, 11), (13, 11), BEFORE, wider) is None
    assert dims(projection, (HEIGHT, 11), (HEIGHT, 13), BEFORE, wider) == [1]
    # Of those sizes by chance: rows of a representation that is as wide as the input was.
    assert dims(projection, (11, 11), (13, 13), BEFORE, wider) is None
    assert dims(projection.replace("exp_avg", "step"), (), (), BEFORE, wider) == []
    assert dims(head, (1, HEIGHT), (1, HEIGHT), BEFORE, wider) == []
    assert dims(head, (1, 11), (1, 13), BEFORE, wider) is None
    assert dims(head, (1, HEIGHT), (1, HEIGHT, 1), BEFORE, wider) is None


inputs = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 3))


@given(inputs, inputs)
def test_kept_positions_are_the_columns_of_the_inputs_that_both_have(before, now):
    def labels(of: dict[str, int]) -> list[tuple[str, int]]:
        return [(name, i) for name, width in of.items() for i in range(width)]

    was, is_now = labels(before), labels(now)
    old, new = kept_positions(before, now)
    assert [was[i] for i in old] == [is_now[i] for i in new]
    kept = {name for name in before if before[name] == now.get(name)}
    assert sorted(old) == [i for i, (name, _) in enumerate(was) if name in kept]
    assert sorted(new) == [i for i, (name, _) in enumerate(is_now) if name in kept]


@given(inputs, inputs, st.sampled_from([[0], [1], [0, 1]]))
def test_copy_kept_moves_what_belongs_to_kept_inputs_and_nothing_else(before, now, along):
    widths = sum(before.values()), sum(now.values())
    old_size, new_size = ([w if d in along else 2 for d in range(2)] for w in widths)
    saved = torch.arange(1, old_size[0] * old_size[1] + 1).float().reshape(old_size)
    own = -torch.arange(1, new_size[0] * new_size[1] + 1).float().reshape(new_size)
    expected = own.clone()
    place = dict(zip(*reversed(kept_positions(before, now)), strict=True))  # now -> before
    for i in range(new_size[0]):
        for j in range(new_size[1]):
            source = [place.get(at) if d in along else at for d, at in enumerate((i, j))]
            if None not in source:
                expected[i, j] = saved[source[0], source[1]]
    copy_kept(saved, own, along, layout(["t"], before), layout(["t"], now))
    assert torch.equal(own, expected)


class Alongside(nn.Module):
    """An interaction that leaves its input as it is: each of its columns goes to the heads."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.out_features = in_features

    def forward(self, features_BI: Tensor) -> Tensor:
        return features_BI


class Pairs(nn.Module):
    """An interaction with a weight for each pair of columns."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.out_features = 1
        self.weights = nn.Parameter(torch.zeros(in_features * (in_features - 1) // 2))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], {"cross.kernels.0": [0, 1], "cross.bias.1": [0], "projection": [1]}),
        # A representation that is as wide as the input, and cross layers that are by chance.
        (["model.interaction.hidden=[112]"], {"cross.kernels.1": [0, 1], "projection": [1]}),
        (
            ["model.interaction.low_rank=112"],
            {"cross.W_kernels.0": [0], "cross.V_kernels.1": [1], "projection": [1]},
        ),
    ],
)
def test_the_dimensions_that_follow_the_input_are_found_whatever_their_size(settings, expected):
    from mbrec.job.resume import input_dims

    found = input_dims(compose(Path("nowhere"), *settings), 112)
    found["projection"] = found["projection._mlp.0._linear.weight"]
    assert found["projection._mlp.0._linear.bias"] == []
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("kind", [Alongside, Pairs])
def test_an_interaction_in_which_more_follows_the_width_keeps_its_inputs(kind):
    from mbrec.job.resume import input_dims

    config = compose(Path("nowhere"), f"runtime.plugins=[{__name__}]")
    config.model.interaction = {"_target_": f"{__name__}.{kind.__name__}"}
    with pytest.raises(ValueError, match=f"checkpoint with {__name__}.{kind.__name__}"):
        input_dims(config, 10)
