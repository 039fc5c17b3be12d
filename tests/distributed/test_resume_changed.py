"""A run goes on with other tasks and tables: the kept are exact, the new ones as at a start."""

import math
import shutil
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from jobs import compose, gather
from ranks import run_ranks

from mbrec.columns.schema import Categorical

SAVED, CUT, END = 6, 9, 12
WIDTH, NUMERICAL = 16, 8
TASKS = ["ctr", "cvr", "like"]
FEATURES = ["user", "tags", "spot", "hashed"]
JOB = [
    "trainer.global_batch_size=64",
    f"trainer.steps={END}",
    "data.shuffle_rows=512",
    f"model.embedding_dim={WIDTH}",
    f"model.numerical=[{NUMERICAL}]",
    # The representation is as wide as the input was: which of the two a matrix's rows belong to
    # cannot be told from its size.
    f"model.interaction.hidden=[{len(FEATURES) * WIDTH + NUMERICAL}]",
]
KNOWN = {
    "user": Categorical(cardinality=500),
    "item": Categorical(cardinality=200),
    "tags": Categorical(cardinality=50, multi_hot=True),
    "spot": Categorical(column="x0", boundaries=[-0.5, 0.5]),
    "hashed": Categorical(column="item", hash_size=64, salt=1),
    "fan": Categorical(column="user", cardinality=500, table="user"),
}


@dataclass
class Change:
    """A job that differs from the first one.

    Attributes:
        tasks: in order.
        features: in order.
        columns: feature -> settings of it.
        options: further overrides.
        new: tasks, tables and features that it adds.
        dropped: those that it leaves out.
    """

    tasks: list[str] = field(default_factory=lambda: TASKS)
    features: list[str] = field(default_factory=lambda: FEATURES)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


CHANGES = {
    "a task more": Change(tasks=["ctr", "share", "cvr", "like"], new=["share"]),
    "a task less": Change(tasks=["ctr", "like"], dropped=["cvr"]),
    "a table in front": Change(features=["item", *FEATURES], new=["item"]),
    "a table between": Change(features=["user", "item", "tags", "spot", "hashed"], new=["item"]),
    "a table at the end": Change(features=[*FEATURES, "item"], new=["item"]),
    "a table less": Change(features=["user", "spot", "hashed"], dropped=["tags"]),
    # The input is as wide as before, and not what it was.
    "a table for another": Change(
        features=["user", "item", "spot", "hashed"], new=["item"], dropped=["tags"]
    ),
    "another order": Change(tasks=["like", "ctr", "cvr"], features=["hashed", *FEATURES[:3]]),
    "a feature of a table": Change(features=["fan", *FEATURES], new=["fan"]),
    "all at once": Change(
        tasks=["comment", "like", "ctr"],
        features=["item", "hashed", "user"],
        new=["comment", "item"],
        dropped=["cvr", "spot", "tags"],
    ),
}


@cache
def composed(data: str, options: tuple[str, ...]) -> Any:
    """Return the configuration of all tasks; Hydra takes longer for it than a job for its steps."""
    tasks = "tasks=[ctr,cvr,like,share,comment]"
    return compose(Path(data), *JOB, tasks, *options)


def build(data: str, run: str, change: Change, path: str = "auto") -> tuple[Any, Any]:
    """Return the trainer of a job and its model."""
    from mbrec.config.checkpoints import Resume
    from mbrec.distributed import process
    from mbrec.job import build, resume

    config = deepcopy(composed(data, tuple(change.options)))
    config.tasks = {name: config.tasks[name] for name in change.tasks}
    config.data.columns.categorical = {
        name: replace(KNOWN[name], **change.columns.get(name, {})) for name in change.features
    }
    config.resume = Resume(path, change.new, change.dropped)
    runtime = process.start()
    source = resume.source(config, Path(run))
    trainer, sharded = build.trainer(config, runtime, Path(run), source=source)
    trainer.evaluator.evaluate = lambda model: {}  # pyright: ignore
    return trainer, sharded


