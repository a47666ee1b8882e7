"""What the derivation cannot give a meaning to: the user sees it as a coded diagnostic."""

from __future__ import annotations


class DerivationError(Exception):
    """A sentence about the user's rule; ``code`` has a page, ``help`` is a way out."""

    code = ""
    help = ""


class ConflictingClauses(DerivationError):
    """Words that mean nothing together."""

    code = "M0608"
    help = "leave one of them out"
