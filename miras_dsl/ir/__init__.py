"""Tensors with named axes: the one language of stages 3 to 7.

A node is immutable and interned: two nodes of the same class with the same fields are the same object.
So equality is identity, a formula that occurs twice is stored once, and hashing takes constant time.

Axes are names.  A contraction names the axes that it sums over, operands of everything else are
matched by the names of their axes, and there is no transpose: in which order an array stores its axes
is a decision of the plan.  Axes of batch, head and chunk are never written: every node is computed for
each of them.  The axes `I, J, L, M` count tokens of one chunk; a rule that runs token by token uses the
same operations without these axes.

The operations
    Input · Number · AxisSize               leaves; AxisSize is the size of an axis, as a number
    Map                                     a sympy formula, elementwise; operands broadcast by name
    Contract                                sum of products over shared axes
    Reduce · Broadcast · Rename             sum or max over axes; repeat along axes; other axis names
    Cumsum · Shift                          along tokens: running sum; one token later or earlier
    TakeLast · PlaceLast                    the last row; a row placed last among zeros
    Split · Join                            one axis as two, block and row in it; two as one
    Mask · Decay                            keep a triangle of [i, j]; e^(a_i - b_j) on a triangle
    GatedContract · GatedApply              products with a decay per channel, each other's adjoint
    GatedSpan                               the gradient of the logarithm of such a decay
    Inverse                                 (1 + A)^-1 for a strictly lower triangular A
    ForwardSubstitution                     g_i = body(p_i + sum_j A_ij g_j), row after row
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
from .builders import contract, formula, is_zero, reduce_mean, reduce_sum, rename
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
    GatedSpan,
    Input,
    Inverse,
    Join,
    Map,
    Mask,
    Node,
    Number,
    PlaceLast,
    Reduce,
    Rename,
    Shift,
    Split,
    TakeLast,
    broadcast,
    constant,
    elementwise,
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
    "GatedSpan",
    "I",
    "Input",
    "Inverse",
    "J",
    "Join",
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
    "Split",
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