def parts(state: dict[str, Any]) -> dict[str, Any]:
    """Return this rank's parts of each tensor: offsets and values."""
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor

    found = {}
    for name, value in state.items():
        if isinstance(value, ShardedTensor):
            shards = [(list(s.metadata.shard_offsets), s.tensor) for s in value.local_shards()]
        else:
            shards = [([0] * value.dim(), value)]
        found[name] = [(offsets, t.detach().clone().numpy()) for offsets, t in shards]
    return found


def first(data: str, folder: str, jobs: dict[str, Change]) -> dict[str, Any]:
    """Train the first steps of some jobs; return what was saved of each."""
    from mbrec.checkpoint import tensors

    found = {}
    for name, job in jobs.items():
        trainer, sharded = build(data, str(Path(folder) / name), job)
        trainer.max_steps = SAVED
        trainer.fit()
        found[name] = parts(tensors.collect(sharded.model, sharded.optimizer))
    return found


def go_on(data: str, folder: str, changes: dict[str, Change], twice: list[str]) -> dict[str, Any]:
    """Resume changed jobs and train them to their end, some of them in two pieces."""
    from mbrec.checkpoint import tensors
    from mbrec.job import resume

    found, load = {}, resume.load
    for name, change in changes.items():
        seen: dict[str, Any] = {"losses": [], "first": []}

        def watched(config: Any, sharded: Any, source: Path, seen: Any = seen) -> Any:
            tensors.start_state(sharded.optimizer)
            seen.setdefault("fresh", parts(tensors.collect(sharded.model, sharded.optimizer)))
            saved = load(config, sharded, source)
            seen.setdefault("loaded", parts(tensors.collect(sharded.model, sharded.optimizer)))
            return saved

        run = str(Path(folder) / name.replace(" ", "_"))
        path = "auto" if Path(run).exists() else str(Path(folder) / "first")
        for end in [CUT, END] if name in twice else [END]:
            with mock.patch.object(resume, "load", watched):
                trainer, _ = build(data, run, change, path)
            record = trainer.monitor.record

            def traced(step: int, outputs: Any, rates: Any, seen: Any = seen, to: Any = record):
                seen["losses"].append(outputs.losses_K.tolist())
                to(step, outputs, rates)

            trainer.monitor.record = traced
            trainer.max_steps = end
            seen["first"].append(trainer.step)
            trainer.fit()
            seen["last"] = trainer.step
        found[name] = seen
    return found


