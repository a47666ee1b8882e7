"""Random formulas of tokens and gates, written out as `.mem` text."""

from __future__ import annotations

from random import Random

NUMBERS = ("0.5", "2", "-1.25", "3", "0.1")
UNARY = (
    "tanh({})", "sigmoid({})", "sin({})", "cos({})", "abs({})", "silu({})", "gelu({})", "erf({})",
    "gelu_tanh({})", "relu({})", "softplus({})", "sign({})", "exp(-softplus({}))", "-({})",
    "sqrt(1 + abs({}))", "log(1 + exp({}))", "cosh(tanh({}))", "sinh(tanh({}))", "({})^2", "({})^3",
    "clip({}, -0.5, 0.75)", "2^(tanh({}))", "0.3^(sigmoid({}) * head)",
)  # fmt: skip
BINARY = (
    "{} + {}", "({}) - ({})", "({}) * ({})", "({}) / (1.5 + tanh({}))", "max({}, {})",
    "min({}, {})", "({}) * head / heads - ({})", "where({} <= {}, tanh({}), 2 * {})",
    "exp(tanh({})) / (1 + exp({}))", "where({} > 0 and {} < 1, {}, 0.25)",
)  # fmt: skip
VECTORS = ("normalize({})", "softmax(tanh({}))", "layernorm({})", "topk({}, 2)")
NUMBERS_OF = ("sum({})", "mean({})", "norm({})", "dot({}, {})", "norm({}, 3)")
FEATURES = (
    "x", "shift(x)", "tanh(linear(x, size = 6))", "x + 0.5 * (shift(x) - x)", "conv(x, width = 3)",
    "silu(linear(shift(x), size = 5))", "topk(x, 5)",
)  # fmt: skip
DECAYS = (
    "sigmoid({})", "exp(-softplus({}))", "exp(-exp(param(0.3)) * softplus({} + param(-1)))",
    "sigmoid({})^(1 / 16)", "sqrt(sigmoid({}))", "1 - sigmoid({})",
    "sigmoid({}) / (2 + softplus({}))", "exp(-0.6 * sigmoid({}))", "sigmoid({}) * sigmoid({})",
    "0.75 * sigmoid({})^2", "1 - 2^(-head - softplus({}))", "exp(-2^(-8 * head / heads)) * sigmoid({})",
)  # fmt: skip
"""Formulas in [0, 1] whose logarithm is derived."""
TAKEN = (
    "0.9 + 0.1 * sigmoid({})", "clip(tanh({}), 0, 1)", "max(sigmoid({}), 0.25)",
    "1 / (1 + exp({}))", "1 - 1 / (head + 1 + abs({}))", "sigmoid({}) / (1 + softplus({}))",
)  # fmt: skip
"""Formulas whose logarithm, or a part of it, has to be taken."""


def fill(random: Random, template: str, *made: str) -> str:
    """A template with its holes filled, each by one of some texts."""
    return template.format(*(random.choice(made) for _ in range(template.count("{}"))))


def leaf(random: Random, axis: str, names: tuple[str, ...]) -> str:
    """A learned map, a learned constant or a name."""
    kinds = [
        lambda: f"linear({random.choice(FEATURES)})",
        lambda: f"linear({random.choice(FEATURES)}, rank = 3)",
        lambda: f"param[{axis}]" if axis else f"param({random.choice(NUMBERS)})",
        lambda: random.choice(names) if names else "linear(x)",
        lambda: f"shift({random.choice(names)})" if names else "linear(shift(x))",
    ]
    return random.choice(kinds)()


def formula(random: Random, axis: str, depth: int, names: tuple[str, ...] = ()) -> str:
    """A number per token, or a vector on ``axis``; ``names`` are vectors that it may use."""
    if depth == 0:
        return leaf(random, axis, names if axis else ())
    inner = [formula(random, axis, depth - 1, names) for _ in range(2)]
    kinds = [UNARY, BINARY, BINARY]
    if axis:
        kinds.append(VECTORS)
        inner.append(f"{formula(random, '', depth - 1)} * {leaf(random, axis, names)}")
    elif names:
        name = random.choice(names)
        product = f"{leaf(random, 'key', names)} * {name}"
        return fill(random, random.choice(NUMBERS_OF), name, product)
    return fill(random, random.choice(random.choice(kinds)), *inner)


def memory(random: Random, derived: bool) -> str:
    """A memory whose tokens and gates are random formulas."""
    axis = random.choice(("", "key"))
    inner = [formula(random, axis, random.choice((0, 1))) for _ in range(2)]
    decay = fill(random, random.choice(DECAYS if derived else TAKEN), *inner)
    rate = "1 - alpha" if not axis and random.random() < 0.5 else "sigmoid(linear(x))"
    query = random.choice((formula(random, "key", 1), f"linear({random.choice(FEATURES)})"))
    return f"""
memory Drawn(d) {{
  tokens       {{ query = {query}
                 key = {random.choice((leaf(random, "key", ()), "linear(x)", "conv(linear(x))"))}
                 value
                 extra[key] = {formula(random, "key", 2, ("key", "mix"))}
                 bonus[value] = ({formula(random, "", 2, ("key", "extra"))}) * value }}
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  read         W @ (query + extra) + skip * value + bonus
  gates        {{ alpha{f"[{axis}]" if axis else ""} = {decay}
                 eta = {rate}
                 mix[key] = {formula(random, "key", 2)}
                 skip = {formula(random, "", 2, ("mix",))} }}
}}
layer Around = Drawn with conv(2), silu, normalize(query, key), output_gate
"""
