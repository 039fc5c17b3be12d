"""The synthetic world: users, items and tags, and the impressions that are drawn from them."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from mbrec.config.synthetic import BASE_RATES, NUM_DENSE, NUM_TASKS, Array, Synthetic
from mbrec.prepare.synthetic import streams
from mbrec.prepare.synthetic.shard import Shard
from mbrec.prepare.synthetic.streams import Popularity

RAW_MISSING = 0.05  # share of nulls in the raw dense columns

_FACTORS = 8  # of the interaction effect
_MAX_TAGS = 5
_CALIBRATION_ROWS = 100_000
# First spawn key of each random stream. What is optional has a stream of its own, so that the
# rest is the same with and without it.
_WORLD, _CALIBRATION, _SHARDS, _HISTORY, _MISSING, _DELAY = 1, 2, 3, 4, 5, 6
# Summands of the logits in the order of `Synthetic.shares`.
_BLOCKS = ("dense", "user", "item", "tags", "interaction")


class World:
    """Users, items and tags with their effects on every task, which impressions are drawn from.

    Args:
        settings: of the data set.
        arrays: those of another world of the same settings, to save the work; default: draw the
            entities and calibrate their effects on a fixed sample of impressions.
    """

    def __init__(self, settings: Synthetic, arrays: dict[str, Array] | None = None) -> None:
        self.settings = settings
        self.arrays = {} if arrays is None else arrays
        if arrays is None:
            self._draw_entities()
            self._calibrate()

    @property
    def intercepts(self) -> Array:
        """Constant part of each task's logit, (5,)."""
        return self.arrays["intercepts"]

    def save(self, folder: Path) -> None:
        """Write the arrays into a new folder."""
        folder.mkdir(parents=True)
        for name, array in self.arrays.items():
            np.save(folder / f"{name}.npy", array)

    @classmethod
    def load(cls, settings: Synthetic, folder: Path) -> "World":
        """Map the arrays of `save` into memory; processes that do so share them."""
        files = sorted(folder.glob("*.npy"))
        return cls(settings, {f.stem: np.asarray(np.load(f, mmap_mode="r")) for f in files})

    def shard(self, index: int, rows: int) -> Shard:
        """Draw the first `rows` impressions of shard `index`, whatever was drawn before."""
        settings = self.settings
        users, items, dense, uniform = self._impressions(rows, _SHARDS, index)
        position = settings.first_row(index) + np.arange(rows)
        blocks = self._blocks(users, items, dense)
        if settings.drift:
            blocks[0] = self._turned(blocks[0], dense, settings.drift * position / settings.rows)
        probabilities = streams.sigmoid(np.sum(blocks, axis=0) + self.intercepts)
        labels = (uniform < probabilities).astype(np.int8)
        conversion_label = labels[:, 1].copy()
        labels[:, 1] *= labels[:, 0]
        history = missing = delays = None
        if longest := settings.history_length:
            uniform = self._uniform(rows, 1 + longest, _HISTORY, index)
            lengths = np.floor(uniform[:, :1] * (longest + 1))
            drawn = self._popularity("item").draw(uniform[:, 1:])
            history = _lists(drawn, np.arange(longest) < lengths)
        if settings.raw_dense:
            missing = self._uniform(rows, NUM_DENSE, _MISSING, index) < RAW_MISSING
        if settings.delay:
            uniform = self._uniform(rows, 1, _DELAY, index)[:, 0]
            delays = -settings.delay * np.log(1 - uniform)
            labels[:, 1] *= delays <= self._waited(position)
        return Shard(
            days=(position * settings.days // settings.rows).astype(np.int32),
            users=users,
            items=items,
            tags=_lists(self.arrays["tags"][items], self.arrays["has_tag"][items]),
            dense=dense,
            labels=labels,
            conversion_label=conversion_label,
            probabilities=probabilities,
            history=history,
            missing=missing,
            delays=delays,
        )

    def _draw_entities(self) -> None:
        settings, arrays = self.settings, self.arrays
        num_users, num_items = settings.num_users, settings.num_items
        source = streams.stream(settings.seed, _WORLD)
        users = Popularity.make(source, num_users, shift=20.0)
        items = Popularity.make(source, num_items, shift=2.7)
        tags = Popularity.make(source, settings.num_tags, shift=2.7)
        for name, popularity in (("user", users), ("item", items)):
            arrays[f"{name}_cumulative"] = popularity.cumulative
            arrays[f"{name}_ids"] = popularity.ids
        more_tags = np.floor(-1.2 * np.log(1 - source.random(num_items))).astype(np.int64)
        arrays["has_tag"] = np.arange(_MAX_TAGS) < np.minimum(1 + more_tags, _MAX_TAGS)[:, None]
        arrays["tags"] = tags.draw(source.random((num_items, _MAX_TAGS)))
        arrays["user_factors"] = streams.effects(source, num_users, _FACTORS)
        arrays["item_factors"] = streams.effects(source, num_items, _FACTORS)
        sizes = (NUM_DENSE, num_users, num_items, settings.num_tags, _FACTORS)
        for block, size in zip(_BLOCKS, sizes, strict=True):
            arrays[f"{block}_effects"] = streams.effects(source, size, NUM_TASKS)
        arrays["tags_effects"] = self._by_item(arrays["tags_effects"])

    def _by_item(self, tag_effects: Array) -> Array:
        """Return each item's sum over its tags, over the root of their number."""
        tags, has_tag = self.arrays["tags"], self.arrays["has_tag"]
        total = np.zeros((len(tags), NUM_TASKS))
        for tag, present in zip(tags.T, has_tag.T, strict=True):
            total += tag_effects[tag] * present[:, None]
        return streams.quantised(total / np.sqrt(has_tag.sum(axis=1))[:, None])

    def _popularity(self, name: str) -> Popularity:
        return Popularity(self.arrays[f"{name}_cumulative"], self.arrays[f"{name}_ids"])

    def _impressions(self, rows: int, *key: int) -> tuple[Array, Array, Array, Array]:
        # Uniforms are laid out by row, so that a short shard is the beginning of a long one.
        uniform = self._uniform(rows, 2 + NUM_DENSE + NUM_TASKS, *key)
        users = self._popularity("user").draw(uniform[:, 0])
        items = self._popularity("item").draw(uniform[:, 1])
        # Rounded before use: the labels follow the features that a reader sees.
        dense = streams.normal(uniform[:, 2:-NUM_TASKS]).astype(np.float32)
        return users, items, dense, uniform[:, -NUM_TASKS:]

    def _uniform(self, rows: int, columns: int, *key: int) -> Array:
        return streams.stream(self.settings.seed, *key).random((rows, columns))

    def _blocks(self, users: Array, items: Array, dense: Array) -> list[Array]:
        """Return the logits' summands in the order of `Synthetic.shares`, each (N, 5)."""
        by_feature, by_user, by_item, by_tags, by_factor = (
            self.arrays[f"{block}_effects"] for block in _BLOCKS
        )
        pairs = self.arrays["user_factors"][users] * self.arrays["item_factors"][items]
        return [
            dense.astype(np.float64) @ by_feature,
            by_user[users],
            by_item[items],
            by_tags[items],
            pairs.astype(np.float64) @ by_factor,
        ]

    def _turned(self, block: Array, dense: Array, angle: Array) -> Array:
        """Return the dense block with its effects W turned by an angle: x (cos W + sin J W).

        J maps each pair of features (a, b) to (-b, a), so cos + sin J is a rotation: the block's
        distribution stays as calibrated, and a task's effects at two times have the cosine of the
        angle between them.
        """
        effects = self.arrays["dense_effects"]
        quarter = np.empty_like(effects)
        quarter[0::2], quarter[1::2] = -effects[1::2], effects[0::2]
        turned = dense.astype(np.float64) @ quarter
        return np.cos(angle)[:, None] * block + np.sin(angle)[:, None] * turned

    def _waited(self, position: Array) -> Array:
        """Return the days until labels are read; those of held-out rows are waited for."""
        settings = self.settings
        elapsed = (settings.train_rows - position) * (settings.days / settings.rows)
        return np.where(position < settings.train_rows, elapsed + settings.horizon, np.inf)

    def _calibrate(self) -> None:
        """Give the logits their correlations, variances and base rates."""
        users, items, dense, _ = self._impressions(_CALIBRATION_ROWS, _CALIBRATION)
        settings = self.settings
        colour = np.linalg.cholesky(settings.conflict.correlation).T * settings.sigmas
        blocks = self._blocks(users, items, dense)
        for name, block, share in zip(_BLOCKS, blocks, settings.shares, strict=True):
            # The covariance alone: a block's mean ends up in the intercepts.
            root = np.linalg.cholesky(np.cov(block, rowvar=False)).T
            matrix = np.linalg.solve(root, colour) * np.sqrt(share)
            effects = self.arrays[f"{name}_effects"]
            self.arrays[f"{name}_effects"] = streams.recoloured(effects, matrix)
        logits = np.sum(self._blocks(users, items, dense), axis=0)
        weights = np.ones_like(logits)
        intercepts = np.zeros(NUM_TASKS)
        for task, rate in enumerate(BASE_RATES):
            intercepts[task] = streams.intercept(logits[:, task], weights[:, task], rate)
            if task == 0:  # the rate of conversions is one among clicks
                weights[:, 1] = streams.sigmoid(logits[:, 0] + intercepts[0])
        self.arrays["intercepts"] = intercepts


def _lists(padded: Array, present: Array) -> pa.ListArray:
    """Return N lists, of the ids of an (N, L) table where `present` is true."""
    offsets = np.append(0, np.cumsum(present.sum(axis=1)))
    return pa.ListArray.from_arrays(offsets.astype(np.int32), padded[present])
