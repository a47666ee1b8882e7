"""The oracle: a memory evaluated token by token from its loss, with autograd in float64."""
