"""The derivation: from a loss to the text of kernels.  sympy and jinja2; never torch."""
