"""A memory as torch text, from its plan: functions for chunks, for one token, and their table."""

from __future__ import annotations

from collections.abc import Sequence

from miras_dsl.codegen.emit.line_wrap import prose, wrap_names
from miras_dsl.codegen.emit.render import render
from miras_dsl.codegen.plan.kernel_plan import Carry, Edge, Kernel, KernelPlan, Phase, walks
from miras_dsl.codegen.plan.naming import identifier_of
from miras_dsl.ir import axis_names

from .functions import Function, FunctionEmitter, with_shared_parts

LONGEST_DOCSTRING = 14
"""Lines of equations in the docstring of a memory."""


def emit_memory(plan: KernelPlan, prefix: str, kernels: str = "") -> str:
    """The functions `m_memory` and `m_step` of a memory, and all that they call.

    prefix   what their names begin with
    kernels  the name of the table of its Triton kernels in the same file, if there is one
    """
    emitter, outside = FunctionEmitter(plan.values, plan.rows, prefix), plan.interface
    looped = [*plan.kernels_of(Phase.FORWARD), *plan.kernels_of(Phase.BACKWARD)]
    ends = [id for phase, _, id in plan.results if phase is not Phase.STEP]
    functions = emitter.functions(looped, ends)
    passes = [_pass(plan, looped, functions, p) for p in (Phase.FORWARD, Phase.BACKWARD)]
    (token,) = (emitter.token(kernel) for kernel in plan.kernels_of(Phase.STEP))
    distinct = list(dict.fromkeys(f for each in functions for f in each))
    (*distinct, token), shared = with_shared_parts([*distinct, token], prefix)
    edges = [emitter.edges(plan.kernels_of(phase)) for phase in (Phase.STEP, Phase.BACKWARD)]
    return render(
        "torch/memory.py.j2",
        {
            "name": prefix,
            "title": plan.name,
            "place": outside.cited,
            "equations": _equations(plan),
            "kernels": kernels,
            "wrap": wrap_names,
            "constant": f"_{prefix}",
            "family": plan.family,
            "why": plan.why,
            "rows": [emitter.row_function(row) for row in plan.rows],
            "shared": shared,
            "functions": distinct,
            "passes": [made for made in passes if made],
            "token": token,
            "token_results": tuple(plan.results_of(Phase.STEP)),
            "edges": [
                (f"at_block_{where.value}", [found.get(where) for found in edges]) for where in Edge
            ],
            "shapes": _shapes(plan),
            "inputs": [(f.name, f.kind, axis_names(f.axes), f.log) for f in outside.inputs],
            "arguments": [f.name for f in outside.inputs],
            "states": [(s.name, identifier_of(s.name), axis_names(s.axes)) for s in outside.states],
            "chunk": plan.chunk,
            "block": plan.block,
            "resets": outside.resets,
            "steps_per_token": outside.steps_per_token,
            "once_per_token": outside.once_per_token,
            "decay_at": outside.decay_at,
            "read_at": outside.read_at,
            "window": outside.window,
            "window_inputs": outside.window_inputs,
            "answer": axis_names(outside.answer),
        },
    )


def _equations(plan: KernelPlan) -> list[str]:
    """The rule for one token as lines of a docstring; a long one is left to the function of a token."""
    lines = [piece for line in plan.interface.equations for piece in prose(line, 8)]
    return lines if len(lines) <= LONGEST_DOCSTRING else []


def _shapes(plan: KernelPlan) -> list[str]:
    """The shapes of inputs and states as lines of a docstring, equal ones together."""
    leads = {"token": "B, T, H", "gate": "B, T, H", "position": "H, block", "constant": "H"}
    found: dict[str, list[str]] = {}
    for feed in plan.interface.inputs:
        axes = [a for a in axis_names(feed.axes) if a != "position"]
        found.setdefault(f"[{', '.join([leads[feed.kind], *axes])}]", []).append(feed.name)
    for state in plan.interface.states:
        shape = f"[{', '.join(['B, H', *axis_names(state.axes)])}]"
        found.setdefault(shape, []).append(f'state["{state.name}"]')
    return [
        piece for shape, names in found.items() for piece in prose(f"{', '.join(names)}  {shape}")
    ]


def _pass(
    plan: KernelPlan,
    kernels: Sequence[Kernel],
    functions: Sequence[Sequence[Function]],
    phase: Phase,
) -> tuple[str, dict[str, list[Function]], list[str], list[str]] | None:
    """The functions of a phase before, in and after its loop; its carried states and its other
    results, as the table has them."""
    carried = {state.name for state in plan.interface.states}
    regions: dict[str, list[Function]] = {"before": [], "loop": [], "after": []}
    states: list[str] = []
    looped = False
    for kernel, found in zip(kernels, functions, strict=True):
        if kernel.phase is not phase:
            continue
        carries = [carry for walk in walks(kernel) for carry in walk.carry]
        states += [_carry(plan, carry) for carry in carries]
        regions["loop" if carries else "after" if looped else "before"] += found
        looped |= bool(carries)
    if not looped:
        return None
    results = [
        name if value.name == name else f"{name}={value.name}"
        for name, value in plan.results_of(phase).items()
        if name.removeprefix("d_" if phase is Phase.BACKWARD else "") not in carried
    ]
    return phase.value, regions, states, results


def _carry(plan: KernelPlan, carry: Carry) -> str:
    """`S_W=S_W_next`: a carried state as an argument, and the value that it has afterwards."""
    return f"{plan.values[carry.state].name}={plan.values[carry.next].name}"
