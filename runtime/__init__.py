"""Loads, runs, checks and trains generated code.  Needs torch."""
