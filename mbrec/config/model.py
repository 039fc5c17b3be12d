"""Settings of the shared bottom and of the hook above it. Part of the config schema; no torch."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mbrec import UserError


class Sharding(Enum):
    """Where an embedding table is, in TorchRec's terms.

    `table_wise` keeps it whole on one rank, `row_wise` splits its rows among all, and
    `data_parallel` keeps a copy and a dense gradient on each, for small tables.
    """

    table_wise = "table_wise"
    row_wise = "row_wise"
    column_wise = "column_wise"
    data_parallel = "data_parallel"


@dataclass
class Model:
    """The shared bottom.

    Attributes:
        embedding_dim: width of each embedding table that does not set its own.
        numerical: widths of the numerical module's layers.
        interaction: a `_target_` node, called with the width of its input.
        sharding: table -> where it is; the planner chooses for the others.
    """

    embedding_dim: int = 32
    numerical: list[int] = field(default_factory=lambda: [64])
    interaction: dict[str, Any] = field(default_factory=dict)
    sharding: dict[str, Sharding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for table, kind in self.sharding.items():
            if kind is Sharding.column_wise:
                raise UserError(
                    f"expected model.sharding.{table} to be table_wise, row_wise or data_parallel, "
                    "got column_wise: row-wise Adagrad keeps one momentum a row, column-wise "
                    "shards would keep one each, and train another model than one rank does"
                )


class Boundary(Enum):
    """Whose K gradients are balanced."""

    representation = "representation"
    interaction = "interaction"
    numerical = "numerical"
    categorical = "categorical"


@dataclass
class Hook:
    """The hook between the shared bottom and the heads.

    Attributes:
        at: the representation, or the parameters of a module below it (the baselines of the
            paper's Table 2; `categorical` is refused, as there).
        lag: 1 merges with the weights of the step before, and hides the collective.
    """

    at: Boundary = Boundary.representation
    lag: int = 0

    def __post_init__(self) -> None:
        if self.at is Boundary.categorical:
            raise UserError(
                "expected hook.at to be representation, interaction or numerical, got categorical: "
                "a fused table applies each row's gradient inside backward, so its K gradients "
                "never exist side by side (the N/A of the paper's Table 2)"
            )
        if self.lag not in (0, 1):
            raise UserError(f"expected hook.lag to be 0 or 1, got {self.lag}")
