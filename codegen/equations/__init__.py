"""Formulas of a memory for people: which functions they hold, what lines are called, one token."""
