"""Training a small language model on text, resumable to the bit."""
