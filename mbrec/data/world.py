"""The synthetic world: draws impressions of a `Synthetic` data set, and writes them as Parquet."""

import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbrec.data.synthetic import (
    BASE_RATES,
    LABELS,
    NUM_DENSE,
    NUM_TASKS,
    ORACLE_PREFIX,
    SIGMAS,
    VERSION,
    Array,
    Synthetic,
)

if TYPE_CHECKING:
    import pyarrow
    from tqdm import tqdm

_FACTORS = 8  # of the interaction effect
_MAX_TAGS = 5
_CALIBRATION_ROWS = 100_000
_SHARDS_PER_FILE = 8
_WORLD, _CALIBRATION, _SHARDS = 1, 2, 3  # first spawn key of each random stream


@dataclass(frozen=True)
class Shard:
    """Consecutive impressions: N rows in time order, tasks in the order of `LABELS`.

    Attributes:
        users: User ids, (N,) int64.
        items: Item ids, (N,) int64.
        tag_values: Tag ids, row after row, int64.
        tag_offsets: Where each row's tags start, and where the last row's end, (N + 1,) int64.
        dense: Standard normal features, (N, 8) float32.
        labels: 0 or 1, (N, 5) int8; there is no conversion without a click.
        conversion_label: Whether a click on the row converts, clicked or not, (N,) int8.
        probabilities: What the labels are drawn from, (N, 5) float64; of a conversion: if clicked.
    """

    users: Array
    items: Array
    tag_values: Array
    tag_offsets: Array
    dense: Array
    labels: Array
    conversion_label: Array
    probabilities: Array

    def table(self) -> "pyarrow.Table":
        """The rows as Parquet stores them: ids, tags, x0 to x7, labels and oracle columns."""
        import pyarrow as pa

        tags = pa.ListArray.from_arrays(self.tag_offsets.astype(np.int32), self.tag_values)
        oracle: dict[str, Array] = dict(zip(LABELS, self.probabilities.T, strict=True))
        oracle["click_conversion"] = oracle["click"] * oracle["conversion"]
        oracle["conversion_label"] = self.conversion_label
        columns = {"user": self.users, "item": self.items, "tags": tags}
        columns |= {f"x{column}": values for column, values in enumerate(self.dense.T)}
        columns |= dict(zip(LABELS, self.labels.T, strict=True))
        return pa.table(columns | {ORACLE_PREFIX + name: oracle[name] for name in oracle})


