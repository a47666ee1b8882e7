"""The first value of a carried dual whose weight begins positive: the potential's slope there."""

from __future__ import annotations

import sympy as sp

from miras_dsl.codegen.model.types import InitialValue, MemoryModel
from miras_dsl.ir import Number
from miras_dsl.scalar.monotone_inverse import UNKNOWN

from .potential import NoLink, entropy, potential_gradient


def initial_mass(model: MemoryModel, weight: str) -> sp.Expr:
    """The sum of each row of a weight that begins positive: the mass of its simplex, 1 without one."""
    total = model.formulas_of(weight).mass
    return total.value if isinstance(total, Number) else sp.Integer(1)


def initial_dual(model: MemoryModel, weight: str) -> InitialValue:
    """How the first dual of a weight is computed from its positive rows.

    Raises NoLink where it would depend on a gate, or where small positive weights lie outside the
    domain of the potential.
    """
    mass = initial_mass(model, weight)
    if model.formulas_of(weight).mass is not None:
        _, factor = entropy(model, weight)
        slope, low, high = factor * sp.log(UNKNOWN), sp.Integer(0), sp.S.Infinity
    else:
        _, gradient = potential_gradient(model, weight)
        slope, low, high = gradient.formula, gradient.low, gradient.high
    if slope.free_symbols - {UNKNOWN}:
        raise NoLink(
            "the weights begin positive, and what is carried for them would need a gate "
            "before the first token"
        )
    if low > 0 or high <= 0:
        raise NoLink("the weights begin positive and small, where this potential is no number")
    return InitialValue(mass if high.is_infinite else sp.Min(mass, high / 2), slope)
