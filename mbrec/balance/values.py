"""Buffers that keep their values and types, wherever a model is moved."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class KeptValues(nn.Module):
    """A module whose buffers are numbers that it computes with, and that are not filled in later.

    `half()` leaves their types, and `to_empty()`, with which models built on the meta device get
    their memory, leaves their values. What has been on the meta device has none to leave: it runs
    there, and is refused anywhere else.
    """

    def __init__(self) -> None:
        super().__init__()
        self._without_values = False

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer; see `torch.nn.Module`."""
        super().register_buffer(name, tensor, persistent)
        self._without_values |= tensor is not None and tensor.is_meta

    def check_values(self, device: torch.device) -> None:
        """Refuse to compute on a device without the values for it.

        Raises:
            ValueError: if buffers of this module or of one in it have been on the meta device.
        """
        if device.type != "meta" and any(
            module._without_values for module in self.modules() if isinstance(module, KeptValues)
        ):
            raise ValueError(
                f"expected {type(self).__name__} with the values it was built with, got one that "
                "was built on or moved to the meta device, and has lost them; build it on a real "
                "device (`with torch.device('cpu'):` in the constructor of a model that is built "
                "on meta): to_empty() and to() then keep them"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "KeptValues":
        def moved(buffer: Tensor) -> Tensor:
            device = fn(buffer).device
            if buffer.is_meta:
                self._without_values = True
                self.check_values(device)
            self._without_values |= device.type == "meta"
            return buffer.to(device)

        return super()._apply(moved, recurse)
