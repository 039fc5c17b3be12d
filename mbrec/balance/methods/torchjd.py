"""Any Gramian weighting of the torchjd package, distributed and in one backward pass."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mbrec.balance.balancer import GramianBalancer

# Beside a trace of 1, and below the noise of products in float32.
RIDGE = 1e-7
_PACKAGE = "torchjd.aggregation"


class TorchJD(GramianBalancer):
    """Wraps a weighting of torchjd (Quinton and Rey 2024), such as `UPGradWeighting`.

    The Gramian is that of the global batch, of the active tasks, and scaled to trace 1: torchjd's
    thresholds are absolute, and the Gramians of representations are below them. So the method
    must give the same weights at every scale. Random weightings draw the same on all ranks.
    The weighting runs on the host, and waits for the device: mbrec's own methods do not.

    Args:
        weighting: a callable from a Gramian to weights, or the name of a class in
            `torchjd.aggregation` (`pip install torchjd`, for some with an extra).
        arguments: of that class, where a name is given.
        seed: of random weightings.

    Raises:
        ValueError: if torchjd is not installed, has no such weighting, or it keeps state from
            step to step, which would not be saved.

    >>> TorchJD(2, weighting=lambda gramian_KK: 1 / gramian_KK.diagonal())(torch.eye(2))
    tensor([2., 2.], dtype=torch.float64)
    """

    step: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        weighting: str | Callable[[Tensor], Tensor],
        arguments: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(num_tasks)
        self.seed = seed
        found = _find(weighting, arguments or {}) if isinstance(weighting, str) else weighting
        if not callable(found):
            raise ValueError(f"expected weighting to be a name or a callable, got {weighting!r}")
        if hasattr(found, "reset"):
            raise ValueError(
                f"expected a weighting without state, got {type(found).__name__}: its state would "
                "be neither saved nor kept by the tasks' names"
            )
        self._weighting = found
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return torchjd's weights of the active tasks; see `GramianBalancer.weigh`."""
        weights_K = torch.zeros_like(gramian_KK[0])
        among = active_K.nonzero().flatten()
        if not bool(ok) or not len(among):
            return weights_K
        part_KK = gramian_KK[among][:, among]
        # Of the CPU alone: torch.manual_seed would reset every GPU's generator as well.
        generator = torch.default_generator
        before = generator.get_state()
        try:
            generator.manual_seed(self.seed + int(self.step))
            part_K = self._weigh_active(part_KK / part_KK.trace())
        finally:
            generator.set_state(before)
        self.step = self.step + 1
        return weights_K.index_copy(0, among, part_K.to(weights_K))

    def _weigh_active(self, scaled_KK: Tensor) -> Tensor:
        try:
            return self._weighting(scaled_KK)
        except Exception:
            # Products in float32 can make the Gramian of opposed gradients indefinite in its last
            # bits, by the machine, and solvers of quadratic programs refuse that with errors of
            # their own. What is wrong otherwise fails again.
            return self._weighting(scaled_KK + RIDGE * torch.eye(len(scaled_KK)).to(scaled_KK))


def _find(name: str, arguments: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    try:
        module = importlib.import_module(_PACKAGE)
    except ImportError as error:
        raise ValueError(
            f"expected torchjd to be installed for weighting={name}, got: {error}; "
            "install 'torchjd[full]>=0.18,<0.19' beside torch"
        ) from error
    names = sorted(n for n in vars(module) if n.endswith("Weighting"))
    if name not in names:
        raise ValueError(f"expected weighting to be one of {', '.join(names)}, got {name}")
    try:
        return getattr(module, name)(**arguments)
    except (TypeError, ImportError) as error:
        raise ValueError(f"expected arguments that fit {name}, got {arguments}: {error}") from error
