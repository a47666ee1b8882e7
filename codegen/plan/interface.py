"""What the caller of a memory's kernels must know: inputs, states, blocks, steps of a token."""

from __future__ import annotations

from dataclasses import dataclass

from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.ir import Axes, Input
from miras_dsl.source import NOWHERE, Span

from .line_names import named_lines, style_of


@dataclass(frozen=True, slots=True)
class Interface:
    """The outside of a memory.

    cited           the line of the spec where it stands, and clauses: those of its clauses
    equations       the rule for one token, line by line
    answer          axes of what leaves the memory
    steps_per_token steps that one token takes; of these, the decay acts in step ``decay_at`` and the
                    answer is that of step ``read_at``
    once_per_token  inputs of the decay, which acts in one of the steps only
    window          tokens that each step learns from, 0 for its own only; window_inputs: what it then
                    needs of earlier tokens
    resets          whether a block starts with nothing of the one before
    """

    cited: str
    clauses: tuple[str, ...]
    equations: tuple[str, ...]
    inputs: tuple[MemoryInput, ...]
    states: tuple[Input, ...]
    answer: Axes
    steps_per_token: int
    once_per_token: tuple[str, ...]
    decay_at: int
    read_at: int
    window: int
    window_inputs: tuple[str, ...]
    resets: bool


def interface(rule: UpdateRule) -> Interface:
    """The outside of a rule."""
    model = rule.model
    return Interface(
        cited=source_ref(model.spans.memory),
        clauses=_written_clauses(rule),
        equations=tuple(
            f"{name} = {text}"
            for _, name, text in named_lines(rule.program, style_of(model, rule.state_tensors))
            if name != f"{text}'"
        ),
        inputs=rule.inputs,
        states=rule.states,
        answer=rule.program.result("y").axes,
        steps_per_token=rule.steps_per_token,
        once_per_token=_once_per_token(rule),
        decay_at=_step_of(rule, "decay"),
        read_at=_step_of(rule, "read"),
        window=model.window.width if model.window else 0,
        window_inputs=model.window_inputs,
        resets=bool(model.reset),
    )


def citations(rule: UpdateRule) -> dict[str, str]:
    """The line of each clause, as comments give it: `robust.mem:4 (bias)`."""
    return {c: f"{source_ref(span)} ({c})" for c, span in _clause_spans(rule).items()}


def _clause_spans(rule: UpdateRule) -> dict[str, Span]:
    spans = rule.model.spans
    return {"bias": spans.bias, "retention": spans.retention, "algorithm": spans.algorithm}


def _written_clauses(rule: UpdateRule) -> tuple[str, ...]:
    """Those that stand in the spec; a library's loss brings some with it."""
    spans, found = _clause_spans(rule), citations(rule)
    return tuple(found[clause] for clause, span in spans.items() if span is not NOWHERE)


def input_citations(rule: UpdateRule) -> dict[str, str]:
    """The line of the token or gate that each input is: `input log_alpha` -> `robust.mem:8`."""
    given = {feed.name: feed.span for feed in rule.inputs if feed.span is not NOWHERE}
    return {f"input {name}": source_ref(span) for name, span in given.items()}


def _step_of(rule: UpdateRule, event: str) -> int:
    """Of a token's steps, the one with an event that happens once: the first if it comes before the
    write, else the last."""
    order = rule.model.order
    early = event in order and order.index(event) < order.index("write")
    return 0 if early else rule.steps_per_token - 1


def _once_per_token(rule: UpdateRule) -> tuple[str, ...]:
    if rule.steps_per_token == 1:
        return ()
    signed = {decay.name: decay.signed for decay in rule.model.decay_gates}
    return tuple(f.name for f in rule.inputs if f.of in signed and f.log != signed[f.of])