@pytest.fixture(scope="module")
def first_run(tiny_data, tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("changed")
    ranks = run_ranks(first, 2, folder, str(tiny_data), str(folder), FIRST)
    return folder, whole([rank["first"] for rank in ranks])


MOCO = Change(options=["balancer=moco"])
FIRST = {"first": Change(), "moco": MOCO}
TWICE = ["a task more", "all at once"]


@pytest.fixture(scope="module")
def resumed(first_run, tiny_data) -> dict[str, list[dict[str, Any]]]:
    folder, _ = first_run
    # This one goes on in its own folder, and the others in new ones.
    shutil.copytree(folder / "first" / "checkpoint", folder / "all_at_once" / "checkpoint")
    ranks = run_ranks(go_on, 2, folder, str(tiny_data), str(folder), CHANGES, TWICE)
    return {name: [rank[name] for rank in ranks] for name in CHANGES}


def whole(ranks: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    names = sorted({name for rank in ranks for name in rank})
    found = gather([{name: rank.get(name, []) for name in names} for rank in ranks])
    return {name: tensor.numpy() for name, tensor in found.items()}


def columns(features: list[str]) -> list[tuple[str, int]]:
    widths = dict.fromkeys(features, WIDTH) | {"(numerical)": NUMERICAL}
    return [(name, i) for name, width in widths.items() for i in range(width)]


def input_dims(name: str) -> list[int]:
    """Return the dimensions of a tensor that are as wide as the interaction's input."""
    if not name.endswith(".step"):
        for part, dims in {"cross.kernels": [0, 1], "cross.bias": [0]}.items():
            if f"interaction.{part}." in name:
                return dims
        if "interaction.projection." in name and ".weight" in name:
            return [1]
    return []


def expected(
    name: str, change: Change, saved: dict[str, np.ndarray], fresh: np.ndarray
) -> np.ndarray:
    """Return what a tensor must be that is no balancer's: what was saved where it was, or new."""
    if name not in saved:
        return fresh
    if not (along := input_dims(name)):
        return saved[name]
    old, now = columns(FEATURES), columns(change.features)
    kept = [column for column in old if column in now]
    source, target = (
        np.ix_(
            *(
                [where.index(column) for column in kept] if dim in along else range(size)
                for dim, size in enumerate(fresh.shape)
            )
        )
        for where in (old, now)
    )
    result = fresh.copy()
    result[target] = saved[name][source]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_kept_is_exact_and_what_is_new_is_as_at_a_start(first_run, resumed, name):
    change, (_, saved) = CHANGES[name], first_run
    fresh, loaded = (whole([rank[kind] for rank in resumed[name]]) for kind in ("fresh", "loaded"))
    assert loaded.keys() == fresh.keys()
    new = [key for key in loaded if key not in saved and "hook.balancer" not in key]
    for key, value in loaded.items():
        if "hook.balancer" in key:
            continue
        wanted = expected(key, change, saved, fresh[key])
        assert value.tobytes() == wanted.tobytes(), key
    # Of a new task its head, and of a new table its rows; each with its optimizer's state.
    tables = set(change.new) & {"item"}
    tasks = set(change.new) - {"item", "fan"}
    assert len(new) == 2 * len(tables) + 16 * len(tasks)
    for key in new:
        if key.startswith("optimizer."):
            assert not loaded[key].any(), key
        else:
            assert loaded[key].any() or key.endswith("bias"), key


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_new_task_has_its_prior_share_and_the_others_the_rest(first_run, resumed, name):
    change, (_, saved) = CHANGES[name], first_run
    loaded = whole([rank["loaded"] for rank in resumed[name]])
    start = "model.heads.hook.balancer."
    kept = [task for task in change.tasks if task in TASKS]
    new = [task for task in change.tasks if task not in TASKS]
    weights = {task: float(loaded[f"{start}weight.{task}"]) for task in change.tasks}
    before = {task: float(saved[f"{start}weight.{task}"]) for task in TASKS}
    assert sum(weights.values()) == pytest.approx(1, abs=1e-6)
    assert all(weights[task] == pytest.approx(1 / len(change.tasks)) for task in new)
    room = 1 - len(new) / len(change.tasks)
    total = sum(before[task] for task in kept)
    for task in kept:
        assert weights[task] == pytest.approx(room * before[task] / total, abs=1e-6)
        average = f"{start}norm_average.{task}"
        assert loaded[average].tobytes() == saved[average].tobytes()
    assert all(loaded[f"{start}norm_average.{task}"] == 0 for task in new)
    assert loaded[f"{start}step"] == saved[f"{start}step"] == SAVED
    if set(change.tasks) == set(TASKS):
        assert weights == before
    assert len(set(before.values())) == len(TASKS)  # they had moved
    assert {key for key in loaded if key.startswith(start)} == {
        f"{start}{state}.{task}" for state in ("weight", "norm_average") for task in change.tasks
    } | {f"{start}step"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_the_job_trains_on_to_its_end_and_again_after_a_crash(resumed, name):
    for rank in resumed[name]:
        assert rank["first"] == ([SAVED, CUT] if name in TWICE else [SAVED])
        assert rank["last"] == END
        assert len(rank["losses"]) == END - SAVED
        for losses in rank["losses"]:
            assert len(losses) == len(CHANGES[name].tasks)
            assert all(math.isfinite(loss) and loss > 0 for loss in losses)


def refused(data: str, folder: str, changes: list[Change]) -> list[tuple[str, bool]]:
    """Return why each job cannot go on, and whether it was said before a tensor was changed."""
    from mbrec.checkpoint import tensors
    from mbrec.job import resume

    found, load = [], resume.load
    for change in changes:
        same = [True]

        def watched(config: Any, sharded: Any, source: Path, same: list[bool] = same) -> Any:
            tensors.start_state(sharded.optimizer)
            before = parts(tensors.collect(sharded.model, sharded.optimizer))
            try:
                return load(config, sharded, source)
            except ValueError:
                after = parts(tensors.collect(sharded.model, sharded.optimizer))
                pairs = [(before[n][0][1], after[n][0][1]) for n in before]
                same[0] = all(a.tobytes() == b.tobytes() for a, b in pairs)
                raise

        begun = "moco" if MOCO.options[0] in change.options else "first"
        path = str(Path(folder) / begun)
        with mock.patch.object(resume, "load", watched), pytest.raises(ValueError) as error:
            build(data, str(Path(folder) / "refused"), change, path)
        found.append((str(error.value), same[0]))
    return found


def option(text: str) -> Change:
    return Change(options=[text])


USER = "model.bottom.categorical.embeddings.embedding_bags"
REFUSED = {
    "a task more": (Change(tasks=[*TASKS, "share"]), "'resume.allow_new=[share]'"),
    "a task less": (Change(tasks=TASKS[:2]), "'resume.allow_dropped=[like]'"),
    "a table more": (Change(features=["item", *FEATURES]), "'resume.allow_new=[item]'"),
    "a table less": (Change(features=FEATURES[1:]), "'resume.allow_dropped=[user]'"),
    "half of it named": (
        Change(tasks=[*TASKS, "share"], features=["item", *FEATURES], new=["item"]),
        "'resume.allow_new=[item,share]'",
    ),
    "a wrong name": (
        Change(tasks=[*TASKS, "share"], new=["shrae"]),
        "'resume.allow_new=[share]'",
    ),
    "a wrong name besides": (
        Change(tasks=[*TASKS, "share"], new=["share", "shrae"]),
        "in resume.allow_new, got shrae",
    ),
    "a name that is still there": (Change(dropped=["ctr"]), "in resume.allow_dropped, got ctr"),
    "another width": (option("model.embedding_dim=8"), f"expected size [64, 8] of {USER}.hashed"),
    "another width of a table": (
        Change(columns={"user": {"embedding_dim": 8}}),
        "user.embedding_dim: None -> 8",
    ),
    "another width of a head": (
        option("+tasks.ctr.hidden=[32]"),
        "expected size [32] of model.heads.mlps.ctr.0._mlp.0._linear.bias, got [128]",
    ),
    "another balancer": (
        option("balancer=equal"),
        "balancer Equal, got one of MultiBalance",
    ),
    "another balancer with state": (
        option("balancer=dbmtl"),
        "balancer DBMTL, got one of MultiBalance",
    ),
    "another salt": (Change(columns={"hashed": {"salt": 2}}), "hashed.salt: 1 -> 2"),
    "other hashes": (
        Change(columns={"hashed": {"hash_size": 32}}),
        "hashed.hash_size: 64 -> 32",
    ),
    "other boundaries": (
        Change(columns={"spot": {"boundaries": [-0.4, 0.5]}}),
        "spot.boundaries: [-0.5, 0.5] -> [-0.4, 0.5]",
    ),
    "a number less": (option("~data.columns.numerical.x7"), "numerical: ['x0', 'x1'"),
    "another scale": (option("data.columns.numerical.x7.std=2.0"), "x7.std"),
    "other files": (option("data.synthetic.seed=18"), "a position with files="),
    "another seed": (option("trainer.seed=1"), "a position with seed=1, got 0"),
    "other inputs, with state for each parameter": (
        replace(CHANGES["a table for another"], options=MOCO.options),
        "the inputs of the checkpoint (user, tags, spot, hashed, (numerical)) with MoCo",
    ),
    "more inputs, with state for each parameter": (
        replace(CHANGES["a table in front"], options=MOCO.options),
        "of balancer.average.ctr, got [",
    ),
    "another place, with state for each parameter": (
        Change(options=[*MOCO.options, "hook.at=numerical"]),
        "balances at (hook.at)",
    ),
    "another shuffle": (
        option("data.shuffle_rows=500"),
        "a position with shuffle_rows=500, got 512",
    ),
}


@pytest.fixture(scope="module")
def refusals(first_run, tiny_data) -> dict[str, tuple[str, bool]]:
    folder, _ = first_run
    changes = [change for change, _ in REFUSED.values()]
    (found,) = run_ranks(refused, 1, folder, str(tiny_data), str(folder), changes)
    return dict(zip(REFUSED, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_model_or_other_rows_is_refused_before_training(refusals, name):
    message, same = refusals[name]
    assert REFUSED[name][1] in message
    assert same
