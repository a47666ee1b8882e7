"""Files of a stranger who wants the compiler to hang, to fill the memory or to fail: one for each number.

A number gives the same file on every machine: `hostile_file(n)`.
"""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

FUNCTIONS = (
    "exp", "tanh", "sigmoid", "softplus", "gelu", "gelu_tanh", "silu", "sin", "cosh", "erf", "abs",
    "sqrt", "log", "relu", "sign", "exact_sign", "sinh",
)  # fmt: skip
VECTORS = ("layernorm", "softmax", "normalize")
NUMBERS = ("0", "1e300", "1e-300", "9999999999999999999", "1 / 3", "0.1", "16", "2", "1e19", "-1")
BASE = {
    "architecture": "W: matrix[value, key]", "bias": "l2", "retention": "decay alpha",
    "algorithm": "gd(eta), exact", "order": "predict, decay, write, read",
    "gates": "{ alpha, eta = sigmoid(linear(x)) }",
}  # fmt: skip


def memory(head: str = "M(d)", after: str = "", before: str = "", **clauses: str | None) -> str:
    """A file with one memory, some clauses of which are replaced, or left out if they are None."""
    lines = "\n".join(f"  {w} {t}" for w, t in {**BASE, **clauses}.items() if t is not None)
    return f"{before}memory {head} {{\n{lines}\n}}\n{after}"


def hostile_file(number: int) -> tuple[str, str]:
    """(kind, text) of a file."""
    kind = sorted(KINDS)[number % len(KINDS)]
    return kind, KINDS[kind](Random(number))


def _formula(of: str, depth: int, random: Random) -> str:
    """A random formula of the shape of ``of``."""
    if depth == 0:
        return random.choice((of, of, of, random.choice(NUMBERS)))
    inner = partial(_formula, of, depth - 1, random)
    pick = random.randrange(9)
    if pick < 4:
        return f"{random.choice(FUNCTIONS)}({inner()})"
    if pick == 4:
        return f"({inner()})^{random.choice(('2', '3', '16', '-1', '0.5', '(1 / 3)', '-16'))}"
    if pick == 5:
        return f"where({inner()} > {random.choice(NUMBERS)}, {inner()}, {inner()})"
    sign = random.choice(("+", "-", "*", "/"))
    return f"({inner()} {sign} {inner()})"


def _nested(function: str, times: int, of: str) -> str:
    return f"{function}(" * times + of + ")" * times


def _retention(random: Random) -> str:
    kind, names = random.choice((("bregman", "w"), ("link", "a"), ("penalty", "w")))
    formula = _formula(names, random.randint(1, 5), random)
    extra = f"(w - w0)^2 / (2 * eta) + {formula}" if kind == "penalty" else formula
    place = random.choice(("at token", "at chunk"))
    rule = "gd(eta), anchored(8)" if place == "at chunk" else "gd(eta), exact"
    return memory(retention=f"decay alpha  {kind} {extra} {place}", algorithm=rule)


def _network(random: Random) -> str:
    width = random.randint(2, 40)
    weights = " ".join(f"A{n}: matrix[{n + 1} * d, key]" for n in range(width))
    back = " ".join(f"B{n}: matrix[value, {n + 1} * d]" for n in range(width))
    act = random.choice(("gelu", "silu", "tanh"))
    body = " + ".join(f"B{n} @ {act}(A{n} @ z)" for n in range(width))
    rule = random.choice(
        ("gd(eta), exact", "gd(eta), anchored(64, sweeps = 64)", "muon(eta, alpha), anchored(4)")
    )
    return memory(architecture=f"{{ {weights} {back} M(z) = {body} }}", algorithm=rule)


def _deep_network(random: Random) -> str:
    depth = random.choice((2, 4, 8, 16, 64))
    flags = random.choice(("", ", residual", ", residual, layernorm", ", layernorm, bias"))
    rule = random.choice(
        (
            "gd(eta), exact",
            "momentum(eta, alpha), anchored(16, sweeps = 8)",
            "gd(eta), steps(64), exact",
        )
    )
    return memory(architecture=f"mlp(hidden = 999999 * d, depth = {depth}{flags})", algorithm=rule)


def _terms(random: Random) -> str:
    many = random.randint(5, 120)
    forms = ("sum(r^2)", "huber(1)", "logcosh", "sum(gelu(r))", "-dot(M(query), value)")
    said = ", ".join(f"t{n}: {random.choice(forms)}" for n in range(many))
    rates = ", ".join(f"t{n} = eta / {n + 1}" for n in range(many))
    return memory(bias=said, algorithm=f"gd({rates}), exact")


def _modifiers(random: Random) -> str:
    said = random.choice((
        "steps(64)", "pairs(64)", "window(256, alpha)", "reset(1048576)", "window(1, 0)",
        "reset(1), steps(64)", "window(256, 16), reset(3)",
    ))  # fmt: skip
    bias = random.choice(("l2", "huber(1)", f"sum({_formula('r', 3, random)})", "lp(3)"))
    head = "M(d)"
    return memory(
        head,
        bias=bias,
        algorithm=f"{random.choice(('gd(eta)', 'momentum(eta, alpha)'))}, {said}, exact",
    )


