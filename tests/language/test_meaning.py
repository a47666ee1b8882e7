"""What a text means: shapes, names, expansion in place, ranges."""

from dataclasses import replace

import pytest
import sympy as sp

from miras_dsl.check import read, warnings
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.source import Source
from miras_dsl.spec import (
    Anchored,
    Apply,
    Chain,
    Interval,
    Loss,
    Number,
    Ref,
    Together,
    Use,
    Write,
    iter_nodes,
)
from miras_dsl.syntax import tree as syntax

CLAUSES = {
    "architecture": "W: matrix[value, key]",
    "bias": "l2",
    "retention": "decay alpha",
    "algorithm": "gd(eta), exact",
    "order": "predict, decay, write, read",
    "gates": "{ alpha, eta = sigmoid(linear(x)) }",
}


def memory(head="M(dk, dv)", extra="", **clauses):
    """The memory with some clauses replaced."""
    lines = "\n".join(f"  {word} {text}" for word, text in {**CLAUSES, **clauses}.items())
    return read(Source("m.mem", f"memory {head} {{\n{lines}\n}}\n{extra}")).memories["M"]


def loss_of(spec):
    """The formula of the only loss."""
    (term,) = spec.terms
    assert isinstance(term, Loss)
    return term.loss


def codes(text):
    """The codes of all errors of a text."""
    with pytest.raises(SpecErrors) as caught:
        read(Source("m.mem", text))
    return [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("clause", "library", "formula"),
    [
        ("bias", "l2", "sum((W @ key - value)^2) / 2"),
        ("bias", "l2", "sum(r^2) / 2"),
        ("bias", "logcosh", "sum(log(cosh(M(key) - value)))"),
        ("bias", "lp(4)", "sum(abs(W @ key - value)^4)"),
        ("bias", "huber_mixture(1)", "write where(norm(r) <= 1, r, 1 * sign(r)) at key"),
        ("retention", "l2(alpha)", "decay alpha"),
        ("retention", "soft(alpha, 1) at token",
         "decay alpha link max(a - 1, 0) - max(-a - 1, 0) at token"),
        ("algorithm", "gd(eta), exact", "{ W = keep(W) - eta * grad }, exact"),
        ("algorithm", "momentum(eta, alpha), exact",
         "{ carry S  S = alpha * S - eta * grad  W = keep(W) + S }, exact"),
        ("architecture", "matrix", "W: matrix[value, key]"),
        ("architecture", "matrix", "{ W: matrix[value, key] = zero  M(z) = W @ z }"),
        ("architecture", "glu(64)",
         "{ A: matrix[value, 64]  B, C: matrix[64, key]  M(x) = A @ (silu(B @ x) * (C @ x)) }"),
    ],
)  # fmt: skip
def test_a_library_name_means_its_formula(clause, library, formula):
    assert memory(**{clause: library}) == memory(**{clause: formula})


def test_the_mlp_means_its_network():
    flags = "mlp(hidden = 4 * d, activation = gelu, bias, depth = 2)"
    network = """{ W1: matrix[4 * d, key]  b1: vector[4 * d]
                   W2: matrix[value, 4 * d]  b2: vector[value]
                   M(x) = W2 @ gelu(W1 @ x + b1) + b2 }"""
    a, b = (
        memory("M(d)", architecture=t, algorithm="gd(eta), anchored(8)") for t in (flags, network)
    )

    assert a.network == b.network and a.terms == b.terms and a.sizes == b.sizes
    assert {s.name: (s.axes, s.init) for s in a.states} == {
        s.name: (s.axes, s.init) for s in b.states
    }


def test_one_size_lets_keys_and_values_meet_and_two_do_not():
    one = memory("M(d)", bias="sum((W @ key + key - value)^2) / 2")
    assert any(isinstance(n, Apply) and n.op == "retag" for n in iter_nodes(loss_of(one)))

    with pytest.raises(SpecErrors, match="shapes do not meet") as caught:
        memory(bias="sum((W @ key + key - value)^2) / 2")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "M0203"
    assert {diagnostic.at.span.text, diagnostic.because[0].span.text} == {"key", "W @ key"}


