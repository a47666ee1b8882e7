"""Warnings about specs that have a meaning, but probably not the one that was meant."""
