"""The layer around a memory: what every generated layer does alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from miras_dsl.runtime.execute.packed import Packed, batch_rows, parse_cu_seqlens, require

from .attention_mask import unpadded
from .conv_state import ConvState
from .generated_module import GeneratedModule
from .parts import OutputProjection, initial_tails, like_parameters
from .state_tree import State

Run = Callable[..., tuple[Tensor, State]]


class MemoryLayer(GeneratedModule):
    """A memory as a layer: x [B, T, width] -> y [B, T, width].

    Tokens and gates are made from x, the memory learns from them token by token, and its answer is
    normalised and projected back; the layer's `Backbone` says what stands in between.

    A generated class adds what is its own, beside its parameters:

    memory        the memory over a sequence
    memory_step   the memory for one token
    feeds         (x, past) -> what the memory is given for every token, [B, T, H, *axes] by name
    constants     what it is given once, [H, *axes] by name
    memory_state  (batch, empty) -> its state before the first token; ``empty`` has the type and
                  device of states
    """

    memory: Run
    memory_step: Run
    feeds: Callable[[Tensor, ConvState], dict[str, Tensor]]
    memory_state: Callable[[int, Tensor], dict[str, Tensor]]
    width: int
    answer: OutputProjection

    def constants(self) -> dict[str, Tensor]:
        """What the memory is given once, [H, *axes]."""
        return {}

    def initial_state(self, batch: int) -> State:
        """The state before the first token, for ``batch`` sequences."""
        empty = like_parameters(self)
        return {"memory": self.memory_state(batch, empty), **initial_tails(self, empty, batch)}

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        cu_seqlens: Packed = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """y [B, T, width] for x [B, T, width], and the state after the last token.

        state           after the tokens before; None starts anew
        cu_seqlens      [N + 1] bounds of packed sequences, which lie in one row
        attention_mask  [B, T], 0 where a padded batch has no token

        Raises ValueError for tensors that do not fit.
        """
        if attention_mask is not None:
            return unpadded(self.forward, x, state, cu_seqlens, attention_mask)
        require(x, "B, T", self.width)
        bounds = parse_cu_seqlens(x, cu_seqlens)
        state = self.initial_state(batch_rows(x, bounds)) if state is None else state
        past = ConvState(state, bounds)
        given = {**self.feeds(x, past), **self.constants()}
        y, memory = self.memory(**given, state=state["memory"], cu_seqlens=bounds)
        return self.answer(y, x), {"memory": memory, **past.tails}

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One token: y [B, width] for x [B, width], and the state after it."""
        require(x, "B", self.width)
        state = self.initial_state(x.shape[0]) if state is None else state
        past = ConvState(state)
        token = {name: value[:, 0] for name, value in self.feeds(x[:, None], past).items()}
        y, memory = self.memory_step(**token, **self.constants(), state=state["memory"])
        return self.answer(y, x), {"memory": memory, **past.tails}
