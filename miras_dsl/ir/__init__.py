"""Tensors with named axes: the one language of stages 3 to 6.

A node is immutable and interned: two nodes that say the same thing are the same object, so equality
is identity, sharing is automatic and a formula of any size hashes in constant time.

Axes are names.  A contraction names the axes it sums, everything else is united by name, and there is
no transpose: in which order an array stores its axes is a decision of the plan.  Batch, head and chunk
are never written: every node is computed for each of them.  The axes `I, J, L, M` count tokens of one
chunk; a rule that runs token by token has the same operations without them.

The operations
    Input · Number · Extent                 leaves; Extent is the size of an axis as a number
    Map                                     a sympy formula, elementwise; operands broadcast by name
    Contract                                sum of products over shared axes
    Reduce · Spread · Rename                sum or max over axes; repeat along axes; other names
    Cumsum · Shift · Last · Put             along tokens: running sum, one token later, the last row
    Mask · Decay                            lower triangle of [i, j]; e^(a_i - b_j) on it
    GatedContract · GatedApply              products with a decay per channel, each other's adjoint
    Inverse                                 (1 + A)^-1 for a strictly lower A
    Substitute                              g_i = body(p_i + sum_j A_ij g_j), row after row
"""

from .axes import (
    HEADS,
    KEY,
    PAIR,
    VALUE,
    Axes,
    Axis,
    AxisRole,
    I,
    J,
    L,
    M,
    Role,
    Triangle,
    axes_of,
    axis_names,
    axis_of,
    features,
    hidden,
    is_token_axis,
    ordered,
)
from .builders import contract, reduce_mean, reduce_sum, rename
from .nodes import (
    ONE,
    ZERO,
    AxisSize,
    Broadcast,
    Contract,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    Input,
    Inverse,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Shift,
    TakeLast,
    broadcast,
    constant,
    elementwise,
    formula,
    is_zero,
)
from .program import Label, Program, inputs_of, postorder, substitute, with_operands

__all__ = [
    "HEADS",
    "KEY",
    "ONE",
    "PAIR",
    "VALUE",
    "ZERO",
    "Axes",
    "Axis",
    "AxisRole",
    "AxisSize",
    "Broadcast",
    "Contract",
    "Cumsum",
    "Decay",
    "ForwardSubstitution",
    "GatedApply",
    "GatedContract",
    "I",
    "Input",
    "Inverse",
    "J",
    "L",
    "Label",
    "M",
    "Map",
    "Mask",
    "Node",
    "Number",
    "PlaceLast",
    "Program",
    "Reduce",
    "Rename",
    "Role",
    "Shift",
    "TakeLast",
    "Triangle",
    "axes_of",
    "axis_names",
    "axis_of",
    "broadcast",
    "constant",
    "contract",
    "elementwise",
    "features",
    "formula",
    "hidden",
    "inputs_of",
    "is_token_axis",
    "is_zero",
    "ordered",
    "postorder",
    "reduce_mean",
    "reduce_sum",
    "rename",
    "substitute",
    "with_operands",
]
