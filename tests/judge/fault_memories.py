"""The memories, layers, models and programs that faults are planted in."""

from __future__ import annotations

from tests.module.word_memories import EVERYTHING

MATRIX = """
memory {name}(dk, dv) {{
  architecture W: matrix[value, key]
  bias         {bias}
  retention    l2(alpha)
  algorithm    {algorithm}
  order        {order}
  gates        {{ alpha = 0.5 + 0.5 * sigmoid(linear(x))   {gates} }}
}}
"""
NETWORK = """
memory {name}(d) {{
  architecture mlp(hidden = 3, activation = gelu, residual{flags})
  bias         logcosh
  retention    {retention}
  algorithm    {algorithm}
  order        predict, {decay}write, read
  gates        {{ {gates}   eta = sigmoid(linear(x)) / 4 }}
}}
"""
ETA = "eta = sigmoid(linear(x))"
MU = "mu = sigmoid(linear(x)) / 2"
DECAY = "alpha = 0.5 + 0.5 * sigmoid(linear(x))"


def _matrix(name: str, **given: str) -> str:
    usual = {
        "bias": "l2",
        "algorithm": "gd(eta), exact",
        "order": "decay, predict, write, read",
        "gates": ETA,
    }
    return MATRIX.format(name=name, **(usual | given))


def _network(name: str, **given: str) -> str:
    usual = {"flags": "", "retention": "l2(alpha)", "decay": "decay, ", "gates": DECAY}
    return NETWORK.format(name=name, **(usual | given))


TEXTS = {
    "sum": _matrix(
        "Sum", bias="dot", algorithm="gd(1), exact", order="decay, write, read", gates=""
    ),
    "plain sum": """
memory PlainSum(dk, dv) {
  architecture W: matrix[value, key]
  bias         dot
  retention    none
  algorithm    gd(1), exact
  order        write, read
}
""",
    "channels": """
memory Channels(dk, dv) {
  architecture W: matrix[value, key]
  bias         dot
  retention    l2(alpha)
  algorithm    gd(1), exact
  order        decay, write, read
  gates        { alpha[key] = 0.01 + 0.99 * sigmoid(linear(x)) }
}
""",
    "delta": _matrix("Delta"),
    "late decay": _matrix("LateDecay", order="predict, decay, write, read"),
    "pairs": """
memory Pairs(dk, dv, n = 2) {
  tokens       { query[dk]  key[n, dk]  value[n, dv] }
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), pairs(n), exact
  order        decay, predict, write, read
  gates        { alpha = 0.5 + 0.5 * sigmoid(linear(x))   eta[n] = sigmoid(linear(x)) }
}
""",
    "pairs, reset": """
memory PairsReset(dk, dv, n = 2) {
  tokens       { query[dk]  key[n, dk]  value[n, dv] }
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), pairs(n), exact, reset(5)
  order        decay, predict, write, read
  gates        { alpha = 0.5 + 0.5 * sigmoid(linear(x))   eta[n] = sigmoid(linear(x)) }
}
""",
    "rows": """
memory Rows(dk, dv) {
  architecture W: matrix[value, key]
  bias         logcosh
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        predict, decay, write, read
  gates        { alpha[value] = 0.01 + 0.99 * sigmoid(linear(x))   eta[value] = sigmoid(linear(x)) }
}
""",
    "momentum": _matrix(
        "Momentum",
        bias="logcosh",
        algorithm="momentum(eta, mu), exact",
        gates=f"{ETA}   mu = sigmoid(linear(x)) / 2",
    ),
    "power": _matrix("Power", bias="sum(abs(W @ key - value)^1.5)"),
    "by token": _matrix("ByToken").replace("l2(alpha)", "soft(alpha, 0.1) at token"),
    "by token, anchored": _matrix(
        "ByTokenAnchored",
        algorithm="{ W = keep(W) - eta * tanh(grad) }, anchored(4)",
        order="predict, decay, write, read",
    ),
    "network": _network("Network", algorithm="gd(eta), anchored(4)", flags=", layernorm"),
    "sweeps": _network("Sweeps", algorithm="gd(eta), anchored(4, sweeps = 2)"),
    "link": _network(
        "Link", retention="soft(alpha, 0.1) at chunk", algorithm="gd(eta), anchored(4)"
    ),
    "scaled": _network(
        "Scaled",
        retention="none",
        decay="",
        gates="",
        algorithm="gd(eta), anchored(4, scale = 1 / position + param[position])",
    ),
}
"""Small memories, one for each mechanism that can go wrong."""

