"""What token-by-token kernels compute, and which rules can have them."""
