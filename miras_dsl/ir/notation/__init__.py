"""Nodes and programs as formulas for people: in the notation of the language, and as LaTeX."""
