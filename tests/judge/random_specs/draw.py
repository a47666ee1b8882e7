"""Random specs: recipes drawn from the design space, written out as `.mem` text.

A recipe names one value on each axis of the space (architecture, bias, retention, rule, schedule,
order, shapes of the gates); `text` writes it down.  Every recipe drawn is one that the checker
accepts.  `several` prefers values that have been drawn least, so that a few dozen cover every axis;
`simpler` lists the recipes one step towards the plainest, for shrinking a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice, permutations
from random import Random

from tests.judge.random_specs.space import (
    ARCHITECTURES,
    BIASES,
    OUTSIDES,
    RETENTIONS,
    RULES,
    SCHEDULES,
    SHAPES,
)


@dataclass(frozen=True, slots=True)
class SpecRecipe:
    """One value on each axis of the design space.

    alpha, eta  shape of the decay gate and of the rate
    order       the events in order, as written
    formula     which formula stands `in place` of a bias, and number a constant in it
    sizes       "one" for a memory of one size, "two" for keys and values of their own
    """

    architecture: str = "matrix"
    bias: str = "l2"
    retention: str = "none"
    rule: str = "gd"
    schedule: str = "exact"
    alpha: str = "scalar"
    eta: str = "scalar"
    order: str = "predict, write, read"
    sizes: str = "one"
    formula: int = 0
    number: str = "1"

    @property
    def deep(self) -> bool:
        """Whether the memory is a network of several weights."""
        return "matrix" not in self.architecture and self.architecture != "vector"

    @property
    def anchored(self) -> bool:
        """Whether gradients are taken at a block's first weights."""
        return "anchored" in self.schedule or "sweeps" in self.schedule

    @property
    def kind(self) -> str:
        """The class of the rule, as a coverage record counts it."""
        vector_step = self.architecture == "vector" and self.schedule == "implicit"
        signed = self.retention == "signed decay" or self.rule == "signed momentum"
        bent = "at token" in RETENTIONS[self.retention] or vector_step or signed
        if bent or (self.deep and not self.anchored):
            return "token by token"
        if "sweeps" in self.schedule:
            return "sweeps"
        if self.anchored:
            return "anchored"
        shape = "vector " if self.architecture == "vector" else ""
        if self.bias == "dot":
            return f"{shape}additive"
        if self.bias in ("l2", "l2_full", "weighted", "two terms", "divided by a size"):
            return f"{shape}affine"
        carried = self.rule in ("momentum", "heavy ball", "look ahead")
        return f"{shape}substitution{' with momentum' if carried else ''}"


def orders(recipe: SpecRecipe) -> list[str]:
    """Every order in which the events of a recipe may happen."""
    events = ["predict", "write", "read"]
    if recipe.bias == "dot" and not recipe.deep:
        events.remove("predict")
    if recipe.retention == "constant" or "alpha" in RETENTIONS[recipe.retention]:
        events.insert(0, "decay")
    return [
        ", ".join(order)
        for order in permutations(events)
        if "predict" not in order or order.index("predict") < order.index("write")
    ]


def legal(recipe: SpecRecipe) -> bool:
    """Whether the language gives the recipe a meaning."""
    r = recipe
    vector, one = r.architecture == "vector", r.sizes == "one"
    gated = "alpha" in RETENTIONS[r.retention]
    simplex = "softmax" in r.retention
    two_rates, penalty = r.bias == "two terms", "penalty" in RETENTIONS[r.retention]
    return (
        r.order in orders(r)
        and (one or not (r.deep or vector))
        and (gated or r.alpha == "scalar")
        and _shape_fits(r, r.alpha)
        and _shape_fits(r, r.eta)
        and ("chunk" not in r.retention or (r.anchored and "window" not in r.schedule))
        and (("positive" in r.architecture) == simplex)
        and not (simplex and r.alpha not in ("scalar", "row"))
        and not (two_rates and (r.rule not in ("gd", "momentum") or r.eta != "scalar"))
        and not (r.schedule == "implicit" and not _solved(r))
        and not (penalty and (r.schedule != "exact" or r.deep or "gd" not in r.rule))
        and not (r.schedule == "pairs" and (r.deep or vector))
        and not (r.eta == "key" and r.schedule == "pairs")
        and not (r.schedule == "reset" and ("learned" in r.architecture or r.deep or simplex))
        and not (vector and r.bias == "two terms")
    )