def test_every_node_has_the_shape_that_its_operands_give():
    spec = memory("M(d)", architecture="mlp(hidden = 3 * d, depth = 3, residual, layernorm)")
    loss = loss_of(spec)

    for node in iter_nodes(loss):
        if isinstance(node, Apply) and node.op in ("add", "sub", "mul"):
            assert {a for arg in node.args for a in arg.axes} == set(node.axes)
        if isinstance(node, Apply) and node.op == "contract":
            over = node.args[0].axes[-1]
            assert node.option("over") == (over,)
            left, right = node.args
            assert over in left.axes and over in right.axes and over not in node.axes
    assert dict(spec.sizes)["h1"] == dict(spec.sizes)["h2"] == 3 * sp.Symbol("d")
    assert {n for n, *_ in spec.network.params} == {"norm_weight", "norm_shift"}


@pytest.mark.parametrize(
    ("head", "network", "axes"),
    [
        ("M(d)", "{ A: matrix[value, d]  B: matrix[d, key]  M(z) = A @ relu(B @ z) }",
         [("value", "h1"), ("h1", "key")]),
        ("M(d)", "{ A: matrix[value, 1 * d]  B: matrix[1 * d, key]  M(z) = A @ relu(B @ z) }",
         [("value", "h1"), ("h1", "key")]),
        ("M(dk, dv)", "{ A: matrix[value, dk]  B: matrix[dk, key]  M(z) = A @ relu(B @ z) }",
         [("value", "h1"), ("h1", "key")]),
        ("M(d)", "{ A: matrix[value, 8]  H: matrix[8, 8]  B: matrix[8, key]"
         "  M(z) = A @ relu(H @ relu(B @ z)) }", [("value", "h1"), ("h1", "h2"), ("h1", "key")]),
        ("M(d)", "{ W: matrix[value, d]  M(z) = W @ z }", [("value", "key")]),
    ],
)  # fmt: skip
def test_a_hidden_axis_is_its_own_whatever_its_size(head, network, axes):
    spec = memory(head, architecture=network, algorithm="gd(eta / 64), anchored(8)")

    assert [s.axes for s in spec.states] == axes


def test_a_hidden_layer_of_size_d_is_what_the_mlp_makes_of_it():
    network = "{ W1: matrix[d, key]  W2: matrix[value, d]  M(x) = W2 @ gelu(W1 @ x) }"
    a, b = (
        memory("M(d)", architecture=t, algorithm="gd(eta / 64), anchored(8)")
        for t in ("mlp(hidden = d)", network)
    )

    assert (a.network, a.terms, a.states, a.sizes) == (b.network, b.terms, b.states, b.sizes)


def test_rows_of_the_only_weight_are_its_own_axis_and_of_many_are_generic():
    gates = "{ alpha[row] = sigmoid(linear(x))  eta = sigmoid(linear(x)) }"
    assert memory(gates=gates).gates[0].axes == ("value",)
    deep = memory(
        "M(d)", gates=gates, architecture="glu(2 * d)", algorithm="gd(eta / 64), anchored(8)"
    )
    assert deep.gates[0].axes == ("row",)
    assert deep.algorithm.rules[0][1].axes == ("row", "column")


def test_a_vector_memory_has_one_axis():
    gates = "{ alpha[d], eta = sigmoid(linear(x)) }"
    order = "decay, write, read"
    spec = memory(
        "M(d)", architecture="h: vector[d]", bias="-dot(h, value)", order=order, gates=gates
    )

    assert spec.states[0].axes == spec.gates[0].axes == ("value",)
    assert all(t.axes == ("value",) for t in spec.tokens)
    assert spec.read == Apply(
        "mul", (Ref("h", "state", ("value",)), Ref("query", "token", ("value",))), ("value",)
    )


