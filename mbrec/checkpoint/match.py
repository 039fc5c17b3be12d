"""Which tensor of a checkpoint goes where in a model: all of them, or an error that says why.

Shapes: I input width of the interaction.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Size = tuple[int, ...]
BALANCER = "model.heads.hook.balancer."

_TABLE = re.compile(r"\.embedding_bags\.([^.]+)\.")
_TASK = re.compile(r"\.heads\.mlps\.([^.]+)\.")
_INTERACTION = re.compile(r"(model|optimizer)\.bottom\.interaction\.(.+)")


@dataclass(frozen=True)
class Layout:
    """What decides the names and sizes of a model's tensors.

    Attributes:
        tasks: names, in row order.
        inputs: part of the interaction's input -> its width, in order: each categorical feature,
            and "(numerical)".
        tables: table -> the features that share it.
        plan: table -> its placement and ranks, as text.
        input_dims: parameter of the interaction -> its dimensions that are as wide as its input;
            needed where the inputs are not those of the checkpoint.
    """

    tasks: list[str]
    inputs: dict[str, int]
    tables: dict[str, list[str]]
    plan: dict[str, str]
    input_dims: dict[str, list[int]] = field(default_factory=dict)

    def describe_plan(self) -> str:
        """Return the placement of each table."""
        return ", ".join(f"{table} {placement}" for table, placement in self.plan.items())


def match(
    saved: Mapping[str, Size],
    own: Mapping[str, Size],
    before: Layout,
    now: Layout,
    *,
    allow_new: Collection[str] = (),
    allow_dropped: Collection[str] = (),
) -> dict[str, list[int]]:
    """Return what is loaded, without the balancer's state, which its own names decide.

    Args:
        saved: name -> size of each tensor in the checkpoint.
        own: name -> size of each tensor of the model, those of all ranks.
        before, now: the layouts of the checkpoint and of the model.
        allow_new: tasks, tables and features that may be in the model alone.
        allow_dropped: those that may be in the checkpoint alone.

    Returns:
        name -> dimensions along which only what belongs to kept inputs is loaded, to where these
        are now; none for a tensor that is loaded as it is.

    Raises:
        ValueError: naming every tensor without a counterpart, and what would allow it.
    """
    _check_named("new", "model", _only_in(now, before), allow_new)
    _check_named("dropped", "checkpoint", _only_in(before, now), allow_dropped)
    _check_known(now, allow_new, allow_dropped)
    _check_inputs(saved, before, now)
    saved = {name: size for name, size in saved.items() if not name.startswith(BALANCER)}
    own = {name: size for name, size in own.items() if not name.startswith(BALANCER)}
    came, gone = _owners(now) - _owners(before), _owners(before) - _owners(now)
    missing = [name for name in own.keys() - saved.keys() if owner(name) not in came]
    unused = [name for name in saved.keys() - own.keys() if owner(name) not in gone]
    lost = {"nothing saved for": missing, "no place for the saved": unused}
    if found := "; ".join(f"{what} {_some(names)}" for what, names in lost.items() if names):
        raise ValueError(f"expected a checkpoint of this model, got {found}{_plans(before, now)}")
    result = {}
    for name in sorted(own.keys() & saved.keys()):
        along = dims(name, saved[name], own[name], before, now)
        if along is None:
            raise ValueError(
                f"expected size {list(own[name])} of {name}, got {list(saved[name])}"
                + _plans(before, now)
            )
        result[name] = along
    return result


def owner(name: str) -> tuple[str, str] | None:
    """Return the task or table that a tensor belongs to alone.

    >>> owner("optimizer.heads.mlps.ctr.1.bias.exp_avg"), owner("model.bottom.numerical.x")
    (('task', 'ctr'), None)
    """
    for kind, pattern in (("table", _TABLE), ("task", _TASK)):
        if found := pattern.search(name):
            return kind, found[1]
    return None


def dims(name: str, saved: Size, own: Size, before: Layout, now: Layout) -> list[int] | None:
    """Return the dimensions of a tensor along which the inputs are not where they were.

    None where the sizes do not fit each other.
    """
    along: list[int] = []
    if inputs_differ(before, now) and (parameter := _parameter(name)) is not None:
        # A number that goes with a parameter, such as Adam's count of steps, has no dimension.
        along = [dim for dim in now.input_dims[parameter] if dim < len(own)]
    widths = sum(before.inputs.values()), sum(now.inputs.values())
    pairs = list(zip(saved, own, strict=False))
    fits = all(pair == widths if d in along else pair[0] == pair[1] for d, pair in enumerate(pairs))
    return along if fits and len(saved) == len(own) else None


def inputs_differ(before: Layout, now: Layout) -> bool:
    """Return whether the interaction's input has other parts, or has them in another order."""
    return list(before.inputs.items()) != list(now.inputs.items())


