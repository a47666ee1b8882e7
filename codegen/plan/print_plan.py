"""A plan as text: what `miras explain --stage plan` shows."""

from __future__ import annotations

from collections.abc import Iterable

from miras_dsl.ir import Node, Number
from miras_dsl.ir.notation.printer import Printer
from miras_dsl.ir.notation.style import TEXT

from .kernel_plan import (
    Along,
    AtBlock,
    Carry,
    Compute,
    Exchange,
    Kernel,
    KernelPlan,
    Phase,
    Statement,
    Walk,
)
from .naming import shape_comment
from .partition import stored_as

TITLES = {
    Phase.FORWARD: "forward",
    Phase.BACKWARD: "backward",
    Phase.STEP: "one token",
}


def print_plan(plan: KernelPlan) -> str:
    """Kernels in the order of their launches, with every value they compute; buffers; reasons."""
    printer = _PlanPrinter(plan)
    chunks = f", in chunks of {plan.chunk} tokens" if plan.chunk > 1 else ""
    lines = [f"{plan.name}: {plan.family}, for {plan.target}{chunks}"]
    lines += [f"  {line}" for line in plan.why]
    for phase in Phase:
        kernels = plan.kernels_of(phase)
        if kernels:
            lines.append(TITLES[phase])
        for kernel in kernels:
            lines += [f"  {line}" for line in printer.kernel(kernel)]
    if plan.buffers:
        lines.append("buffers")
        for buffer in plan.buffers:
            kept = ", kept for the backward pass" if buffer.saved else ""
            name = plan.values[buffer.value].name
            shape = shape_comment(buffer.order)
            lines.append(f"  {name} {shape} for every {buffer.per.value}{kept}")
    for row in plan.rows:
        holes = ", ".join(hole.name for hole in row.holes)
        names = {v.node: v.name for v in row.values}
        body = Printer(TEXT, {n: name for n, name in names.items() if n is not row.result})
        lines.append(f"row {row.name.lstrip('_')}({holes}) = {body.text(row.result)}")
    return "\n".join(lines)


class _PlanPrinter:
    """Prints statements; each value by its name where another one reads it."""

    def __init__(self, plan: KernelPlan) -> None:
        self.plan = plan
        names: dict[str, dict[Node, str]] = {}
        for value in plan.values:
            names.setdefault(value.scope, {})[value.node] = value.name
        self.printers = {scope: Printer(TEXT, found) for scope, found in names.items()}

    def kernel(self, kernel: Kernel) -> list[str]:
        grid = [
            f"every {a.value}" if isinstance(a, Along) else f"parts of {a}" for a in kernel.grid
        ]
        shared = (
            f", shared by {kernel.group[1]} programs along {kernel.group[0]}"
            if kernel.group
            else ""
        )
        where = f" for {', '.join(grid)}" if grid else ""
        lines = [f"{kernel.name}{where}{shared}", f"  reads {self._names(kernel.reads)}"]
        lines += [f"  {line}" for line in self._body(kernel.body)]
        return [*lines, f"  writes {self._names(kernel.writes)}"]

    def _body(self, body: Iterable[Statement]) -> list[str]:
        lines: list[str] = []
        for statement in body:
            match statement:
                case Compute(values):
                    lines += [self._value(id) for id in values]
                case Walk(along, step, carry, inner):
                    way = "from the last to the first" if step < 0 else "from the first to the last"
                    lines.append(
                        f"{along.value} by {along.value}, {way}, carrying {self._carried(carry)}"
                    )
                    lines += [f"  {line}" for line in self._body(inner)]
                case AtBlock(when, carry, inner, results):
                    more = f", giving {self._names(results)}" if results else ""
                    lines.append(f"at the {when.value} of a block, {self._carried(carry)}{more}")
                    lines += [f"  {line}" for line in self._body(inner)]
                case Exchange(values, over, lag, inner):
                    late = " of the turn before" if lag else ""
                    lines.append(f"sum {self._names(values)}{late} over the programs along {over}")
                    lines += [f"  {line}" for line in self._body(inner)]
        return lines

    def _value(self, id: int) -> str:
        value = self.plan.values[id]
        kept = "" if value.dtype == "float32" else f" {value.dtype}"
        summed = "" if value.accumulate == "float32" else f" summed in {value.accumulate}"
        text = self.printers[value.scope].text(stored_as(value.node))
        return f"{value.name} {shape_comment(value.node.axes)}{kept}{summed} = {text}"

    def _carried(self, carry: Iterable[Carry]) -> str:
        """What becomes of carried values; one that stays as it is has its name alone."""
        found = []
        for each in carry:
            state, after = (self.plan.values[id] for id in (each.state, each.next))
            name = str(after.node.value) if isinstance(after.node, Number) else after.name
            found.append(state.name if after is state else f"{state.name} <- {name}")
        return ", ".join(found) or "nothing"

    def _names(self, ids: Iterable[int]) -> str:
        names = []
        for id in ids:
            node = self.plan.values[id].node
            names.append(str(node.value) if isinstance(node, Number) else self.plan.values[id].name)
        return ", ".join(names) or "nothing"
