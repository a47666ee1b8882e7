"""Operations that go row after row, opened into blocks of 16 rows and products between the blocks.

An inverse or a substitution of n rows is n steps that wait for one another, each too small to be a
product of matrices.  Of 16 rows it fits into registers, and products do the rest.
"""

from __future__ import annotations

from miras_dsl.ir import ForwardSubstitution, Inverse, Node, Program, postorder, with_operands

from .blocks.axes import block_widths
from .blocks.inverse import open_inverse
from .blocks.substitution import open_substitution


def lower_blocks(program: Program, tokens: int) -> Program:
    """The same program, for chunks of so many tokens, with every `Inverse` and `ForwardSubstitution`
    opened: those that are left have 16 rows.

    The sizes of its further axes are those of `block_sizes`.  Raises ValueError unless ``tokens`` is a
    multiple of 16.
    """
    widths = block_widths(tokens)
    made: dict[Node, Node] = {}
    for node in postorder(root for _, root in program.results):
        new = with_operands(node, made) if node.operands else node
        match new:
            case Inverse():
                made[node] = open_inverse(new, widths)
            case ForwardSubstitution():
                made[node] = open_substitution(new, widths)
            case _:
                made[node] = new
    return program.with_results(made)