class World:
    """Users, items and tags with their effects on every task: what impressions are drawn from.

    Attributes:
        settings: What the world was made from.
        intercepts: Constant part of each task's logit, (5,).
    """

    def __init__(self, settings: Synthetic) -> None:
        """Draws the entities and calibrates their effects on a fixed sample of impressions."""
        self.settings = settings
        num_users, num_items = settings.num_users, settings.num_items
        stream = _stream(settings.seed, _WORLD)
        self._users = _Popularity(stream, num_users, shift=20.0)
        self._items = _Popularity(stream, num_items, shift=2.7)
        tags = _Popularity(stream, settings.num_tags, shift=2.7)
        more_tags = np.floor(-1.2 * np.log(1 - stream.random(num_items))).astype(np.int64)
        self._has_tag = np.arange(_MAX_TAGS) < np.minimum(1 + more_tags, _MAX_TAGS)[:, None]
        self._tags = tags.draw(stream.random((num_items, _MAX_TAGS)))
        self._user_factors = _effects(stream, num_users, _FACTORS)
        self._item_factors = _effects(stream, num_items, _FACTORS)
        self._block_effects = [
            _effects(stream, NUM_DENSE, NUM_TASKS),
            _effects(stream, num_users, NUM_TASKS),
            _effects(stream, num_items, NUM_TASKS),
            self._tag_effects(_effects(stream, settings.num_tags, NUM_TASKS)),
            _effects(stream, _FACTORS, NUM_TASKS),
        ]
        self.intercepts = np.zeros(NUM_TASKS)
        self._calibrate()

    def shard(self, index: int, rows: int) -> Shard:
        """Draws the first `rows` impressions of stream `index`, whatever was drawn before."""
        users, items, dense, uniform = self._impressions(rows, _SHARDS, index)
        logits = np.sum(self._blocks(users, items, dense), axis=0) + self.intercepts
        probabilities = _sigmoid(logits)
        labels = (uniform < probabilities).astype(np.int8)
        conversion_label = labels[:, 1].copy()
        labels[:, 1] *= labels[:, 0]
        has_tag = self._has_tag[items]
        return Shard(
            users=users,
            items=items,
            tag_values=self._tags[items][has_tag],
            tag_offsets=np.append(0, np.cumsum(has_tag.sum(axis=1))),
            dense=dense,
            labels=labels,
            conversion_label=conversion_label,
            probabilities=probabilities,
        )

    def _impressions(self, rows: int, *key: int) -> tuple[Array, Array, Array, Array]:
        # Uniforms are laid out by row, so that a short shard is the beginning of a long one.
        uniform = _stream(self.settings.seed, *key).random((rows, 2 + NUM_DENSE + NUM_TASKS))
        users, items = self._users.draw(uniform[:, 0]), self._items.draw(uniform[:, 1])
        # Rounded before use: the labels follow the features that a reader sees.
        dense = _normal(uniform[:, 2:-NUM_TASKS]).astype(np.float32)
        return users, items, dense, uniform[:, -NUM_TASKS:]

    def _tag_effects(self, effects: Array) -> Array:
        """Each item's sum over its tags, over the root of their number."""
        total = np.zeros((len(self._tags), NUM_TASKS))
        for tags, present in zip(self._tags.T, self._has_tag.T, strict=True):
            total += effects[tags] * present[:, None]
        return _quantised(total / np.sqrt(self._has_tag.sum(axis=1))[:, None])

    def _blocks(self, users: Array, items: Array, dense: Array) -> list[Array]:
        """The logits' summands in the order of `Synthetic.shares`, each (N, 5)."""
        by_feature, by_user, by_item, by_tags, by_factor = self._block_effects
        pairs = self._user_factors[users] * self._item_factors[items]
        return [
            dense.astype(np.float64) @ by_feature,
            by_user[users],
            by_item[items],
            by_tags[items],
            pairs.astype(np.float64) @ by_factor,
        ]

    def _calibrate(self) -> None:
        """Gives the logits their correlations, variances and base rates."""
        users, items, dense, _ = self._impressions(_CALIBRATION_ROWS, _CALIBRATION)
        colour = np.linalg.cholesky(self.settings.conflict.correlation).T * SIGMAS
        blocks = self._blocks(users, items, dense)
        for block, share in enumerate(self.settings.shares):
            # The covariance alone: a block's mean ends up in the intercepts.
            root = np.linalg.cholesky(np.cov(blocks[block], rowvar=False)).T
            recolour = np.linalg.solve(root, colour) * np.sqrt(share)
            self._block_effects[block] = _quantised(self._block_effects[block] @ recolour)
        logits = np.sum(self._blocks(users, items, dense), axis=0)
        weights = np.ones_like(logits)
        for task, rate in enumerate(BASE_RATES):
            self.intercepts[task] = _intercept(logits[:, task], weights[:, task], rate)
            if task == 0:  # the rate of conversions is one among clicks
                weights[:, 1] = _sigmoid(logits[:, 0] + self.intercepts[0])


class _Popularity:
    """Ids with the probabilities (rank + shift) ** -1.05, in a random order."""

    def __init__(self, stream: np.random.Generator, size: int, shift: float) -> None:
        cumulative = np.cumsum((np.arange(1, size + 1) + shift) ** -1.05)
        self._cumulative = cumulative / cumulative[-1]
        self._ids = np.argsort(stream.random(size), kind="stable")

    def draw(self, uniform: Array) -> Array:
        return self._ids[np.searchsorted(self._cumulative, uniform, side="right")]


