"""Text to syntax tree: the grammar, the parser and the hints for common slips."""
