"""Rewrites and analyses of programs: autodiff, inlining, common subexpressions, affine states."""
