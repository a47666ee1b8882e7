"""Stage 7, token by token: what the Triton kernels of a vector or matrix rule are made of.

One program of the launch owns one head of one sequence and, where nothing couples the value axis,
one block of it.  The state stays on chip; the backward kernel walks segments from the last to the
first, computes a segment's states again from its checkpoint, and walks its tokens in reverse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sympy as sp

from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.cse import eliminate_in_program, is_call
from miras_dsl.ir import (
    KEY,
    VALUE,
    AxisSize,
    Broadcast,
    Contract,
    Input,
    Map,
    Node,
    Number,
    Program,
    Reduce,
    Rename,
    Role,
    broadcast,
    inputs_of,
    is_zero,
    postorder,
)
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.scalar.monotone_inverse import monotone_inverse

AXES = frozenset({VALUE, KEY})
"""The axes of a tile: its rows and its columns."""


EdgePrograms = tuple[Program, Program]
"""A change of the states beside the step, and its adjoint."""


@dataclass(frozen=True, slots=True)
class RecurrentPlan:
    """The programs of the two kernels, and how the work is split.

    tokens     inputs of every token, in the order of the kernels' parameters
    constants  inputs of every head
    states     what is carried
    step       one token: `y` and the new states
    walk       the same without `y`, for computing states again
    back       the adjoint of ``step``
    refresh    what the states become where a block begins, and its adjoint
    close      what they become where it has ended, and its adjoint
    block      tokens of a block, 0 where there are none
    micro      steps that one token takes
    position   whether the step counts its place in the block
    split      programs share out the value axis in blocks
    why        what keeps the value axis together, if anything does
    partial    results of ``back`` that are shares of a sum over the blocks
    """

    rule: UpdateRule
    tokens: tuple[Input, ...]
    constants: tuple[Input, ...]
    states: tuple[Input, ...]
    step: Program
    walk: Program
    back: Program
    refresh: EdgePrograms | None
    close: EdgePrograms | None
    block: int
    micro: int
    position: bool
    split: bool
    why: str
    partial: frozenset[str]


def unsupported_reason(rule: UpdateRule) -> str:
    """Why a rule has no kernels of this kind; empty when it has."""
    results = (*rule.program.results, *rule.refresh, *rule.close)
    nodes = postorder([node for _, node in results])
    for node in nodes:
        beyond = set(node.axes) - AXES
        if beyond:
            return f"it has the axis {min(map(str, beyond))}, and a tile has only value and key"
        if isinstance(node, Rename):
            return "it moves a vector from one axis to another"
        if isinstance(node, Map) and node.formula.has(monotone_inverse):
            return "its link is found by Newton steps"
        if not isinstance(node, Input | Number | AxisSize | Map | Contract | Reduce | Broadcast):
            return f"one token needs a {type(node).__name__}, which acts on chunks"
    return ""


def plan_recurrent(rule: UpdateRule) -> RecurrentPlan:
    """Plan the kernels of a rule.  ValueError, with the reason, where `obstacle` finds one."""
    reason = unsupported_reason(rule)
    if reason:
        raise ValueError(f"{rule.name} has no token-by-token kernel: {reason}")
    results = tuple((n, broadcast(r, (VALUE,)) if n == "y" else r) for n, r in rule.program.results)
    step = Program(rule.program.inputs, results, rule.program.carried)
    back = adjoint(step)
    refresh, close = _turn(rule, rule.refresh), _turn(rule, rule.close)
    programs = [(step, back), *(turn for turn in (refresh, close) if turn)]
    inputs = list(dict.fromkeys(x for forward, _ in programs for x in forward.inputs))
    tokens = [x for x in inputs if x.role.per_token and x.role is not Role.POSITION]
    # The first token sets the type of the answers: a token before any gate, earlier tokens last.
    feeds = [feed.name for feed in rule.model.feeds]
    tokens.sort(key=lambda x: feeds.index(x.name) if x.name in feeds else len(feeds))
    why, partial = "", frozenset[str]()
    for forward, _ in programs:
        why = why or _coupling(forward)
    if not why:
        why, partial = _shares(rule, [reverse for _, reverse in programs])
    step, back = (eliminate_in_program(p, is_call) for p in (step, back))
    return RecurrentPlan(
        rule=rule,
        tokens=tuple(tokens),
        constants=tuple(x for x in inputs if x.role is Role.CONSTANT),
        states=rule.states,
        step=step,
        walk=eliminate_in_program(
            Program(step.inputs, tuple(r for r in step.results if r[0] != "y"), step.carried),
            is_call,
        ),
        back=back,
        refresh=_each_shared(refresh),
        close=_each_shared(close),
        block=rule.block,
        micro=rule.micro,
        position=any(x.role is Role.POSITION for x in inputs),
        split=not why,
        why=why,
        partial=partial if not why else frozenset(),
    )


def _turn(rule: UpdateRule, changes: tuple[tuple[str, Node], ...]) -> EdgePrograms | None:
    """What the states become where a block begins or ends, and the adjoint of that."""
    if not changes:
        return None
    becomes = dict(changes)
    results = tuple((s.name, becomes.get(s.name, s)) for s in rule.states)
    others = [x for x in inputs_of(node for _, node in results) if x.role is not Role.STATE]
    program = Program((*others, *rule.states), results, rule.program.carried)
    return program, adjoint(program)


def _each_shared(turn: EdgePrograms | None) -> EdgePrograms | None:
    """A turn whose programs share what they repeat."""
    return turn and (eliminate_in_program(turn[0], is_call), eliminate_in_program(turn[1], is_call))


def _coupling(program: Program) -> str:
    """What ties the rows of a tile to each other in a forward program."""
    for node in postorder(node for _, node in program.results):
        match node:
            case Contract(_, _, over) | Reduce(_, _, over) if VALUE in over:
                return "the rule sums over the value axis"
    return ""


def _shares(rule: UpdateRule, programs: Iterable[Program]) -> tuple[str, frozenset[str]]:
    """The results that each block of the value axis has a share of, or why blocks will not do.

    The adjoint is linear in its cotangents, so a sum over the value axis that is left as one share
    for each block may pass through linear steps only, and may not come back to the value axis.
    """
    carried = {f"d_{s.name}" for s in rule.states if VALUE not in s.axes}
    found: set[str] = set()
    for program in programs:
        partial: dict[Node, bool] = {}
        for node in postorder(node for _, node in program.results):
            partial[node] = isinstance(node, Input) and node.name in carried
            match node:
                case Contract(left, right, over):
                    here = partial[left] or partial[right]
                    if partial[left] and partial[right]:
                        return "the gradient is not linear in a sum over values", frozenset()
                    partial[node] = here or VALUE in over
                case Reduce(kind, x, over):
                    partial[node] = partial[x] or VALUE in over
                    if partial[x] and kind != "sum":
                        return "the gradient takes a maximum of sums over values", frozenset()
                case Broadcast(x, _):
                    partial[node] = partial[x]
                case Map(formula, args):
                    used = {s for s, a in zip(OPERANDS, args, strict=False) if partial[a]}
                    if used and not _linear(formula, used):
                        return "the gradient is not linear in a sum over values", frozenset()
                    partial[node] = bool(used)
            if partial[node] and VALUE in node.axes:
                return "the gradient spreads a sum over values again", frozenset()
        for name, node in program.results:
            x = next(x for x in program.inputs if f"d_{x.name}" == name)
            if VALUE in x.axes:
                continue
            if not partial[node] and not is_zero(node):
                return "a gradient does not come from the value axis", frozenset()
            found.add(name)
    return "", frozenset(found)


def _linear(formula: sp.Expr, used: set[sp.Symbol]) -> bool:
    """Whether a formula is linear in the used symbols together, and 0 where they are."""
    if formula.xreplace(dict.fromkeys(used, sp.Integer(0))) != 0:
        return False
    return all(not formula.diff(symbol).free_symbols & used for symbol in used)