def test_pairs_have_an_axis_outside_the_bias_and_none_inside():
    spec = memory(
        "M(dk, dv, n = 3)",
        tokens="{ probe = normalize(key) }",
        algorithm="gd(eta), pairs(n), exact",
        bias="sum((W @ probe - value)^2)",
        gates="{ alpha = sigmoid(linear(x))  eta[n] = sigmoid(linear(x)) }",
    )

    assert {t.name: t.axes for t in spec.tokens}["probe"] == ("pair", "key")
    assert all("pair" not in n.axes for n in iter_nodes(loss_of(spec)))
    assert dict(spec.sizes)["pair"] == 3 and spec.algorithm.pairs == 3


def test_learned_maps_in_place_move_into_gates_and_tokens():
    spec = memory(algorithm="gd(sigmoid(linear(x))), exact", read="W @ (query - param(1) * key)")

    assert [g.name for g in spec.gates if g.name.startswith("_")] == ["_1"]
    moved = next(t for t in spec.tokens if t.name.startswith("_"))
    assert moved.axes == ("key",)
    inside = [
        *iter_nodes(spec.read),
        *iter_nodes(loss_of(spec)),
        *(n for _, e in spec.algorithm.rules for n in iter_nodes(e)),
    ]
    assert not any(isinstance(n, Apply) and n.op in ("linear", "param") for n in inside)


def test_two_learned_constants_are_not_one():
    spec = memory(gates="{ alpha = sigmoid(param * param + linear(x))  eta = sigmoid(linear(x)) }")
    product = next(
        n for n in iter_nodes(spec.gates[0].expr) if isinstance(n, Apply) and n.op == "mul"
    )

    assert product.args[0] != product.args[1]


@pytest.mark.parametrize(
    ("formula", "low", "high"),
    [
        ("0.9 + 0.1 * sigmoid(linear(x))", 0.9, 1.0),
        ("exp(-exp(param) * softplus(linear(x) + param))", 0, 1),
        ("sigmoid(linear(x) + param)^(1 / 16)", 0, 1),
        ("1 - eta", 0.5, 1),
        ("tanh(linear(x))^2", 0, 1),
        ("clip(linear(x), 0.25, 2)", 0.25, 2),
        ("1 / (1 + exp(linear(x)))", 0, 1),
        ("where(linear(x) > 0, 0.5, 0.75)", 0.5, 0.75),
        ("1 - 2^(-4 - head)", 1 - 2**-5, 1),
        ("exp(-2^(-8 * head / heads))", 2.718281828459045**-1, 0.9961013694701175),
        ("1 - head / heads / 2", 0.5, 1),
        ("0.5^softplus(linear(x))", 0, 1),
        ("2^(-1 - relu(linear(x)))", 0, 0.5),
        ("sigmoid(linear(x))^softplus(linear(x))", 0, 1),
        ("1 - 0.5 * mean(topk(sigmoid(param[key]), 2))", 0.5, 1),
        ("abs(tanh(linear(x)))", 0, 1),
    ],
)
def test_the_range_of_a_gate_is_read_off_its_formula(formula, low, high):
    spec = memory(gates=f"{{ alpha = {formula}  eta = sigmoid(linear(x)) / 2 }}")
    gate = next(g for g in spec.gates if g.name == "alpha")

    assert (gate.range.low, gate.range.high) == pytest.approx((low, high), abs=1e-12)
    assert isinstance(gate.range, Interval)


def test_named_rates_go_to_their_terms():
    spec = memory(bias="a: l2, b: write value at key", algorithm="gd(a = eta, b = 1 / 2), exact")
    first, second = spec.terms

    assert isinstance(first, Loss) and first.rate == Ref("eta", "gate")
    assert isinstance(second, Write) and second.rate == Number(sp.Integer(1) / sp.Integer(2))
    one = Number(sp.Integer(1))
    assert next(n for n in iter_nodes(spec.algorithm.rules[0][1]) if isinstance(n, Number)) == one


