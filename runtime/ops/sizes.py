"""What generated functions take as `size`."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Sizes(dict[str, int]):
    """The sizes of axes by name, with the type and the device in which a memory is computed.

    leading  axes that stand before those of a value: chunks and rows, or rows
    """

    dtype: torch.dtype
    device: torch.device
    leading: int

    def __init__(
        self,
        sizes: Mapping[str, int],
        dtype: torch.dtype,
        device: torch.device,
        leading: int = 0,
    ) -> None:
        super().__init__(sizes)
        self.dtype, self.device, self.leading = dtype, device, leading

    def with_leading(self, leading: int) -> Sizes:
        """The same sizes, for values with so many axes before their own."""
        return Sizes(self, self.dtype, self.device, leading)
