"""Launching token-by-token Triton kernels, and functions that Triton lacks."""