def test_a_layer_may_settle_a_parameter_of_its_memory():
    text = """memory M(d, n = 8) { architecture W: matrix[value, key]  bias l2  retention none
      algorithm gd(eta), anchored(n)  order predict, write, read
      gates { eta = sigmoid(linear(x)) / 64 } }
    layer A = M -> M(n = 4) + M(8)
    """
    spec = read(Source("m.mem", text))

    assert set(spec.memories) == {"M", "M_n4"}
    assert spec.memories["M_n4"].algorithm.anchored == Anchored(4)
    chain = Chain((Use("M"), Together((Use("M_n4"), Use("M", (("d", 8),))))))
    assert spec.layers["A"].body == chain


def test_models_are_unrolled():
    text = """memory M(d) { architecture matrix  bias l2  retention none  algorithm gd(1), exact
      order predict, write, read }
    layer A(heads = 2) = M with conv(4), silu, normalize(query, key), output_gate
    model T(width = 64, vocab = 256) = repeat 2 { A ; repeat 2 { swiglu } } ; A
    """
    spec = read(Source("m.mem", text))

    assert "".join(b.kind[0] for b in spec.models["T"].blocks) == "AssAssA"
    layer = spec.layers["A"]
    assert (layer.heads, layer.conv, layer.activation, layer.normalize) == (
        2,
        4,
        "silu",
        ("query", "key"),
    )
    assert layer.output_gate and layer.output_norm


def test_all_mistakes_are_reported_in_one_run_and_none_twice():
    text = """memory M(dk, dv) {
  architecture W: matrix[value, key]
  bias         hubber(1)
  retention    decay alhpa
  algorithm    gd(etta), exact
  order        predict, write, read
  gates        { alpha = sigmoyd(linear(x))  eta = alpha }
}
layer L = N
model T(width = 8) = L
"""
    assert codes(text) == ["M0401", "M0201", "M0201", "M0202", "M0901", "M0904"]


def test_what_depends_on_a_mistake_is_not_blamed():
    text = (
        "memory M(d) {\n"
        + "\n".join(f"  {w} {t}" for w, t in CLAUSES.items())
        + "\n}\nlayer L = M\n"
    )
    assert codes(text.replace("sigmoid(linear", "sigmoyd(linear")) == ["M0202"]


def test_spans_point_into_the_text():
    spec = memory()
    assert spec.gates[0].span.text == "alpha"
    assert spec.terms[0].span.place == "m.mem:3:8"


def test_meaning_does_not_depend_on_layout_or_comments():
    a = memory()
    b = read(
        Source(
            "m.mem",
            "memory M ( dk,dv ){" + " # c\n ".join(f"{w} {t}" for w, t in CLAUSES.items()) + "}",
        )
    )
    assert replace(a, doc="") == replace(b.memories["M"], doc="")


def test_a_definition_of_the_file_is_used_like_one_of_the_library():
    spec = memory(bias="own(2)", extra="bias own(r, s) = s * sum(r^4)\n")
    assert spec.terms == memory(bias="2 * sum((W @ key - value)^4)").terms


def test_warnings_come_in_order_and_are_not_errors():
    text = "memory M(dk, dv) {\n" + "\n".join(f"  {w} {t}" for w, t in CLAUSES.items()) + "\n}\n"
    text = text.replace("alpha, eta = sigmoid", "spare = 1 alpha, eta = 3 * sigmoid")
    found = warnings(read(Source("m.mem", text)))

    assert [w.code for w in found] == ["M0503", "M0609", "M0801"]
    assert all(w.severity == "warning" for w in found)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("bias own(r, s) = sum(r^2) * t\n", "M0201"),
        ("bias own(r, s) = summ(r^2) * s\n", "M0202"),
        ("retention own(alpha) = decay alpha link b at token\n", "M0201"),
        ("algorithm own(eta) { carry S  S = T  W = keep(W) - S }\n", "M0201"),
        ("architecture own(h) { A: matrix[value, h]  M(x) = A @ y }\n", "M0201"),
        ("bias own(r, r) = sum(r)\n", "M0109"),
        ("memory class(d) { }\n", "M0108"),
    ],
)
def test_unused_definitions_are_checked(text, code):
    assert code in codes(text)


