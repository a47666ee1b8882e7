"""The library of biases, networks, retentions and algorithms, and calls of its definitions."""
