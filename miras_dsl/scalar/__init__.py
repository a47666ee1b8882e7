"""Scalar functions as sympy functions, with stated derivatives, values and inverses."""
