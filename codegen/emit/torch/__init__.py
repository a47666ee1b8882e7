"""A memory as torch functions."""
