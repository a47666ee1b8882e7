"""Elementwise operations in torch: a table, and operands that meet by the names of their axes."""

from __future__ import annotations

from miras_dsl.spec import Axes

from .expressions import Expression, broadcast_to

INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "pow": ("**", 4)}
"""operation -> sign and strength."""
COMPARE = {
    "lt": "{} < {}", "le": "{} <= {}", "gt": "{} > {}", "ge": "{} >= {}", "eq": "{} == {}",
}  # fmt: skip
SIGNS = {"and": "{} & {}", "or": "{} | {}", "not": "~{}"}
METHODS = {"abs": "abs", "sqrt": "sqrt"}
CALLS = {
    "neg": "-{}",
    "abs": "torch.abs({})",
    "sqrt": "torch.sqrt({})",
    "sign": "torch.tanh(10 * ({}))",
    "exact_sign": "torch.sign({})",
    "exp": "torch.exp({})",
    "log": "torch.log({})",
    "sin": "torch.sin({})",
    "cos": "torch.cos({})",
    "tanh": "torch.tanh({})",
    "sinh": "torch.sinh({})",
    "cosh": "torch.cosh({})",
    "erf": "torch.erf({})",
    "sigmoid": "torch.sigmoid({})",
    "softplus": "F.softplus({})",
    "relu": "F.relu({})",
    "silu": "F.silu({})",
    "gelu": "F.gelu({})",
    "gelu_tanh": 'F.gelu({}, approximate="tanh")',
    "max": "torch.maximum({}, {})",
    "min": "torch.minimum({}, {})",
}
"""operation -> call; `sign` is tanh(10 x), as in the language."""


def pointwise(op: str, args: list[Expression], axes: Axes, floor: bool) -> Expression:
    """Operands united by their axes; ``axes`` is the order in which to keep them."""
    present = {a for x in args for a in x.axes}
    target = tuple(a for a in axes if a in present)
    target += tuple(sorted(present - set(target)))
    kind = _kind(args)
    aligned = [broadcast_to(x, target) if kind == "heads" else x for x in args]
    size = next((x.size for x in args if x.size), "")
    timed, headed = any(x.timed for x in args), any(x.headed for x in args)

    def done(text: str, binds: int = 5) -> Expression:
        return Expression(text, kind, target, timed, headed, binds, size)

    if op in INFIX:
        sign, binds = INFIX[op]
        left, right = aligned
        if op == "add" and right.binds == 3:  # a + -b
            return done(f"{left.inside(1)} - {right.text[1:]}", 1)
        if op == "pow":
            return done(f"{left.inside(5)} ** {right.inside(4)}", binds)
        return done(
            f"{left.inside(binds)} {sign} {right.inside(binds + (op in ('sub', 'div')))}", binds
        )
    if op == "neg":
        return done(f"-{aligned[0].inside(3)}", 3)
    if kind == "number":  # a number is not a tensor
        aligned = [
            Expression(f"like_parameters(self).new_tensor({x.text})", "heads") for x in aligned
        ]
        kind = "heads"
    if op in COMPARE:
        return done(f"({COMPARE[op].format(*(x.inside(2) for x in aligned))}) * 1.0", 2)
    if op in SIGNS:  # and, or, not: on conditions
        return done(f"({SIGNS[op].format(*(f'({x.text} != 0)' for x in aligned))}) * 1.0", 2)
    if op == "where":
        condition, yes, no = aligned
        test = condition.text.removesuffix(" * 1.0")
        test = test if test != condition.text else f"{condition.inside(1)} != 0"
        return done(f"torch.where({test}, {yes.text}, {no.text})")
    if op in ("max", "min") and "number" in (x.kind for x in aligned):
        tensor, bound = sorted(aligned, key=lambda x: x.kind == "number")
        end = {"max": "min", "min": "max"}[op]  # the larger of two is at least the bound
        return done(f"{tensor.inside(5)}.clamp({end}={bound.text})")
    if floor:
        return done(f"torch.log({aligned[0].inside(5)}.clamp(min=MIN_GATE))")
    if op in METHODS:
        return done(f"{aligned[0].inside(5)}.{METHODS[op]}()")
    return done(CALLS[op].format(*(x.text for x in aligned)))


def _kind(args: list[Expression]) -> str:
    kinds = {x.kind for x in args}
    return "flat" if "flat" in kinds else "heads" if "heads" in kinds else "number"
