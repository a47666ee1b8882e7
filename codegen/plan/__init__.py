"""Stage 7: how a program is computed. Regions, precision, padding, kernels."""
