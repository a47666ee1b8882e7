"""Stages 4 and 5: the update rule of one token, and its chunkwise form."""
