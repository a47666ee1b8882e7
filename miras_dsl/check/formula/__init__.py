"""Formulas: names resolved, shapes unified, numbers folded, ranges computed."""