def _implicit(random: Random) -> str:
    formula = _formula("r", random.randint(1, 4), random)
    return memory(bias=f"sum({formula})", algorithm="gd(eta), implicit")


def _rules(random: Random) -> str:
    many = random.randint(1, 40)
    names = [f"S{n}" for n in range(many)]
    rules = " ".join(
        f"{n} = alpha * {m} + {_formula('grad', 2, random)}"
        for n, m in zip(names, names[1:] + names[:1], strict=True)
    )
    turned = random.choice(
        ("S0", "orthogonal(S0, steps = 16)", "orthogonal(orthogonal(S0) + grad)")
    )
    rule = f"{{ carry {', '.join(names)}  {rules}  W = keep(W) - eta * {turned} }}"
    return memory(algorithm=f"{rule}, {random.choice(('exact', 'anchored(8, sweeps = 3)'))}")


def _gates(random: Random) -> str:
    many = random.randint(50, 3000)
    form = random.choice(
        ("g{b} * g{b}", "exp(g{b})", "g{b} + g{c}", "g{b}^16", "sigmoid(linear(x)) * g{b}")
    )
    chain = " ".join(f"g{n} = " + form.format(b=n - 1, c=max(n - 2, 0)) for n in range(1, many))
    last = random.choice((f"eta = g{many - 1}", "eta = 1"))
    return memory(gates=f"{{ alpha = sigmoid(linear(x)) g0 = sigmoid(linear(x)) {chain} {last} }}")


def _tokens(random: Random) -> str:
    many = random.randint(2, 400)
    form = random.choice(
        ("normalize(t{b})", "conv(t{b})", "shift(t{b})", "t{b} * t{b}", "t{b} / norm(t{b})")
    )
    chain = " ".join(f"t{n} = " + form.format(b=n - 1) for n in range(1, many))
    return memory(
        tokens=f"{{ t0 = linear(x)  t0[key] {chain} key = t{many - 1} }}".replace(
            "t0 = linear(x)  ", ""
        )
    )


def _models(random: Random) -> str:
    blocks = random.choice((
        "repeat 1000000000 { L }", "repeat 1024 { L }", "repeat 32 { repeat 32 { L } }",
        "repeat 10 { repeat 10 { repeat 10 { repeat 10 { L } } } }", "repeat 0 { L }", "T", "L ; T",
        "repeat 2 { " * 60 + "L" + " }" * 60, " ; ".join(["L"] * 1500), "repeat d { L }",
    ))  # fmt: skip
    mixing = random.choice(
        ("M", "L", "M + " * 63 + "M", "M -> " * 200 + "M", "L -> M", "(" * 60 + "M" + ")" * 60)
    )
    return memory(
        after=f"layer L = {mixing}\nmodel T(width = {random.choice(('8', '1048576', '0'))}, vocab = 8) = {blocks}\n"
    )


def _specialised(random: Random) -> str:
    many = random.randint(2, 64)
    uses = " + ".join(f"M(n = {n + 1})" for n in range(many))
    return memory(
        "M(d, n = 2)",
        architecture="mlp(hidden = n * d, layernorm)",
        algorithm="gd(eta), anchored(n)",
        after=f"layer L = {uses}\n",
    )


def _sizes(random: Random) -> str:
    size = random.choice((
        " * ".join(["d"] * 60), " * ".join(["1048576"] * 8), "d / 3", "d - 64", "(d + 1)^2", "1 / d",
        "0 - d", "d / (d - 1)", " * ".join(f"(d + {n})" for n in range(40)), "n^16", "d * n - 3",
    ))  # fmt: skip
    return memory(
        "M(d, n = 2)", architecture=f"mlp(hidden = {size})", algorithm="gd(eta / n), exact"
    )


def _copies(random: Random) -> str:
    deep, wide = random.randint(1, 8), random.randint(2, 12)
    definitions = "".join(
        f"bias b{n}(r, s) = " + " + ".join([f"norm(r) * (s^{k})" for k in range(1, wide)]) + "\n"
        for n in range(deep)
    )
    argument = _nested("norm", 1, "r")
    for _ in range(deep):
        argument = " * ".join([f"({argument})"] * random.choice((1, 2, 3)))
    return memory(bias=f"b0({argument})", before=definitions)


def _constants(random: Random) -> str:
    number = " * ".join(
        random.choice(("9999999999999999999", "1e300", "1e-300", "0.3"))
        for _ in range(random.randint(2, 40))
    )
    where = random.choice(("bias", "gate", "decay", "link", "rate", "scale", "window"))
    match where:
        case "bias":
            return memory(bias=f"{number} * sum(r^2)")
        case "gate":
            return memory(gates=f"{{ alpha = {number} * sigmoid(linear(x)) eta = exp({number}) }}")
        case "decay":
            return memory(retention=f"decay {number}")
        case "link":
            return memory(retention=f"decay alpha link a * {number} at token")
        case "rate":
            return memory(algorithm=f"gd({number}), exact")
        case "scale":
            return memory(algorithm=f"gd(eta), anchored(8, scale = {number} / position)")
        case _:
            return memory(algorithm=f"gd(eta), window(256, {number}), exact")


