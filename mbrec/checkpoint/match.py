"""Which tensor of a checkpoint goes where in a model: all of them, or an error that says why.

Shapes: I input width of the interaction.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Size = tuple[int, ...]
BALANCER = "model.heads.hook.balancer."

_TABLE = re.compile(r"\.embedding_bags\.([^.]+)\.")
_TASK = re.compile(r"\.heads\.mlps\.([^.]+)\.")


@dataclass(frozen=True)
class Layout:
    """What decides the names and sizes of a model's tensors.

    Attributes:
        tasks: names, in row order.
        inputs: part of the interaction's input -> its width, in order: each categorical feature,
            and "(numerical)".
        tables: table -> the features that share it.
        plan: table -> its placement and ranks, as text.
    """

    tasks: list[str]
    inputs: dict[str, int]
    tables: dict[str, list[str]]
    plan: dict[str, str]

    def describe_plan(self) -> str:
        """Return the placement of each table."""
        return ", ".join(f"{table} {placement}" for table, placement in self.plan.items())


@dataclass
class Match:
    """What to load.

    Attributes:
        kept: names that are loaded as they are.
        resized: names whose columns or rows of kept inputs are loaded; the rest is as it began.
        new: names that nothing is loaded for.
    """

    kept: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


def match(
    saved: Mapping[str, Size],
    own: Mapping[str, Size],
    before: Layout,
    now: Layout,
    *,
    allow_new: Collection[str] = (),
    allow_dropped: Collection[str] = (),
) -> Match:
    """Return what goes where, without the balancer's state, which its own names decide.

    Args:
        saved: name -> size of each tensor in the checkpoint.
        own: name -> size of each tensor of the model, those of all ranks.
        before: the layout of the checkpoint.
        now: the layout of the model.
        allow_new: tasks, tables and features that may be in the model alone.
        allow_dropped: those that may be in the checkpoint alone.

    Raises:
        ValueError: naming every tensor without a counterpart, and what would allow it.
    """
    new, dropped = _changed(before, now)
    _check_named("new", new, allow_new)
    _check_named("dropped", dropped, allow_dropped)
    _check_known(now, allow_new, allow_dropped)
    saved = {name: size for name, size in saved.items() if not name.startswith(BALANCER)}
    own = {name: size for name, size in own.items() if not name.startswith(BALANCER)}
    missing = [name for name in own.keys() - saved.keys() if owner(name) not in new]
    unused = [name for name in saved.keys() - own.keys() if owner(name) not in dropped]
    if missing or unused:
        parts = {"nothing saved for": missing, "no place for the saved": unused}
        raise ValueError(
            "expected a checkpoint of this model, got "
            + "; ".join(f"{what} {_some(names)}" for what, names in parts.items() if names)
            + _plans(before, now)
        )
    result = Match(new=sorted(own.keys() - saved.keys()))
    for name in sorted(own.keys() & saved.keys()):
        if own[name] == saved[name]:
            result.kept.append(name)
        elif dims(saved[name], own[name], before, now) is not None:
            result.resized.append(name)
        else:
            raise ValueError(
                f"expected size {list(own[name])} of {name}, got {list(saved[name])}"
                + _plans(before, now)
            )
    return result


def owner(name: str) -> str | None:
    """Return the task or table that a tensor belongs to alone.

    >>> owner("optimizer.heads.mlps.ctr.1.bias.exp_avg"), owner("model.bottom.numerical.x")
    ('ctr', None)
    """
    found = _TABLE.search(name) or _TASK.search(name)
    return found[1] if found else None


def dims(saved: Size, own: Size, before: Layout, now: Layout) -> list[int] | None:
    """Return the dimensions that went from the old input width to the new one, or None.

    None also where the inputs are the same, or sizes differ elsewhere.
    """
    if before.inputs == now.inputs or len(saved) != len(own):
        return None
    widths = sum(before.inputs.values()), sum(now.inputs.values())
    changed = [dim for dim, pair in enumerate(zip(saved, own, strict=True)) if pair[0] != pair[1]]
    return changed if all((saved[d], own[d]) == widths for d in changed) else None


def copy_kept(saved: Tensor, own: Tensor, before: Layout, now: Layout) -> None:
    """Copy what belongs to inputs that both have; the rest of `own` stays."""
    changed = dims(tuple(saved.shape), tuple(own.shape), before, now)
    assert changed is not None
    source, target = saved, own
    old_i, new_i = kept_positions(before.inputs, now.inputs)
    index: list[list[int]] = [list(range(size)) for size in own.shape]
    for dim in changed:
        source = source.index_select(dim, source.new_tensor(old_i).long())
        index[dim] = new_i
    grid = [
        source.new_tensor(places).long().view([-1 if d == dim else 1 for d in range(own.dim())])
        for dim, places in enumerate(index)
    ]
    target[tuple(grid)] = source


def kept_positions(
    before: Mapping[str, int], now: Mapping[str, int]
) -> tuple[list[int], list[int]]:
    """Return the input columns that both have: where they were, and where they are.

    >>> kept_positions({"user": 2, "item": 1}, {"item": 1, "city": 3, "user": 2})
    ([0, 1, 2], [4, 5, 0])
    """
    old, new = _starts(before), _starts(now)
    names = [name for name in before if before[name] == now.get(name)]
    return (
        [old[name] + i for name in names for i in range(before[name])],
        [new[name] + i for name in names for i in range(now[name])],
    )


def _starts(inputs: Mapping[str, int]) -> dict[str, int]:
    starts, at = {}, 0
    for name, width in inputs.items():
        starts[name], at = at, at + width
    return starts


def _changed(before: Layout, now: Layout) -> tuple[set[str], set[str]]:
    """Return the names of tasks, tables and inputs that only one of the two has.

    A feature that comes or goes with its table is not named besides.
    """
    sides = []
    for here, there in ((now, before), (before, now)):
        tables = here.tables.keys() - there.tables.keys()
        along = {feature for table in tables for feature in here.tables[table]}
        features = here.inputs.keys() - there.inputs.keys() - along
        sides.append({*tables, *features, *(set(here.tasks) - set(there.tasks))})
    return sides[0], sides[1]


def _check_named(kind: str, found: set[str], allowed: Collection[str]) -> None:
    if unnamed := sorted(found - set(allowed)):
        what = "the model has" if kind == "new" else "the checkpoint has"
        names = ",".join(sorted(found))
        raise ValueError(
            f"expected the tasks and tables of the checkpoint, but {what} {', '.join(unnamed)} "
            f"besides; to go on all the same: 'resume.allow_{kind}=[{names}]'"
        )


def _check_known(now: Layout, allow_new: Collection[str], allow_dropped: Collection[str]) -> None:
    # Not whether they are new: after a restart the checkpoint has them as well.
    known = {*now.tasks, *now.tables, *now.inputs}
    if unknown := sorted(set(allow_new) - known):
        raise ValueError(
            f"expected tasks, tables or features of the model in resume.allow_new, got "
            f"{', '.join(unknown)}"
        )
    if there := sorted(set(allow_dropped) & known):
        raise ValueError(
            f"expected names that the model no longer has in resume.allow_dropped, got "
            f"{', '.join(there)}"
        )


def _plans(before: Layout, now: Layout) -> str:
    if before.plan == now.plan:
        return ""
    return f"; the plan was: {before.describe_plan()}; it is now: {now.describe_plan()}"


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
