"""Functions that formulas hold written out, such as `silu`, and what a reader may look up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import sympy as sp

from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.activations import gelu, gelu_slope


class silu(sp.Function):
    """x sigmoid(x), for printing only."""


class silu_slope(sp.Function):
    """The derivative of `silu`, for printing only."""


class gelu_tanh(sp.Function):
    """The tanh approximation of `gelu`, for printing only."""


class gelu_tanh_slope(sp.Function):
    """The derivative of `gelu_tanh`, for printing only."""


Z = sp.Symbol("z", real=True)
SILU = Z * scalars.sigmoid(Z)
GELU_TANH = Z * (1 + sp.tanh(sp.sqrt(2 / sp.pi) * (Z + sp.Rational(44715, 10**6) * Z**3))) / 2
WRITTEN_OUT: Mapping[type[sp.Function], sp.Expr] = {
    silu_slope: SILU.diff(Z),
    silu: SILU,
    gelu_tanh_slope: GELU_TANH.diff(Z),
    gelu_tanh: GELU_TANH,
}
"""Functions of the language that formulas hold written out; derivatives before what they hold."""

DEFINED: Mapping[type[sp.Function], sp.Expr] = {
    gelu: gelu.definition(Z),
    gelu_slope: gelu_slope.definition(Z),
    scalars.asinh: sp.log(Z + sp.sqrt(Z**2 + 1)),
    **WRITTEN_OUT,
}
"""What a reader may want to look up, as formulas of `Z`."""

WORDS: Mapping[type[sp.Function], str] = {
    gelu_slope: "gelu'",
    silu_slope: "silu'",
    gelu_tanh_slope: "gelu_tanh'",
    scalars.absolute: "abs",
    scalars.sign: "exact_sign",
    sp.asinh: "asinh",
}
MOST_OPERATIONS = 200
"""Operations of a formula beyond which no function is looked for in it."""


@lru_cache(maxsize=4096)
def with_named_functions(formula: sp.Expr) -> sp.Expr:
    """A formula with those functions of the language named that it holds written out."""
    held = formula.atoms(scalars.sigmoid, sp.tanh)
    if not held or sp.count_ops(formula) > MOST_OPERATIONS:
        return formula
    # What such a function may be of: any part that stands inside one of its ingredients.
    inside = {part for atom in held for part in sp.preorder_traversal(atom.args[0])}
    places = [part for part in inside if part.free_symbols]
    for place in sorted(places, key=lambda p: (sp.count_ops(p), sp.default_sort_key(p))):
        for function, written in WRITTEN_OUT.items():
            pattern = written.xreplace({Z: place})
            if pattern.atoms(scalars.sigmoid, sp.tanh) <= held:
                formula = formula.subs(pattern, function(place))
    return formula
