"""The file that `miras new` writes: a memory to start from, with a comment on every choice."""

from __future__ import annotations

import re
import shlex
from os import PathLike, fspath

TEXT = """\
miras 1

# {name}: say in a line what this memory should remember, and how it should forget.
#
# `miras check {file}` derives the memory and proves it against autodiff.
# `miras explain {file}` shows the derivation.  `miras train {file}` trains a small model.
memory {name}(dk, dv) {{
  # What holds the memory.  W: matrix[value, key] answers W @ key.
  # A deep one, with `memory {name}(d)`: mlp(hidden = 4 * d, residual, layernorm).
  architecture W: matrix[value, key]

  # What it learns from each pair: a number to make small.  r is its error, W @ key - value.
  # From the library: l2, l1, lp(3), huber(delta), huber_mixture(delta), logcosh, pinball(0.3), dot.
  bias         sum(log(cosh(r)))

  # How it keeps what it has.  none, l2(alpha), soft(alpha, gamma) at token, kl(alpha) at chunk …
  retention    decay alpha

  # How it learns.  momentum(eta, mu), exact  or  gd(eta), anchored(64, sweeps = 3)  or …
  algorithm    gd(eta), exact

  # What happens to a token, in order.  It changes the model, so it is always written.
  order        decay, predict, write, read

  # What steers it: formulas over the layer's input x.  [key] or [row] makes a gate a vector.
  gates        {{ alpha = exp(-exp(param(1)) * softplus(linear(x) + param(-4)))
                 eta   = sigmoid(linear(x)) }}
}}

# A layer puts projections around the memory, a model stacks layers.
layer {name}Layer(heads = 4) = {name} with conv(4), silu, normalize(query, key), output_gate
model {name}Model(width = 128, vocab = 256) = repeat 2 {{ {name}Layer ; swiglu }}
"""


def spec_template(name: str) -> str:
    """The text of a commented file with a memory named after ``name``, a file name or any words."""
    file = name.rsplit("/", 1)[-1]
    words = [w for w in re.split(r"[^A-Za-z0-9]+", file.removesuffix(".mem")) if w]
    memory = "".join(w[:1].upper() + w[1:] for w in words)[:48]
    if not memory or not memory[0].isalpha():
        memory = "Memory" + memory
    shown = "".join(c for c in file if c.isprintable()) or "memory.mem"
    return TEXT.format(name=memory, file=memory_name(shown))


def memory_name(name: str | PathLike[str]) -> str:
    """A file name as one types it after a `miras` command: quoted if necessary."""
    quoted = shlex.quote(fspath(name))
    return f"-- {quoted}" if quoted.startswith("-") else quoted
