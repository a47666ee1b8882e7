"""What generated functions take as `size`."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Sizes(dict[str, int]):
    """The sizes of axes by name, with the type and the device in which a memory is computed."""

    dtype: torch.dtype
    device: torch.device

    def __init__(self, sizes: Mapping[str, int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(sizes)
        self.dtype, self.device = dtype, device
