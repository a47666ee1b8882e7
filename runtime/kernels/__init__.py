"""Launching Triton kernels, and what Triton lacks."""