def _solved(recipe: SpecRecipe) -> bool:
    """Whether an implicit step has one end: other biases are refused by the derivation."""
    kept = recipe.retention in ("none", "constant", "l2", "decay in place")
    return kept and not recipe.deep and recipe.bias in _CONVEX and "gd" in recipe.rule


_CONVEX = ("l2", "l2_full", "weighted", "lp", "huber", "logcosh", "two terms", "in place")


def _shape_fits(recipe: SpecRecipe, shape: str) -> bool:
    if recipe.deep:
        return shape in ("scalar", "row")
    if recipe.architecture == "vector":
        return shape in ("scalar", "value")
    return True


def sample(random: Random) -> SpecRecipe:
    """A legal recipe, every axis at random."""
    while True:
        start = SpecRecipe(
            architecture=random.choice(list(ARCHITECTURES)),
            bias=random.choice(list(BIASES)),
            rule=random.choice(list(RULES)),
            schedule=random.choice(list(SCHEDULES)),
            sizes=random.choice(("one", "two")),
            formula=random.randrange(len(OUTSIDES)),
            number=random.choice(("1", "0.5", "1.25")),
        )
        shapes = [shape for shape in SHAPES if _shape_fits(start, shape)]
        start = replace(start, alpha=random.choice(shapes), eta=random.choice(shapes))
        for retention in random.sample(list(RETENTIONS), len(RETENTIONS)):
            recipe = replace(start, retention=retention)
            if "alpha" not in RETENTIONS[retention]:
                recipe = replace(recipe, alpha="scalar")
            recipe = replace(recipe, order=random.choice(orders(recipe)))
            if legal(recipe):
                return recipe


def sample_covering(
    random: Random, count: int, coverage: Counter[tuple[str, str]]
) -> Iterator[SpecRecipe]:
    """Recipes that between them cover the space; ``coverage`` counts what has been drawn."""
    wanted = sorted(space())
    for _ in range(count):
        rarest = min(wanted, key=lambda value: coverage[value])
        drawn = (sample(random) for _ in range(4000))
        candidates = list(islice((r for r in drawn if rarest in values(r)), 4)) or [sample(random)]
        best = min(candidates, key=lambda r: sorted(coverage[value] for value in values(r)))
        coverage.update(values(best))
        yield best


def values(recipe: SpecRecipe) -> list[tuple[str, str]]:
    """What a recipe covers: (axis, value) pairs."""
    axes = {n: v for n, v in asdict(recipe).items() if n not in ("formula", "number", "order")}
    first = recipe.order.split(", ")[0]
    order = "decay first" if first == "decay" else "read first" if first == "read" else "else"
    found = [*axes.items(), ("order", order), ("class", recipe.kind)]
    return [*found, ("formula", str(recipe.formula))] if recipe.bias == "in place" else found


def space() -> set[tuple[str, str]]:
    """Every (axis, value) that a run should have covered."""
    tables = {
        "architecture": ARCHITECTURES, "bias": BIASES, "retention": RETENTIONS, "rule": RULES,
        "schedule": SCHEDULES, "alpha": SHAPES, "eta": SHAPES, "sizes": ("one", "two"),
        "order": ("decay first", "read first", "else"),
        "class": ("additive", "affine", "substitution", "substitution with momentum", "anchored",
                  "sweeps", "vector additive", "vector affine", "token by token"),
    }  # fmt: skip
    return {(axis, value) for axis, table in tables.items() for value in table}


