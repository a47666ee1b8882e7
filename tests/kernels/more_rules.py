"""Rules beyond the library's that the kernels must take: coupled values, links, blocks, sweeps."""

from __future__ import annotations

HUBER = """
memory Huber(dk, dv) {                       # the length of the error couples the values
  architecture W: matrix[value, key]
  bias         huber_mixture(delta)
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha[value] = sigmoid(linear(x))   eta = sigmoid(linear(x))
                 delta = softplus(linear(x)) }
}
"""
SIMPLEX = """
memory Simplex(dk, dv) {                     # a softmax over padded lanes, and a block's start
  architecture W: matrix[value, key] = positive
  bias         l2
  retention    kl(alpha) at chunk
  algorithm    gd(eta), anchored(4)
  order        predict, decay, write, read
  gates        { alpha[row] = 0.9 + 0.1 * sigmoid(linear(x))   eta = sigmoid(linear(x)) / 4 }
}
"""
SWEEPS = """
memory Sweeps(dk, dv) {                      # two courses of the weights, momentum in each
  architecture W: matrix[value, key]
  bias         logcosh
  retention    l2(alpha)
  algorithm    momentum(eta, mu), anchored(4, sweeps = 2)
  order        decay, predict, write, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) / 4
                 mu = sigmoid(linear(x)) }
}
"""
BOUNDED = """
memory Bounded(dk, dv) {                     # what is read of an empty lane is 1/2, not 0
  architecture W: matrix[value, key]
  bias         lp(3)
  retention    decay alpha  link 1 / (1 + exp(-a)) at token
  algorithm    gd(eta), exact
  order        predict, write, decay, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) / 4 }
}
"""
PAIRS = """
memory Pairs(dk, dv, n = 3) {                # three steps a token, and the decay after them
  tokens       { query[dk]  key[n, dk]  value[n, dv] }
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), pairs(n), exact
  order        predict, write, decay, read
  gates        { alpha[key] = sigmoid(linear(x))   eta[n] = sigmoid(linear(x)) }
}
"""
SCALED = """
memory Scaled(dk, dv) {                      # early steps of a block are larger; blocks end so, too
  architecture W: matrix[value, key]
  bias         l2
  retention    none
  algorithm    gd(eta), anchored(4, scale = max(1 / position + param[position], 0))
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) / 4 }
}
"""
WINDOW = """
memory Window(dk, dv) {                      # each step learns from the last three tokens
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), window(3, mu), exact
  order        predict, decay, write, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) / 4
                 mu = sigmoid(linear(x)) }
}
"""
RESET = """
memory Reset(dk, dv) {                       # empty again after every five tokens
  architecture W: matrix[value, key]
  bias         dot
  retention    l2(alpha)
  algorithm    gd(1), exact, reset(5)
  order        decay, write, read
  gates        { alpha[key] = sigmoid(linear(x)) }
}
"""
TWICE = """
memory Twice(dk, dv) {                       # two steps a token, and empty again after five tokens
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), steps(2), exact, reset(5)
  order        decay, predict, write, read
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) }
}
"""
EARLY = """
memory Early(dk, dv) {                       # two steps a token, and the answer before them
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), steps(2), exact
  order        decay, read, predict, write
  gates        { alpha = sigmoid(linear(x))   eta = sigmoid(linear(x)) }
}
"""
EXTRA = {
    "huber": HUBER,
    "simplex": SIMPLEX,
    "sweeps": SWEEPS,
    "bounded": BOUNDED,
    "pairs": PAIRS,
    "scaled": SCALED,
    "window": WINDOW,
    "reset": RESET,
    "twice": TWICE,
    "early": EARLY,
}
