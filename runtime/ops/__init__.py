"""The tensor operations that generated torch code calls."""
