"""What the real functions of one number have in common."""

from __future__ import annotations

import sympy as sp


class RealFunction(sp.Function):
    """A real function of one number; ``definition`` gives it in sympy's own functions, for values."""

    nargs = 1
    is_real = True

    @classmethod
    def definition(cls, x: sp.Expr) -> sp.Expr:
        raise AssertionError(f"{cls.__name__} has no definition")

    def _eval_evalf(self, prec: int) -> sp.Expr:
        return self.definition(self.args[0])._evalf(prec)