TEXTS |= {
    "window": _matrix(
        "Window", algorithm="gd(eta), window(3, mu), exact", gates=f"{ETA} / 2   {MU}"
    ),
    "window, anchored": _matrix(
        "WindowAnchored",
        algorithm="gd(eta), window(3, mu), anchored(4)",
        order="predict, decay, write, read",
        gates=f"{ETA} / 8   {MU}",
    ),
    "steps": _matrix("Steps", algorithm="gd(eta), steps(2), exact"),
    "reset": _matrix(
        "Reset",
        bias="dot",
        algorithm="gd(1), exact, reset(5)",
        order="decay, write, read",
        gates="",
    ),
    "implicit": _matrix("Implicit", algorithm="gd(eta), implicit, exact"),
    "penalty": _matrix("Penalty", order="predict, write, read")
    .replace("l2(alpha)", "penalty (w - w0)^2 / (2 * eta) + w^2 / 8 + abs(w) / 20  at token")
    .replace(f"{{ {DECAY}   {ETA} }}", "{ eta = 0.1 + 0.4 * sigmoid(linear(x)) }"),
    "potential": _matrix("Potential").replace(
        "l2(alpha)", "decay alpha  bregman w^4 / 4 + w^2 / 2  at token"
    ),
    "potential at blocks": _matrix(
        "PotentialAtBlocks",
        algorithm="gd(eta), anchored(4)",
        order="predict, decay, write, read",
        gates=f"{ETA} / 8",
    ).replace("l2(alpha)", "decay alpha  bregman w^4 / 4 + w^2 / 2  at chunk"),
    "orthogonal": _matrix(
        "Orthogonal", algorithm="muon(eta, mu), exact", gates=f"{ETA} / 4   {MU}"
    ),
}
TEXTS |= {
    "turning": """
memory Turning(dk, dv) {
  tokens       { query  key  value  key_im[key] }
  architecture S: matrix[value, key, complex]
  bias         -real(dot(S @ complex(key, key_im), value))
  retention    decay polar(alpha, angle)
  algorithm    gd(1), exact
  order        decay, write, read
  read         real(S @ complex(query, key_im))
  gates        { alpha = 0.5 + 0.5 * sigmoid(linear(x))   angle[key] = linear(x) }
}
""",
    "largest": """
memory Largest(dk, dv) {
  architecture { C: matrix[value, key] = zero   m: number   M(z) = C @ z }
  bias         -dot(C @ key, value)
  retention    none
  algorithm    { m = max(fade + keep(m), new)
                 C = keep(C) - exp(new - m) * grad }, exact
  order        write, read
  gates        { fade = -softplus(linear(x))   new = linear(x) }
}
""",
    "two retentions": """
memory TwoRetentions(dk, dv) {
  architecture { S: matrix[value, key] = zero   A: vector[key]   M(z) = S @ z }
  bias         l2
  retention    S: decay alpha, A: decay fade
  algorithm    { A = keep(A) + rate * key^2   S = keep(S) - eta * grad / (1 + A) }, exact
  order        decay, predict, write, read
  gates        { alpha, fade = 0.5 + 0.5 * sigmoid(linear(x))   eta, rate = sigmoid(linear(x)) }
}
""",
}

PROJECTED = """
memory Projected(d) {
  tokens       { query = linear(shift(x) + 0.25 * (x - shift(x)))
                 key = linear(x, rank = 3)   value }
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha[key] = GATE
                 eta = sigmoid(conv(linear(x)) - (linear(x) - param(0.5))) }
}
layer Whole = Projected with conv(3), silu, normalize(query, key), output_gate
"""


def _projected(gate: str) -> str:
    return PROJECTED.replace("GATE", gate)


LAYERS = {
    "layer": _projected("exp(-exp(param(0.5)) * softplus(linear(x) + param[key]))"),
    "layer, product": _projected("sigmoid(linear(x) * (param(0.5) + 2))"),
    "layer, power": _projected("(sigmoid(linear(x)) * 0.9)^(1 / 4)"),
    "layer, complement": _projected("1 - sigmoid(linear(x))"),
    "layer, root": _projected("sqrt(sigmoid(linear(x)) / 2)"),
    "layer, taken": _projected("0.9 + 0.1 * sigmoid(linear(x))"),
    "layer, words": EVERYTHING.replace("layer Around", "layer Whole"),
    "layers": """
memory Fast(d) {
  architecture W: matrix[value, key]
  bias         l2
  retention    none
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) }
}
memory Slow(d) {
  architecture W: matrix[value, key]
  bias         dot
  retention    l2(alpha)
  algorithm    gd(1), exact
  order        decay, write, read
  gates        { alpha = sigmoid(linear(x)) }
}
layer Whole = Fast -> (Fast + Slow) with normalize(query, key), plain_output
""",
}
"""Layers around small memories, one for each part that can go wrong."""

MODELS = {
    "model": LAYERS["layers"]
    .replace("Fast -> (Fast + Slow)", "Slow")
    .replace("plain_output", "output_gate")
    + "model All(width = 8, vocab = 11) = repeat 2 { Whole ; swiglu }\n"
}

IN_BLOCKS = {f"{name} in blocks": name for name in ("delta", "momentum", "rows")}
"""Memories of `TEXTS` whose chunk programs are opened into blocks: an inverse, and substitutions without
and with a decay of their own for each row."""
