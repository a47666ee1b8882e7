"""Running a generated memory over a sequence: chunks, tokens, packed batches, windows."""
