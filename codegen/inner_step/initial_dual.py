"""What a memory carries first for a weight that begins positive: the potential's slope there."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from miras_dsl.scalar.monotone_inverse import UNKNOWN
from miras_dsl.spec import MemorySpec, Number

from .potential import NoLink, entropy, potential_gradient


@dataclass(frozen=True, slots=True)
class InitialDual:
    """slope: a formula of the first weight; mass: what each of its rows sums to."""

    slope: sp.Expr
    mass: sp.Expr


def initial_mass(spec: MemorySpec) -> sp.Expr:
    """What the rows of a weight that begins positive sum to: 1, unless they lie on a simplex."""
    total = spec.retention.simplex
    return total.value if isinstance(total, Number) else sp.Integer(1)


def initial_dual(spec: MemorySpec, weight: str) -> InitialDual:
    """What is carried first.  Raises NoLink where a number that comes with the tokens decides it, or
    where no small positive weight lies in the potential's domain."""
    mass = initial_mass(spec)
    if spec.retention.simplex is not None:
        _, factor = entropy(spec, weight)
        slope, low, high = factor * sp.log(UNKNOWN), sp.Integer(0), sp.S.Infinity
    else:
        _, study = potential_gradient(spec, weight)
        slope, low, high = study.formula, study.low, study.high
    if slope.free_symbols - {UNKNOWN}:
        raise NoLink(
            "the weights begin positive, and what is carried for them would need a gate "
            "before the first token"
        )
    if low > 0 or high <= 0:
        raise NoLink("the weights begin positive and small, where this potential is no number")
    return InitialDual(slope, mass if high.is_infinite else sp.Min(mass, high / 2))
