"""Going back: the states of a sequence after every n tokens, and any state between them.

A draft of several tokens may be partly refused, a search may branch, a user may edit a text: then the
state after some earlier token is needed.  A memory's state is not a cache that could be cut shorter, so
states are kept after every n tokens, and the few tokens since one of them are read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .state_tree import State

if TYPE_CHECKING:
    from .generated_module import GeneratedModule


class StateHistory:
    """The states of a layer or model after every ``every`` tokens of a batch.

    Gradients flow through what it computes as through the layer itself.  Under `torch.no_grad` it keeps
    a state for each ``every`` tokens and the layer's inputs.

    tokens  how many tokens were read, by every row of the batch
    """

    def __init__(self, layer: GeneratedModule, every: int, state: State | None = None) -> None:
        """A history that begins with ``state``; None: before the first token.

        Raises ValueError if ``every`` is less than 1.
        """
        if every < 1:
            raise ValueError(f"states are kept after every 1 or more tokens, not {every}")
        self.layer, self.every = layer, every
        self._states: list[State | None] = [state]
        self._state = state
        self._pieces: list[Tensor] = []

    @property
    def tokens(self) -> int:
        return sum(piece.shape[1] for piece in self._pieces)

    @property
    def state(self) -> State | None:
        """The state after all tokens; None before the first one of a fresh sequence."""
        return self._state

    def extend(self, x: Tensor) -> Tensor:
        """Read tokens, x [B, T, …] as the layer takes it; returns what the layer answers."""
        answers, start = [], 0
        while start < x.shape[1] or not answers:
            room = self.every - self.tokens % self.every
            piece = x[:, start : start + room]
            y, self._state = self.layer(piece, self._state)  # type: ignore[operator]
            answers.append(y)
            if piece.shape[1]:
                self._pieces.append(piece)
                start += piece.shape[1]
            if piece.shape[1] == room:
                self._states.append(self._state)
        return torch.cat(answers, 1)

    def at(self, tokens: int) -> State | None:
        """The state after the first so many tokens; reads at most ``every`` - 1 of them again.

        Raises ValueError if fewer were read.
        """
        if not 0 <= tokens <= self.tokens:
            raise ValueError(f"{self.tokens} tokens were read, so there is no state after {tokens}")
        if tokens == self.tokens:
            return self._state
        state = self._states[tokens // self.every]
        rest = tokens % self.every
        if rest:
            read = torch.cat(self._pieces, 1)[:, tokens - rest : tokens]
            _, state = self.layer(read, state)  # type: ignore[operator]
        return state

    def roll_back(self, tokens: int) -> State | None:
        """Forget all but the first so many tokens; returns the state after them."""
        self._state = self.at(tokens)
        kept = torch.cat(self._pieces, 1)[:, :tokens] if self._pieces else None
        self._pieces = [kept] if kept is not None and tokens else []
        del self._states[tokens // self.every + 1 :]
        return self._state
