"""Failures that are nobody's bug: a file, a folder or a run that cannot be used."""

from __future__ import annotations


class Unusable(Exception):
    """Something outside the spec cannot be used; the message is one sentence with a way out."""
