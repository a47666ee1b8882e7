"""What a memory carries first for a weight that begins positive: the potential's slope there."""

from __future__ import annotations

import sympy as sp

from miras_dsl.codegen.model.types import InitialValue, MemoryModel
from miras_dsl.ir import Number
from miras_dsl.scalar.monotone_inverse import UNKNOWN

from .potential import NoLink, entropy, potential_gradient


def initial_mass(model: MemoryModel, weight: str) -> sp.Expr:
    """What the rows of a weight that begins positive sum to: 1, unless they lie on a simplex."""
    total = model.formulas_of(weight).mass
    return total.value if isinstance(total, Number) else sp.Integer(1)


def initial_dual(model: MemoryModel, weight: str) -> InitialValue:
    """What is carried first.  Raises NoLink where a number that comes with the tokens decides it, or
    where no small positive weight lies in the potential's domain."""
    mass = initial_mass(model, weight)
    if model.formulas_of(weight).mass is not None:
        _, factor = entropy(model, weight)
        slope, low, high = factor * sp.log(UNKNOWN), sp.Integer(0), sp.S.Infinity
    else:
        _, study = potential_gradient(model, weight)
        slope, low, high = study.formula, study.low, study.high
    if slope.free_symbols - {UNKNOWN}:
        raise NoLink(
            "the weights begin positive, and what is carried for them would need a gate "
            "before the first token"
        )
    if low > 0 or high <= 0:
        raise NoLink("the weights begin positive and small, where this potential is no number")
    return InitialValue(mass if high.is_infinite else sp.Min(mass, high / 2), slope)