def _stream(seed: int, *key: int) -> np.random.Generator:
    # Only random() of it is stable across numpy versions: the distributions are derived here.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _normal(uniform: Array) -> Array:
    """Box-Muller: as many standard normal columns as uniform ones, an even number."""
    first, second = np.split(uniform, 2, axis=1)
    radius, angle = np.sqrt(-2 * np.log(1 - first)), 2 * np.pi * second
    return np.hstack([radius * np.cos(angle), radius * np.sin(angle)])


def _effects(stream: np.random.Generator, rows: int, columns: int) -> Array:
    return _quantised(_normal(stream.random((rows, columns + columns % 2)))[:, :columns])


def _quantised(effects: Array) -> Array:
    # Hides the last bits, in which platforms' mathematical libraries differ.
    return np.round(effects, 6).astype(np.float32)


def _sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def _intercept(logits: Array, weight: Array, rate: float) -> float:
    low, high = -40.0, 40.0
    while high - low > 1e-8:
        middle = (low + high) / 2
        below = np.average(_sigmoid(logits + middle), weights=weight) < rate
        low, high = (middle, high) if below else (low, middle)
    return round((low + high) / 2, 6)


def write(settings: Synthetic, folder: str | Path, *, progress: bool = False) -> None:
    """Writes the data set as Parquet files under `train` and `evaluation`, in time order.

    The folder appears only when it is complete; a complete one is left as it is.

    Args:
        settings: What to write.
        folder: Where to. Its parents are made as needed.
        progress: Whether to show a progress bar.

    Raises:
        FileExistsError: If the folder holds something other than this data set.
    """
    folder = Path(folder)
    if _is_finished(settings, folder):
        return
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        _fill(settings, partial, progress)
        partial.rename(folder)
    except OSError:
        # Another process may have finished the same data set in the meantime.
        if not _is_finished(settings, folder):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_finished(settings: Synthetic, folder: Path) -> bool:
    if not folder.exists() or not any(folder.iterdir()):
        return False
    world = folder / "world.json"
    found = json.loads(world.read_text()).get("fingerprint") if world.exists() else "other files"
    if found != settings.fingerprint:
        raise FileExistsError(f"expected {settings.fingerprint} in {folder}, got {found}")
    return True


def _fill(settings: Synthetic, folder: Path, progress: bool) -> None:
    from tqdm import tqdm

    world = World(settings)
    train_rows = settings.rows - settings.evaluation_rows
    train_shards = -(-train_rows // settings.rows_per_shard)
    with tqdm(total=settings.rows, unit=" rows", disable=not progress) as bar:
        _write_part(world, folder / "train", 0, train_rows, bar)
        _write_part(world, folder / "evaluation", train_shards, settings.evaluation_rows, bar)
    intercepts = dict(zip(LABELS, world.intercepts.tolist(), strict=True))
    document = {"version": VERSION, "fingerprint": settings.fingerprint}
    document |= {"settings": settings.plain(), "intercepts": intercepts}
    (folder / "world.json").write_text(json.dumps(document, indent=2) + "\n")


def _write_part(world: World, folder: Path, first: int, rows: int, bar: "tqdm[Any]") -> None:
    """Writes `rows` rows from shard `first` on, one row group per shard."""
    from pyarrow import parquet

    folder.mkdir(parents=True)
    size = world.settings.rows_per_shard
    schema = world.shard(first, 0).table().schema
    for number, begin in enumerate(range(0, rows, size * _SHARDS_PER_FILE)):
        path = folder / f"part-{number:05d}.parquet"
        with parquet.ParquetWriter(path, schema, write_page_checksum=True) as writer:
            for start in range(begin, min(begin + size * _SHARDS_PER_FILE, rows), size):
                shard = world.shard(first + start // size, min(size, rows - start))
                writer.write_table(shard.table(), row_group_size=size)
                bar.update(len(shard.users))