def test_the_library_passes_the_checks_of_unused_definitions():
    from miras_dsl.check.library.definition import check_definition
    from miras_dsl.check.library.load import FILES, library_text
    from miras_dsl.syntax.parser import parse

    for name in FILES:
        for item in parse(library_text(name)).items:
            assert isinstance(item, syntax.Definition)
            check_definition(item, used=False)


def test_the_grammar_has_no_conflicts(caplog):
    from importlib.resources import files

    from lark import Lark, logger

    text = files("miras_dsl.syntax").joinpath("grammar.lark").read_text(encoding="utf-8")
    logger.setLevel("DEBUG")
    Lark(text, parser="lalr", lexer="contextual", debug=True)
    logger.setLevel("CRITICAL")

    assert [r.message for r in caplog.records if "onflict" in r.message] == []


def test_diagnostics_are_plain_data_too():
    with pytest.raises(SpecErrors) as caught:
        read(Source("m.mem", "memory M(d) { }"))
    (first, *_) = caught.value.to_json()

    assert first["code"] == "M0107" and first["severity"] == "error"
    assert first["at"] == {"file": "m.mem", "line": 1, "column": 8, "start": 7, "end": 8,
                           "text": "no `architecture` clause"}  # fmt: skip


def test_a_mistake_inside_the_library_is_shown_where_the_library_is_used():
    with pytest.raises(SpecErrors) as caught:
        memory("M(d)", architecture="matrix", retention="kl(alpha) at token")
    (found,) = caught.value.diagnostics

    assert found.at.span.source.name == "m.mem" and found.at.span.line == 4
    assert found.because[0].span.source.name == "std/retentions.mem"


@pytest.mark.parametrize("name", ["y", "valid", "W_anchor", "W_1", "S_W", "d_W", "open_W"])
def test_a_weight_is_not_called_what_is_carried_for_another(name: str) -> None:
    text = """memory M(d) {
      architecture { W: matrix[value, 3]   NAME: matrix[3, key]   M(z) = W @ tanh(NAME @ z) }
      bias         l2
      retention    none
      algorithm    momentum(eta, mu), anchored(4, sweeps = 2)
      order        predict, write, read
      gates        { eta, mu = sigmoid(linear(x)) / 8 }
    }"""
    with pytest.raises(SpecErrors, match="M0108"):
        read(Source("names.mem", text.replace("NAME", name)))
    read(Source("names.mem", text.replace("NAME", "V")))


SIZES_BELOW_ONE = (
    "0 - d",
    "d - 8",
    "1 - d",
    "d - 2 * d",
    "n - d",
    "1 / d",
    "d / (d - 1)",
    "0",
    "1.5",
    "-3",
)


@pytest.mark.parametrize("size", SIZES_BELOW_ONE)
def test_a_size_that_may_be_zero_or_less_is_refused(size):
    text = f"""memory M(d, n = 3) {{
  architecture mlp(hidden = {size})
  bias l2   retention none   algorithm gd(eta), anchored(8)   order predict, write, read
  gates {{ eta = sigmoid(linear(x)) / 64 }}
}}
"""
    with pytest.raises(SpecErrors) as errors:
        read(Source("m.mem", text))
    assert [found.code for found in errors.value.diagnostics] == ["M0213"]


@pytest.mark.parametrize("size", ["4 * d", "d / 2", "d + n", "d * n", "16", "2 * d + 1"])
def test_a_size_that_is_above_zero_is_taken(size):
    text = f"""memory M(d, n = 3) {{
  architecture mlp(hidden = {size})
  bias l2   retention none   algorithm gd(eta), anchored(8)   order predict, write, read
  gates {{ eta = sigmoid(linear(x)) / 64 }}
}}
"""
    assert read(Source("m.mem", text)).memories["M"].states
