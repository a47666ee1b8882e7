"""Token-by-token kernels as Triton text."""