def _nothing(random: Random) -> str:
    """A thing divided by nothing, or its root or logarithm."""
    zero = random.choice(
        (
            "(r - r)",
            "0 * r",
            "(r * 0)",
            "(W @ key - M(key))",
            "(exp(r) - exp(r))",
            "(r - value + value - r)",
        )
    )
    form = random.choice(
        (
            "r / {z}",
            "log({z})",
            "{z}^-1",
            "{z}^-16",
            "sqrt({z} - 1)",
            "({z} - 1)^1.5",
            "1 / ({z})^2",
            "r^{z}",
            "exp(1 / {z})",
            "{z} / {z}",
            "where({z} > 0, 1 / {z}, r)",
        )
    )
    return memory(bias=f"sum({form.format(z=zero)})")


def _junk(random: Random) -> str:
    words = (
        list("(){}[],:;=+-*/@^<>#\n")
        + list(BASE)
        + [
            "memory",
            "layer",
            "model",
            "M",
            "d",
            "1",
            "W",
            "é",
            "\0",
            "\u202e",
            "carry",
            "write",
            "at",
            "where",
        ]
    )
    return "memory M(d) {" + " ".join(random.choice(words) for _ in range(random.randint(1, 3000)))


def _long(random: Random) -> str:
    name = "a" * random.choice((64, 65, 100_000, 1_000_000))
    return random.choice((
        memory(gates=f"{{ alpha, eta, {name} = sigmoid(linear(x)) }}"),
        memory(bias="sum(" + " + ".join(["r"] * random.choice((900, 2400, 60000))) + ")"),
        memory(bias="sum(" + " * ".join(["r"] * random.choice((40, 300, 2400))) + ")"),
        "# " + name + "\n" + memory(), name, memory() * 300, memory(after="}" * 100_000),
        "memory M(d) {\n" * 70_000, memory(bias="'" * 1_000_000), memory(bias="$ \n" * 200_000),
        memory(bias="sum(" + "min(" * 60 + "r" + ", 1)" * 60 + ")"), memory(bias="l2,\n" * 15_000),
    ))  # fmt: skip


KINDS: dict[str, Callable[[Random], str]] = {
    "vector functions of one another": lambda r: memory(
        architecture="{ W: matrix[value, key]  M(z) = "
        + _nested(r.choice(VECTORS), r.randint(1, 12), "W @ z") + " }",
        algorithm=r.choice(("gd(eta), exact", "gd(eta), anchored(8)", "momentum(eta, alpha), exact")),
    ),
    "powers of powers": lambda r: memory(
        bias=f"sum({'(' * 40}r{''.join(f')^{r.choice((2, 3, 16, 0.5, 1.5))}' for _ in range(40))})"
        if r.random() < 0.3
        else f"sum(((r^{r.randint(2, 16)})^{r.randint(2, 16)})^{r.randint(2, 16)})"
    ),
    "random losses": lambda r: memory(bias=f"sum({_formula('r', r.randint(2, 7), r)})"),
    "random losses of both": lambda r: memory(bias=f"sum({_formula('(r + value * eta)', r.randint(2, 5), r)}) + norm(r, {r.choice((1, 2, 3, 16))})^{r.randint(1, 16)}"),
    "functions of functions": lambda r: memory(bias="sum(" + _chain(r, "r", r.choice((4, 12, 30, 55))) + ")"),
    "functions of an answer": lambda r: memory(
        architecture="{ W: matrix[value, key]  M(z) = " + _chain(r, "(W @ z)", r.choice((4, 12, 30, 55))) + " }"
    ),
    "a network of itself": lambda r: memory(bias="sum((" + _nested("M", r.randint(2, 50), "key") + " - value)^2)", architecture=r.choice(("W: matrix[value, key]", "mlp(hidden = d, layernorm)", "mlp(hidden = d, depth = 4)"))),
    "retentions": _retention, "wide networks": _network, "deep networks": _deep_network,
    "many losses": _terms, "modifiers": _modifiers, "implicit steps": _implicit, "rules": _rules,
    "gates": _gates, "tokens": _tokens, "models": _models, "specialised memories": _specialised,
    "sizes": _sizes, "copies": _copies, "constants": _constants, "nothing": _nothing, "junk": _junk,
    "long": _long,
    "many memories": lambda r: "\n".join(memory(f"M{n}(d)") for n in range(r.choice((20, 100, 300)))),
}  # fmt: skip


def _chain(random: Random, of: str, times: int) -> str:
    for _ in range(times):
        of = f"{random.choice(FUNCTIONS)}({of})"
    return of
