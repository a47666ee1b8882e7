"""A compiler for sequence-model memories."""
