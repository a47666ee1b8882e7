"""Stage 1: the syntax tree.  Frozen nodes, each with its span; no name is resolved yet.

span       of the whole node
name_span  of its name alone
depth      levels of nesting below and including the node
"""

from __future__ import annotations

from dataclasses import dataclass, field

import sympy as sp

from miras_dsl.source import Source, Span


@dataclass(frozen=True, slots=True)
class Literal:
    """A number as written, exact."""

    value: sp.Number
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A bare name."""

    name: str
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call, `value` or `name = value`."""

    name: str | None
    value: Formula
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """`name(arguments)`."""

    name: str
    arguments: tuple[Argument, ...]
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Index:
    """`name[entries]`: a name with its axes."""

    name: str
    entries: tuple[Formula, ...]
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x`, `+x` or `not x`."""

    op: str
    operand: Formula
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """`left op right`; op is one of + - * / @ ^ < <= > >= == and or."""

    op: str
    left: Formula
    right: Formula
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


Formula = Literal | Name | Call | Index | Unary | Binary
Reference = Name | Call | Index


@dataclass(frozen=True, slots=True)
class Parameter:
    """`name` or `name = default` in the head of a definition."""

    name: str
    default: Formula | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """The left side of a binding: `a` or `a[key]`."""

    name: str
    entries: tuple[Formula, ...] | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binding:
    """`a, b[row] = formula`, or targets alone."""

    targets: tuple[Target, ...]
    value: Formula | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WriteForm:
    """`write error at place`."""

    error: Formula
    place: Formula
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a bias, with its name if it has one."""

    name: str | None
    body: Formula | WriteForm
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Weights:
    """`A, B: matrix[value, h] = init`."""

    names: tuple[str, ...]
    shape: Reference
    init: str | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class NetworkBody:
    """Weights and the formula `M(x) = …` over them."""

    weights: tuple[Weights, ...]
    name: str
    input: str
    body: Formula
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """One part of a retention: word is decay, bregman, link, penalty or at."""

    word: str
    value: Formula
    on: Reference | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class KeptWeight:
    """`W: l2(alpha)`: the retention of one weight; parts as in the clause for every weight."""

    name: str
    parts: tuple[Form | Reference, ...]
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of an algorithm and the tensors that it carries."""

    carry: tuple[str, ...]
    bindings: tuple[Binding, ...]
    span: Span = field(compare=False, repr=False)


Content = (
    tuple[Binding, ...]
    | tuple[Term, ...]
    | tuple[Form | Reference, ...]
    | tuple[KeptWeight, ...]
    | tuple[Rules | Reference, ...]
    | tuple[Name, ...]
    | Reference
    | Weights
    | NetworkBody
    | Formula
)


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause of a memory: its word and what stands after it.

    tokens, gates  bindings            architecture  Reference, Weights or NetworkBody
    bias           terms               retention     forms, a Reference first for a library name;
                                                           or one KeptWeight for each weight
    order          names               algorithm     Rules or Reference first, then References
    read           a formula
    """

    word: str
    content: Content
    span: Span = field(compare=False, repr=False)
    word_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Memory:
    """`memory Name(params) { clauses }`."""

    name: str
    params: tuple[Parameter, ...]
    clauses: tuple[Clause, ...]
    doc: str
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition of the user's own or of the library; kind is bias, retention, algorithm or
    architecture."""

    kind: str
    name: str
    params: tuple[Parameter, ...]
    body: Formula | WriteForm | tuple[Form, ...] | Rules | NetworkBody
    doc: str
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Composition:
    """`a -> b` (op "->") or `a + b` (op "+") of memories in a layer."""

    op: str
    parts: tuple[Mixing, ...]
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


Mixing = Name | Call | Index | Composition


@dataclass(frozen=True, slots=True)
class Layer:
    """`layer Name(heads = 12) = mixing with features`."""

    name: str
    params: tuple[Parameter, ...]
    body: Mixing
    features: tuple[Reference, ...]
    doc: str
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Repeat:
    """`repeat n { blocks }`."""

    count: Formula
    blocks: tuple[Repeat | Reference, ...]
    span: Span = field(compare=False, repr=False)
    depth: int = field(default=1, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    """`model Name(width = …, vocab = …) = blocks`."""

    name: str
    params: tuple[Parameter, ...]
    blocks: tuple[Repeat | Reference, ...]
    doc: str
    span: Span = field(compare=False, repr=False)
    name_span: Span = field(compare=False, repr=False)


Item = Memory | Definition | Layer | Model


@dataclass(frozen=True, slots=True)
class File:
    """A source and its definitions, in order."""

    source: Source
    items: tuple[Item, ...]
