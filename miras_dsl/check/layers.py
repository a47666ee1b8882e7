"""Checks layers (compositions of memories, and what surrounds them) and models (blocks in order)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from miras_dsl.check.formula.elaborate import Scope, integer_literal
from miras_dsl.check.formula.functions.complex_functions import ALL_FUNCTIONS as FUNCTIONS
from miras_dsl.diagnostics import Label, Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import Block, Chain, LayerSpec, MemorySpec, Mixing, ModelSpec, Together, Use
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

FEATURES = ("conv", "silu", "normalize", "output_gate", "plain_output")
LATER_PARTS = frozenset(
    {"gate", "lse", "product", "local", "attend", "rope", "persistent", "bidirectional"}
)
MAX_BLOCKS = 1024
MAX_MEMORIES = 64
Specialize = Callable[[str, dict[str, int]], str | None]


def layer(
    item: syntax.Layer,
    memories: dict[str, MemorySpec],
    failed: set[str],
    specialize: Specialize,
    layers: Collection[str] = (),
) -> LayerSpec:
    """The layer that ``item`` defines.

    failed      names of memories that have mistakes
    specialize  from a memory and the parameters that the layer fixes to the name of such a memory,
                which is made if it is new; None if it has mistakes
    layers      names of all layers

    Raises Problem.
    """
    heads = None
    for param in item.params:
        if param.name != "heads":
            hint = did_you_mean(param.name, ("heads",)) or "a layer has `heads`"
            raise problem(
                "M0206", f"a layer has no `{param.name}`", param.span, "unknown", help=hint
            )
        heads = _integer(param.default, param.span, "the number of heads", 4096)
    _no_layers(item.body, memories, layers)
    body = _mixing(item.body, memories, failed, specialize)
    if len(uses(body)) > MAX_MEMORIES:
        what = f"a layer has at most {MAX_MEMORIES} memories"
        raise problem(
            "M0905", what, item.name_span, f"{len(uses(body))} here", help="make several layers"
        )
    made = LayerSpec(item.name, body, heads, doc=item.doc, span=item.name_span)
    tokens = {t.name for u in uses(body) for t in memories[u.memory].tokens}
    seen: dict[str, syntax.Reference] = {}
    for feature in item.features:
        if feature.name in seen:
            first = (Label(seen[feature.name].span, "first here"),)
            raise problem(
                "M0608", f"`{feature.name}` is written twice", feature.span, "again", because=first
            )
        seen[feature.name] = feature
        made = _with(made, feature, tokens)
    if "output_gate" in seen and "plain_output" in seen:
        raise problem(
            "M0608",
            "`plain_output` and `output_gate` exclude each other",
            seen["output_gate"].span,
            "both",
        )
    return made


def model(
    item: syntax.Model, layers: dict[str, LayerSpec], known: set[str], memories: set[str]
) -> ModelSpec:
    """The model that ``item`` defines, its repeats unrolled.

    known     names of all layers, also of those with mistakes
    memories  names of all memories

    Raises Problem.
    """
    given: dict[str, int] = {}
    for param in item.params:
        if param.name not in ("width", "vocab"):
            help = did_you_mean(param.name, ("width", "vocab"))
            raise problem(
                "M0206", f"a model has no `{param.name}`", param.span, "unknown", help=help
            )
        given[param.name] = _integer(param.default, param.span, f"the {param.name}", 1 << 20)
    missing = [n for n in ("width", "vocab") if n not in given]
    if missing:
        help = f"write `model {item.name}(width = 128, vocab = 256)`"
        raise problem(
            "M0904", f"the model needs a {missing[0]}", item.name_span, "not given", help=help
        )
    blocks: list[Block] = []
    for part in item.blocks:
        blocks += _blocks(part, known, memories, item.name_span)
    if len(blocks) > MAX_BLOCKS:
        what = f"a model has at most {MAX_BLOCKS} blocks"
        raise problem("M0905", what, item.name_span, f"{len(blocks)} here")
    if any(b.kind not in layers and b.kind != "swiglu" for b in blocks):
        raise Problem(None)
    return ModelSpec(
        item.name, given["width"], given["vocab"], tuple(blocks), item.doc, item.name_span
    )


def uses(body: Mixing) -> list[Use]:
    """Every memory of a composition, in order."""
    if isinstance(body, Use):
        return [body]
    return [use for part in body.parts for use in uses(part)]


def _blocks(
    part: syntax.Repeat | syntax.Reference, known: set[str], memories: set[str], name: Span
) -> list[Block]:
    if isinstance(part, syntax.Repeat):
        count = _integer(part.count, part.count.span, "a repeat", MAX_BLOCKS)
        inner = [b for p in part.blocks for b in _blocks(p, known, memories, name)]
        if len(inner) * count > MAX_BLOCKS:
            raise problem(
                "M0905",
                f"a model has at most {MAX_BLOCKS} blocks",
                part.span,
                f"{len(inner) * count} here",
            )
        return inner * count
    if not isinstance(part, syntax.Name) or (part.name not in known and part.name != "swiglu"):
        hint = did_you_mean(part.name, (*known, "swiglu"))
        if part.name in memories:
            hint = f"make a layer of it: `layer {part.name}Layer = {part.name} with conv(4), silu`"
        what = f"`{part.span.text}` is not a layer"
        raise problem("M0903", what, part.span, "blocks are layers and `swiglu`", help=hint)
    return [Block(part.name, part.span)]


def _no_layers(body: syntax.Mixing, memories: Collection[str], layers: Collection[str]) -> None:
    """Raise Problem for a layer inside a layer."""
    if isinstance(body, syntax.Composition):
        for part in body.parts:
            _no_layers(part, memories, layers)
    elif body.name in layers and body.name not in memories:
        raise problem(
            "M0901",
            f"`{body.name}` is a layer, and layers compose memories only",
            body.span,
            "not a memory",
            help="a model puts layers one after the other: "
            f"`model T(width = 128, vocab = 256) = {body.name} ; …`",
        )


def _mixing(
    body: syntax.Mixing, memories: dict[str, MemorySpec], failed: set[str], specialize: Specialize
) -> Mixing:
    if isinstance(body, syntax.Composition):
        parts = tuple(_mixing(p, memories, failed, specialize) for p in body.parts)
        return Chain(parts) if body.op == "->" else Together(parts)
    if body.name in failed:
        raise Problem(None)
    if body.name in LATER_PARTS and body.name not in memories:
        raise problem(
            "M0105",
            f"`{body.name}` is not part of this version of the language",
            body.span,
            "not yet a part of a layer",
            help="memories can follow each other with `->` or be added with `+`",
        )
    if isinstance(body, syntax.Index) or body.name not in memories:
        raise problem(
            "M0901",
            f"there is no memory called `{body.name}`",
            body.span,
            "unknown",
            help=did_you_mean(body.name, memories),
        )
    arguments = body.arguments if isinstance(body, syntax.Call) else ()
    params = memories[body.name].params
    given: dict[str, int] = {}
    for place, argument in enumerate(arguments):
        name = argument.name or (params[place][0] if place < len(params) else "")
        if name not in dict(params) or name in given:
            raise problem(
                "M0206",
                f"`{body.name}` has no parameter `{name}`"
                if name not in given
                else f"`{name}` is given twice",
                argument.span,
                "unknown",
                help=did_you_mean(name, dict(params)),
            )
        given[name] = _integer(argument.value, argument.span, f"`{name}`", 1 << 20)
    fixed = {n: v for n, v in given.items() if dict(params)[n] is not None}
    sizes = tuple((n, v) for n, v in given.items() if n not in fixed)
    memory = specialize(body.name, fixed) if fixed else body.name
    if memory is None:
        raise Problem(None)
    return Use(memory, sizes, body.span)


def _with(made: LayerSpec, feature: syntax.Reference, tokens: set[str]) -> LayerSpec:
    arguments = feature.arguments if isinstance(feature, syntax.Call) else ()
    if feature.name not in FEATURES or isinstance(feature, syntax.Index):
        if feature.name in LATER_PARTS:
            what = f"`{feature.name}` is not part of this version of the language"
            raise problem("M0105", what, feature.span, "not yet a feature of a layer")
        hint = did_you_mean(feature.name, FEATURES)
        raise problem(
            "M0902", f"a layer has no `{feature.name}`", feature.span, "unknown", help=hint
        )
    wants = {"conv": 1, "normalize": None}.get(feature.name, 0)
    if wants is not None and len(arguments) != wants:
        usage = "`conv(4)`" if wants else f"`{feature.name}` alone"
        raise problem(
            "M0205",
            f"`{feature.name}` takes {'one argument' if wants else 'no arguments'}",
            feature.span,
            f"{len(arguments)} here",
            help=f"write {usage}",
        )
    match feature.name:
        case "conv":
            return replace(
                made, conv=_integer(next(a.value for a in arguments), feature.span, "the width", 64)
            )
        case "silu":
            return replace(made, activation="silu")
        case "output_gate":
            return replace(made, output_gate=True)
        case "plain_output":
            return replace(made, output_norm=False)
        case _:
            return replace(made, normalize=tuple(_token(a, tokens) for a in arguments))


def _token(argument: syntax.Argument, tokens: set[str]) -> str:
    name = (
        argument.value.name if isinstance(argument.value, syntax.Name) and not argument.name else ""
    )
    if name not in tokens:
        raise problem(
            "M0906",
            f"`{argument.span.text}` is not a token of this layer's memories",
            argument.span,
            "not a token",
            help=did_you_mean(name, tokens),
        )
    return name


def _integer(node: syntax.Formula | None, span: Span, what: str, high: int) -> int:
    if node is None:
        raise problem(
            "M0213", f"{what} needs a number", span, "no number", help="write `heads = 4`"
        )
    scope = Scope("a layer", {}, {}, _no_axes, FUNCTIONS, features=False)
    return integer_literal(node, scope, what, 1, high)


def _no_axes(node: syntax.Formula, scope: Scope) -> str:
    raise problem("M0208", "there are no axes here", node.span, "not an axis")
