"""What every generated class has from its base: fresh weights, a summary, a way through pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .state_history import StateHistory
from .state_tree import State


class GeneratedClass(type):
    """The class of generated classes.

    It keeps what an instance was made with, for `reset_parameters`; and pickle, which asks for the
    type of what it saves, saves generated classes by `runtime.load.pickling`.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        made._made_with = (args, kwargs)
        return made


class GeneratedModule(nn.Module, metaclass=GeneratedClass):
    """A memory, layer or model from a `.mem` file.

    sizes  what `print` shows of a memory's sizes
    """

    sizes = ""
    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def reset_parameters(self) -> None:
        """Give every parameter, those of the parts too, a new first value; type and device stay.

        The values are those of a new instance, drawn in the same order.
        """
        args, kwargs = self._made_with
        fresh = type(self)(*args, **kwargs)
        with torch.no_grad():
            for mine, new in zip(self.parameters(), fresh.parameters(), strict=True):
                mine.copy_(new)

    def history(self, every: int = 64, state: State | None = None) -> StateHistory:
        """A `StateHistory`: reads tokens, and can go back to the state after any of them."""
        return StateHistory(self, every, state)

    def extra_repr(self) -> str:
        """Sizes, the parameters that belong to no part, and how many numbers are learned in all."""
        own = [
            f"({name}): Parameter({' x '.join(map(str, p.shape))})"
            for name, p in self.named_parameters(recurse=False)
        ]
        count = sum(p.numel() for p in self.parameters())
        return "\n".join([*filter(None, [self.sizes]), *own, f"{count:,} parameters"])
