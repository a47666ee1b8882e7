"""Each memory as a torch operator, `torch.ops.miras.<name>`, which `torch.compile` keeps as one node.

The operator computes in one of a memory's forms (`execute.form`); a second operator is its derivative.
Its schema holds all that a caller may ask for, whatever computes it:

    (inputs …, states …, cu_seqlens?, attention_mask?, form, save, states_every)
        -> (y, states after …, states every n tokens …, saved …)

The derivative takes the inputs, the states, what was saved, and the cotangents of y and of the states
after; it returns the gradients of the inputs and of the states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from miras_dsl.runtime import finite_checks
from miras_dsl.runtime.execute.call import MemoryCall, validate
from miras_dsl.runtime.execute.chunk_form import ChunkForm
from miras_dsl.runtime.execute.form import Computed, Form, without_autocast
from miras_dsl.runtime.execute.packed import bounds_of_mask, spread
from miras_dsl.runtime.execute.program_table import MemoryTable
from miras_dsl.runtime.execute.token_loop import TokenForm, run_token_loop
from miras_dsl.runtime.kernels.launch_config import Recurrence
from miras_dsl.runtime.kernels.recurrent import KernelForm, enabled, supported

from .pieces import Snapshots, in_pieces
from .schema import NO_SECOND, register
from .schema import flat as flattened


@dataclass(frozen=True, slots=True)
class Arguments:
    """What the operator is called with; tensors as in `run.run`, and all of them in order.

    form          `kernel`, `chunk` or `token`
    save          whether what gradients need is saved
    states_every  return the states after every so many tokens; 0: none.  They have no gradients
    """

    inputs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    cu_seqlens: Tensor | None
    attention_mask: Tensor | None
    form: str
    save: bool
    states_every: int = 0

    @property
    def flat(self) -> tuple[Any, ...]:
        """In the order of the schema."""
        more = (self.cu_seqlens, self.attention_mask, self.form, self.save, self.states_every)
        return (*self.inputs, *self.states, *more)


@dataclass(frozen=True, slots=True)
class Result:
    """What the operator returns: y, the state's tensors after the call, the same after every n tokens
    [B, T // n, …], and what was saved."""

    y: Tensor
    after: tuple[Tensor, ...]
    every: tuple[Tensor, ...]
    saved: tuple[Tensor, ...]

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """In the order of the schema."""
        return (self.y, *self.after, *self.every, *self.saved)


class MemoryOp:
    """A memory as a torch operator.

    table     what the runtime knows of the memory
    inputs    names of its inputs, in the operator's order; number ``lead`` has the axes B, T, H
    carried   names of the tensors of its state, in the operator's order; the first ``floating`` of
              them have gradients
    forms     the forms that it has, by name
    saved     how many tensors it saves
    operator  in `torch.ops.miras`; ``derivative`` as well
    """

    def __init__(self, table: MemoryTable, kernels: Recurrence | None = None) -> None:
        self.table = table
        self.inputs = tuple(f.name for f in table.inputs)
        self.lead = next(n for n, f in enumerate(table.inputs) if f.kind in ("token", "gate"))
        weights = [s.name for s in table.states]
        weights += [f"window.{n}" for n in table.window_inputs if table.window]
        self.floating = len(weights)
        self.carried = (*weights, *(("position",) if table.block else ()))
        self.forms: dict[str, Form] = {"token": TokenForm(table)}
        if table.forward is not None:
            self.forms["chunk"] = ChunkForm(table)
        if kernels is not None:
            self.forms["kernel"] = KernelForm(kernels)
        self.saved = max(form.saves() for form in self.forms.values())
        self.operator, self.derivative = register(self)

    def form_on(self, device: torch.device, wide: bool) -> str:
        """The form in which a call on a device computes; ``wide``: in float64."""
        kind = torch.float64 if wide else torch.float32
        if "kernel" in self.forms and enabled() and supported(device, kind):
            return "kernel"
        return "chunk" if "chunk" in self.forms else "token"

    # ------------------------------------------------------------ names

    def arguments(self, flat: Sequence[Any]) -> Arguments:
        """The operator's arguments, from a flat list."""
        first, second = len(self.inputs), len(self.inputs) + len(self.carried)
        return Arguments(tuple(flat[:first]), tuple(flat[first:second]), *flat[second:])

    def result(self, flat: Sequence[Tensor]) -> Result:
        """The operator's result, from a flat list."""
        n = len(self.carried)
        every, saved = flat[1 + n : 1 + 2 * n], flat[1 + 2 * n :]
        return Result(flat[0], tuple(flat[1 : 1 + n]), tuple(every), tuple(saved))

    def call(self, given: Arguments) -> MemoryCall:
        """The checked call; with a mask the tokens that it keeps, packed."""
        inputs = dict(zip(self.inputs, given.inputs, strict=True))
        state = dict(zip(self.carried, given.states, strict=True))
        if given.attention_mask is None:
            return validate(self.table, inputs, state, given.cu_seqlens)
        if given.cu_seqlens is not None:
            raise ValueError("attention_mask is for a padded batch, cu_seqlens for a packed one")
        there = given.attention_mask != 0
        if there.shape != inputs[self.inputs[self.lead]].shape[:2]:
            raise ValueError(
                f"{self.table.name}: attention_mask is {list(there.shape)}, not [B, T]"
            )
        kept = {
            f.name: inputs[f.name][there][None] if f.kind in ("token", "gate") else inputs[f.name]
            for f in self.table.inputs
        }
        return validate(self.table, kept, state, bounds_of_mask(there))

    def forward(self, *flat: Any) -> list[Tensor]:
        """The operator, called with a flat list; returns one."""
        first, second = len(self.inputs), len(self.inputs) + len(self.carried)
        made = self.operator(list(flat[:first]), list(flat[first:second]), *flat[second:])
        return flattened(made)

    def backward(self, *flat: Any) -> list[Tensor]:
        """The derivative, called with a flat list; returns one."""
        first, second = len(self.inputs), len(self.inputs) + len(self.carried)
        third = second + 3 + self.saved
        made = self.derivative(
            list(flat[:first]),
            list(flat[first:second]),
            *flat[second : second + 3],
            list(flat[second + 3 : third]),
            flat[third],
            list(flat[third + 1 :]),
        )
        return flattened(made)

    # ------------------------------------------------------------ what the operators do

    def compute(self, *flat: Any) -> tuple[Tensor, ...]:
        """The operator."""
        given = self.arguments(flat)
        call, form, every = self.call(given), self.forms[given.form], given.states_every
        lead = given.inputs[self.lead]
        snapshots: Snapshots = {}
        with without_autocast(call.device):
            if every:
                most, packed = lead.shape[1] // every, given.cu_seqlens is not None
                computed, snapshots = in_pieces(call, form, every, most, packed)
            elif call.empty:
                computed = Computed(*call.empty_result())
            else:
                computed = form.compute(call, given.save)
            if finite_checks.on():
                finite_checks.require_finite(call, computed.y, {**call.state, **computed.after})
        y = computed.y
        if given.attention_mask is not None:
            y = spread(y, given.attention_mask)
        after = tuple(computed.after.get(n, call.state[n]) for n in self.carried)
        blank = lead.new_empty(0, dtype=call.dtype)
        saved = (*computed.saved, *[blank] * (self.saved - len(computed.saved)))
        kept = tuple(
            snapshots.get(n, x.new_empty(0)) for n, x in zip(self.carried, after, strict=True)
        )
        return _own((*given.inputs, *given.states), Result(y, after, kept, saved).flat)

    def differentiate(self, *flat: Any) -> tuple[Tensor, ...]:
        """The derivative: arguments as `derivative_arguments` gives them."""
        count = len(self.inputs) + len(self.carried)
        tensors, (cu_seqlens, mask, form) = flat[:count], flat[count : count + 3]
        saved = flat[count + 3 : count + 3 + self.saved]
        d_y, *d_states = flat[count + 3 + self.saved :]
        given = self.arguments((*tensors, cu_seqlens, mask, form, True, 0))
        call = self.call(given)
        d_after = dict(zip(self.carried, d_states, strict=False))
        if mask is not None:
            d_y = d_y[mask != 0][None]
        with without_autocast(call.device):
            if call.empty:
                found = {f"state {n}": d for n, d in d_after.items()}
            else:
                own = saved[: self.forms[form].saves()]
                found = self.forms[form].gradients(call, own, d_y, d_after)
        timed = {f.name for f in self.table.inputs if f.kind in ("token", "gate")}
        results = []
        for name, x in zip(self.inputs, given.inputs, strict=True):
            d = found.get(name)
            if d is not None and mask is not None and name in timed:
                d = spread(d, mask)
            results.append(torch.zeros_like(x) if d is None else d)
        results += [found[f"state {name}"] for name in self.carried[: self.floating]]
        return _own([x for x in flat if isinstance(x, Tensor)], results)

    def differentiate_again(
        self, given: Arguments, d_y: Tensor, d_after: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of inputs and states, to be differentiated again: token by token.

        Raises RuntimeError for another form, whose second derivatives are not derived.
        """
        if given.form != "token":
            raise RuntimeError(NO_SECOND)
        # A view of each argument keeps apart how one of them was computed from another.
        tensors = [x.view_as(x) for x in (*given.inputs, *given.states)]
        call = self.call(self.arguments((*tensors, *given.flat[len(tensors) :])))
        y, after = run_token_loop(call)
        if given.attention_mask is not None:
            d_y = d_y[given.attention_mask != 0][None]
        made = [y, *(after[n] for n in self.carried[: self.floating])]
        pairs = [(x, g) for x, g in zip(made, (d_y, *d_after), strict=True) if x.requires_grad]
        wanted = [x for x in tensors if x.requires_grad]
        found = iter(
            torch.autograd.grad(
                [x for x, _ in pairs],
                wanted,
                [g for _, g in pairs],
                create_graph=True,
                allow_unused=True,
            )
        )
        return tuple(next(found) if x.requires_grad else None for x in tensors)


def _own(given: Sequence[Tensor], made: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What an operator returns: contiguous, and in memory that no argument and no other result has."""
    seen = {x.untyped_storage().data_ptr() for x in given if x.numel()}
    results = []
    for x in made:
        x = x.detach().contiguous()
        place = x.untyped_storage().data_ptr()
        if x.numel() and place in seen:
            x = x.clone()
            place = x.untyped_storage().data_ptr()
        seen.add(place)
        results.append(x)
    return tuple(results)
