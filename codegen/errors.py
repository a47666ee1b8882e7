"""Errors of the derivation: a rule that is well formed but has no meaning.

`pipeline.compile_memory` turns them into coded diagnostics for the user.
"""

from __future__ import annotations


class DerivationError(Exception):
    """The message is a sentence about the user's rule.

    code  of the diagnostic (a page in `miras_dsl/errors`)
    help  how to mend the rule
    """

    code = ""
    help = ""


class ConflictingClauses(DerivationError):
    """Two clauses of a memory that exclude each other."""

    code = "M0608"
    help = "leave one of them out"
