"""What the generator of random specs chooses from: the text of each value on each axis.

`{rate}` in a rule and `{c}` in a formula are filled in by `generate`, which declares the gates named.
"""

from __future__ import annotations

from collections.abc import Mapping

ARCHITECTURES: Mapping[str, str] = {
    "matrix": "W: matrix[value, key]",
    "library matrix": "matrix",
    "learned matrix": "W: matrix[value, key] = learned",
    "positive matrix": "W: matrix[value, key] = positive",
    "vector": "h: vector[d]",
    "mlp": "mlp(hidden = 2 * d, activation = gelu)",
    "residual mlp": "mlp(hidden = 2 * d, activation = silu, residual, layernorm)",
    "mlp with shifts": "mlp(hidden = 3 * d, activation = tanh, bias, layernorm, residual)",
    "deep mlp": "mlp(hidden = 2 * d, activation = gelu_tanh, depth = 3, residual)",
    "positive mlp": "mlp(hidden = 2 * d, activation = gelu, residual, init = positive)",
    "glu": "glu(2 * d, act = silu)",
    "network in place": "{ A: matrix[value, 2 * d]   B: matrix[2 * d, key]   c: vector[value]\n"
    "                 M(z) = layernorm(A @ sin(B @ z)) + c * z }",
}
BIASES: Mapping[str, tuple[str, float]] = {
    # name: text, and a rate at which repeated writes of one pair do not diverge
    "l2": ("l2", 1.0),
    "dot": ("dot", 1.0),
    "l2_full": ("l2_full", 0.5),
    "lp": ("lp(3)", 0.05),
    "lp_smooth": ("lp_smooth(2.5)", 0.1),
    "huber": ("huber(delta)", 1.0),
    "huber_norm": ("huber_norm(delta)", 1.0),
    "huber_mixture": ("huber_mixture(delta)", 0.1),
    "value_shift": ("value_shift(0.5)", 0.1),
    "logcosh": ("logcosh", 1.0),
    "pinball": ("pinball(0.3)", 0.5),
    "in place": ("{outside}", 0.5),
    "rows together": ("sqrt(1 + sum((M(key) - value)^2))", 1.0),
    "mean": ("mean(log(cosh(r)))", 1.0),
    "divided by a gate": ("kappa * sum(log(cosh(r / kappa)))", 1.0),
    "divided by a size": ("sum((M(key) - value)^2) / {size}", 0.5),
    "weighted": ("beta * sum((M(key) - value)^2) / 2", 1.0),
    "two terms": ("erase: sum(M(key)^2) / 2, store: -dot(M(key), value)", 1.0),
    "given": ("write tanh(M(key) - value) at key", 1.0),
}
RETENTIONS: Mapping[str, str] = {
    "none": "none",
    "constant": "decay 0.95",
    "l2": "l2(alpha)",
    "decay in place": "decay alpha",
    "signed decay": "decay alpha",
    "softmax at chunk": "kl(alpha) at chunk",
    "softmax at token": "kl(alpha, c = 2) at token",
    "bounded at chunk": "bounded(alpha, c = 2) at chunk",
    "soft at token": "soft(alpha, 0.02) at token",
    "soft at chunk": "soft(alpha, 0.02) at chunk",
    "potential at chunk": "decay alpha  bregman w^2 / 2 + w^4 / 4  at chunk",
    "link at token": "decay alpha  link tanh(a)  at token",
    "kinked potential at token": "decay alpha  bregman w^2 / 2 + abs(w) / 20  at token",
    "power potential at token": "decay alpha  bregman abs(w)^1.5  at token",
    "sum of powers at token": "decay alpha  bregman abs(w)^3 / 3 + w^2 / 4  at token",
    "half line at token": "decay alpha  bregman w^2 / 4 - sqrt(w)  at token",
    "signed factor at token": "decay alpha  bregman (gamma - 1)^2 * w^2 + cosh(w)  at token",
    "kinked potential at chunk": "decay alpha  bregman w^2 / 2 + w^4 / 4 + abs(w) / 20  at chunk",
    "scaled penalty": "decay alpha  penalty 20 * (w - w0)^2 + abs(gamma * w) / 4  at token",
    "kinks of a penalty": "penalty 20 * (w - w0)^2 + abs(w - w0) / 50 + max(-w, 0)^2 + w^4  at token",
    "elastic net": "penalty 20 * (w - w0)^2 + w^2 / 20 + abs(w) / 100 at token",
}
RULES: Mapping[str, str] = {
    "gd": "gd({rate})",
    "momentum": "momentum({rate}, mu = mu)",
    "gd in place": "{{ W = keep(W) - {rate} * grad }}",
    "signed momentum": "{{ carry S   S = nu * S - {rate} * grad   W = keep(W) + S }}",
    "heavy ball": "{{ carry S   S = mu * S + grad   W = keep(W) - {rate} * S }}",
    "look ahead": "{{ carry S   S = mu * S - {rate} * grad   W = keep(W) + mu * S }}",
}
SCHEDULES: Mapping[str, str] = {
    "exact": "exact",
    "anchored": "anchored(8)",
    "anchored, read at start": "anchored(8, reads = start)",
    "two sweeps": "anchored(8, sweeps = 2)",
    "three sweeps": "anchored(8, sweeps = 3)",
    "steps": "steps(2), exact",
    "pairs": "pairs(2), exact",
    "window": "window(3, 0.8), exact",
    "anchored window": "window(3, 0.8), anchored(8)",
    "implicit": "implicit",
    "reset": "exact, reset(12)",
}
SHAPES = ("scalar", "key", "value", "row")
OUTSIDES = (
    "sum(log(cosh({c} * r)))",
    "sum(sqrt({c} + r^2))",
    "sum(r^2 / ({c} + r^2))",
    "sum(abs(r)^1.5) / 2",
    "sum(max(r, 0)^2 + {c} * r^2) / 4",
    "sum(softplus({c} * r) + softplus(-{c} * r))",
    "norm(r) + {c} * sum(r^2) / 4",
    "sum(exp(-{c} * r^2 / 2) * -1)",
)