def shrink(recipe: SpecRecipe) -> Iterator[SpecRecipe]:
    """Legal recipes that differ in one axis, put back to its plainest value, and fit an order."""
    plain = asdict(SpecRecipe())
    for axis, value in plain.items():
        if axis == "order" or getattr(recipe, axis) == value:
            continue
        changed = replace(recipe, **{axis: value})
        for order in (recipe.order, *orders(changed)):
            if legal(fitted := replace(changed, order=order)):
                yield fitted
                break


def text(recipe: SpecRecipe, name: str = "Random") -> str:
    """The `.mem` text of a recipe."""
    bias, scale = BIASES[recipe.bias]
    outside = OUTSIDES[recipe.formula].format(c=recipe.number)
    bias = bias.replace("{outside}", outside)
    bias = bias.replace("{size}", "d" if recipe.sizes == "one" else "dk")
    eta = f"eta{_axes(recipe, recipe.eta)}"
    rates = "erase = eta, store = eta" if recipe.bias == "two terms" else "eta"
    rule = RULES[recipe.rule].format(rate=rates)
    scale = calmed(recipe, scale)
    gates = []
    if "alpha" in RETENTIONS[recipe.retention]:
        share = "0.5 + 0.5 * sigmoid(linear(x) + 2)"
        share = "tanh(linear(x))" if recipe.retention == "signed decay" else share
        gates.append(f"alpha{_axes(recipe, recipe.alpha)} = {share}")
    if recipe.schedule == "pairs":
        eta = "eta[n]" if recipe.eta == "scalar" else eta
    gates.append(f"{eta} = {scale:g} * sigmoid(linear(x))")
    if "mu" in RULES[recipe.rule]:
        gates.append("mu = 0.8 * sigmoid(linear(x))")
    if "nu" in RULES[recipe.rule]:
        gates.append("nu = 0.8 * tanh(linear(x))")
    if "kappa" in bias:
        gates.append("kappa = 0.5 + sigmoid(linear(x))")
    if "delta" in bias:
        gates.append("delta = 0.2 + softplus(linear(x))")
    if "gamma" in RETENTIONS[recipe.retention]:
        gates.append("gamma = 0.5 * tanh(linear(x))")
    if "beta" in bias:
        gates.append("beta = sigmoid(linear(x))")
    parameters = "d" if recipe.sizes == "one" else "dk, dv"
    tokens = ""
    if recipe.schedule == "pairs":
        key, value = ("d", "d") if recipe.sizes == "one" else ("dk", "dv")
        parameters += ", n = 2"
        tokens = f"  tokens       {{ query[{key}]   key[n, {key}]   value[n, {value}] }}\n"
    indent = "\n                 "
    return (
        f"memory {name}({parameters}) {{\n{tokens}"
        f"  architecture {ARCHITECTURES[recipe.architecture]}\n"
        f"  bias         {bias}\n"
        f"  retention    {RETENTIONS[recipe.retention]}\n"
        f"  algorithm    {rule}, {SCHEDULES[recipe.schedule]}\n"
        f"  order        {recipe.order}\n"
        f"  gates        {{ {indent.join(gates)} }}\n"
        "}\n"
    )


def calmed(recipe: SpecRecipe, scale: float) -> float:
    """A largest rate at which the recipe does not run away within a hundred tokens."""
    scale /= 8 if recipe.anchored else 1
    scale /= 3 if recipe.rule != "gd" and recipe.rule != "gd in place" else 1
    scale /= 3 if "window" in recipe.schedule else 1
    if recipe.deep:
        # A network's output is a product of weights: a loss without a lower bound feeds on itself.
        scale /= 40 if recipe.bias in ("dot", "two terms", "lp") else 4
    return round(scale, 5)


def _axes(recipe: SpecRecipe, shape: str) -> str:
    if shape == "scalar":
        return ""
    if recipe.architecture == "vector":
        return "[d]"
    return f"[{shape}]"