@torch.no_grad()
def copy_kept(
    saved: Tensor, own: Tensor, along: Sequence[int], before: Layout, now: Layout
) -> None:
    """Copy what belongs to inputs that both have, along `dims`; the rest of `own` stays."""
    source, grid = saved.to(own.device), []
    old_i, new_i = kept_positions(before.inputs, now.inputs)
    for dim, size in enumerate(own.shape):
        if dim in along:
            old = torch.tensor(old_i, dtype=torch.long, device=own.device)
            source = source.index_select(dim, old)
        places = new_i if dim in along else list(range(size))
        grid.append(torch.tensor(places, dtype=torch.long, device=own.device))
    own[torch.meshgrid(grid, indexing="ij")] = source


def kept_positions(
    before: Mapping[str, int], now: Mapping[str, int]
) -> tuple[list[int], list[int]]:
    """Return the input columns that both have: where they were, and where they are.

    >>> kept_positions({"user": 2, "item": 1}, {"item": 1, "city": 3, "user": 2})
    ([0, 1, 2], [4, 5, 0])
    """
    old, new = _columns(before), _columns(now)
    both = [name for name in before if before[name] == now.get(name)]
    return [i for name in both for i in old[name]], [i for name in both for i in new[name]]


def _columns(inputs: Mapping[str, int]) -> dict[str, range]:
    ends = itertools.accumulate(inputs.values())
    return {
        name: range(end - width, end)
        for (name, width), end in zip(inputs.items(), ends, strict=True)
    }


def _parameter(name: str) -> str | None:
    """Return which of the interaction's parameters a tensor is, or is an optimizer's state of."""
    if (found := _INTERACTION.fullmatch(name)) is None:
        return None
    return found[2] if found[1] == "model" else found[2].rpartition(".")[0]


def _check_inputs(saved: Mapping[str, Size], before: Layout, now: Layout) -> None:
    """Refuse other inputs where it is not known which columns belong to which."""
    unknown = {_parameter(name) for name in saved} - {None} - now.input_dims.keys()
    if inputs_differ(before, now) and unknown:
        raise ValueError(
            f"expected the inputs of the checkpoint ({', '.join(before.inputs)}), in their order, "
            f"got {', '.join(now.inputs)}"
        )


def _only_in(here: Layout, there: Layout) -> set[str]:
    """Return the names of tasks, tables and inputs that only one of two layouts has.

    A feature that comes or goes with its table is not named besides.
    """
    tables = here.tables.keys() - there.tables.keys()
    along = {feature for table in tables for feature in here.tables[table]}
    features = here.inputs.keys() - there.inputs.keys() - along
    return {*tables, *features, *(set(here.tasks) - set(there.tasks))}


def _owners(layout: Layout) -> set[tuple[str, str]]:
    # A task and a table may have one name.
    return {*(("table", t) for t in layout.tables), *(("task", t) for t in layout.tasks)}


def _check_named(kind: str, where: str, found: set[str], allowed: Collection[str]) -> None:
    if unnamed := sorted(found - set(allowed)):
        raise ValueError(
            f"expected the tasks and tables of the checkpoint, but the {where} has "
            f"{', '.join(unnamed)} besides; to go on all the same: "
            f"'resume.allow_{kind}=[{','.join(sorted(found))}]'"
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
