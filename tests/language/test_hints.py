"""A newcomer's mistakes are answered with a way out, and doubtful numbers with a warning."""

import pytest

from miras_dsl.check import read, warnings
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.source import Source

CLAUSES = {
    "architecture": "W: matrix[value, key]",
    "bias": "l2",
    "retention": "decay alpha",
    "algorithm": "gd(eta), exact",
    "order": "predict, decay, write, read",
    "gates": "{ alpha, eta = sigmoid(linear(x)) }",
}


def text(head="M(dk, dv)", after="", **clauses):
    """A file whose memory has some clauses replaced."""
    lines = "\n".join(f"  {word} {said}" for word, said in {**CLAUSES, **clauses}.items())
    return f"memory {head} {{\n{lines}\n}}\n{after}"


def told(**clauses):
    """The only error of a file."""
    with pytest.raises(SpecErrors) as caught:
        read(Source("m.mem", text(**clauses)))
    (found,) = caught.value.diagnostics
    return found


def warned(**clauses):
    """The warnings about a file that is not wrong."""
    return warnings(read(Source("m.mem", text(**clauses))))


@pytest.mark.parametrize(
    ("clauses", "code", "way"),
    [
        ({"bias": "sum((W * key - value)^2)"}, "M0203", "`W @ key` sums over key"),
        ({"head": "M(d)", "bias": "sum((W * key - value)^2)"}, "M0203", "`W @ key` sums over key"),
        ({"bias": "sum((value * W)^2)"}, "M0203", "`value @ W` sums over value"),
        ({"bias": "sum(eta * r^2 + alpha * W^2)"}, "M0203", "`sum(a) + sum(b)`"),
        ({"read": "(W * query) @ query"}, "M0203", "`W @ query` sums over key"),
        ({"architecture": "{ W: matrix[value, key]  M(z) = (W * z) @ z }"}, "M0203", "`W @ z`"),
        ({"architecture": "W: matrix[key, value]"}, "M0305",
         "swap the axes: `W: matrix[value, key]`"),
        ({"architecture": "matrix[value, key]"}, "M0301", "`W: matrix[value, key]`"),
        ({"gates": "{ eta = sigmoid(linear(x)) }"}, "M0201",
         "define it: `gates { alpha = sigmoid(linear(x)) }`"),
        ({"bias": "huber(delta)"}, "M0201",
         "did you mean `eta`? Or define it: `gates { delta = sigmoid(linear(x)) }`"),
        ({"gates": "{ alpha, eta = sigmoid(linear(key)) }"}, "M0201", "other gates: `linear(x)`"),
        ({"head": "M(d)", "architecture": "mlp(hidden = d, activation = swish)"}, "M0202",
         "did you mean `silu`?"),
        ({"bias": "sum((w @ key - value)^2)"}, "M0201", "did you mean `W`?"),
        ({"read": "W @ q"}, "M0201", "did you mean `query`?"),
        ({"head": "M(d)", "architecture": "mlp(hidden = d)", "bias": "sum((W @ key - value)^2)"},
         "M0201", "did you mean `W2`?"),
        ({"bias": "mse"}, "M0401", "did you mean `l2`?"),
        ({"bias": "sum((W.T @ key - value)^2)"}, "M0102", "nothing is transposed"),
        ({"bias": "sum(np.abs(r))"}, "M0102", "`abs(r)`"),
        ({"bias": "sum(r.abs())"}, "M0102", "`norm(r)`"),
        ({"gates": "{ alpha = x > 0 ? 1 : 0 }"}, "M0102", "`where(a <= b, then, otherwise)`"),
        ({"gates": "{ alpha = 1 if x > 0 else 0 }"}, "M0101", "`where(a <= b, then, otherwise)`"),
        ({"bias": "sum(r if r > 0 else 0)"}, "M0101", "`where(a <= b, then, otherwise)`"),
        ({"bias": "= l2"}, "M0101", "as in `bias l2`"),
        ({"bias": ": l2"}, "M0101", "as in `bias l2`"),
        ({"gates": "{ alpha = 1, eta = 1 }"}, "M0101", "without commas"),
        ({"bias": "l2;"}, "M0101", "nothing ends a line"),
        ({"bias": "l2 // half the square"}, "M0101", "`#`"),
        ({"bias": "sum(r**2)"}, "M0101", "`x^2`"),
        ({"bias": "sum(2 r^2)"}, "M0101", "`2 * r`"),
        ({"bias": "sum(|r|)"}, "M0102", "`abs(x)`"),
        ({"order": "predict -> decay -> write -> read"}, "M0101", "commas"),
        ({"algorithm": "gd(eta) exact"}, "M0101", "`gd(eta), exact`"),
        ({"retention": "decay = alpha"}, "M0101", "`decay alpha`"),
        ({"retention": "decay alpha, link a at token"}, "M0101", "without commas"),
        ({"after": "layer A = M\nlayer B = A -> M\n"}, "M0901", "a model puts layers"),
        ({"after": "layer A = M with conv\n"}, "M0205", "write `conv(4)`"),
    ],
)  # fmt: skip
def test_a_beginners_slip_is_answered_with_a_way_out(clauses, code, way):
    found = told(**clauses)

    assert found.code == code
    assert way in found.help


def test_one_argument_is_one():
    assert told(after="layer A = M with conv\n").what == "`conv` takes one argument"


def test_a_comment_of_another_language_may_stand_first():
    with pytest.raises(SpecErrors) as caught:
        read(Source("m.mem", "// a memory\n" + text()))

    assert caught.value.diagnostics[0].help == "a comment begins with `#`"


@pytest.mark.parametrize(
    "clauses",
    [
        {"bias": "l2", "gates": "{ alpha[key], eta[value] = sigmoid(linear(x)) }"},
        {"bias": "sum(r^2) + sum(eta * W^2)", "gates": "{ alpha, eta[key] = sigmoid(linear(x)) }"},
        {"algorithm": "{ W = keep(W) - eta * grad }, exact",
         "gates": "{ alpha = sigmoid(linear(x))  eta[value] = sigmoid(linear(x)) }"},
        {"read": "(W * param[key]) @ query"},
        {"retention": "decay alpha  link a * eta at token",
         "gates": "{ alpha = sigmoid(linear(x))  eta[value] = sigmoid(linear(x)) }"},
        {"bias": "a: sum(r^2), b: norm(value) * sum(W^2)", "algorithm": "gd(a = eta, b = eta), exact"},
    ],
)  # fmt: skip
def test_gates_constants_and_numbers_scale_a_wider_shape(clauses):
    assert warned(**clauses) is not None


@pytest.mark.parametrize(
    ("bias", "what", "way"),
    [
        ("sum(log(r))", "logarithm of a number that is 0 or less", "log(1 + r^2)"),
        ("sum(log(abs(r)))", "logarithm of 0", "max(abs(r), 0.001)"),
        ("sum(r^1.5)", "power 1.5 of a negative number", "abs(r)^1.5"),
        ("sum(r^2) / norm(r)", "divide by zero", "max(norm(r), 0.001)"),
        ("sum(1 / r)", "divide by zero", "max(abs(r), 0.001)"),
        ("sum(r^(-2))", "negative power", "max(abs(r), 0.001)"),
    ],
)
def test_a_formula_that_can_leave_its_domain_is_warned_of(bias, what, way):
    (found,) = warned(bias=bias)

    assert (found.code, found.severity) == ("M0803", "warning")
    assert what in found.what and way in found.help


@pytest.mark.parametrize(
    "bias",
    [
        "sum(abs(r)^1.5)", "sum((r^2)^1.5)", "sum(log(1 + r^2))", "logcosh", "sum(r^2) / eta",
        "sum(r^2) * log(eta)", "sum(where(r > 1, log(r), r))", "sum(r^2) / max(norm(r), 0.1)",
        "sum(r^2) / dk",
    ],
)  # fmt: skip
def test_a_formula_that_always_exists_is_not(bias):
    assert warned(bias=bias) == ()


@pytest.mark.parametrize(
    "bias",
    [
        "pinball(0.3)", "sum(abs(r))", "sum(max(2 * r, -r)) / 3", "sum(abs(r)) + sum(W^2)",
        "write exact_sign(r) at key", "lp(1)",
    ],
)  # fmt: skip
def test_a_value_that_is_only_compared_learns_nothing_and_is_warned_of(bias):
    (found,) = warned(bias=bias)

    assert found.code == "M0804" and "`value`" in found.what


@pytest.mark.parametrize(
    "clauses",
    [
        {"bias": "l2"}, {"bias": "dot"}, {"bias": "huber(1)"}, {"bias": "l1"}, {"bias": "lp(1.5)"},
        {"bias": "a: pinball, b: l2", "algorithm": "gd(a = eta, b = eta), exact"},
        {"bias": "pinball", "read": "W @ query + value"},
        {"bias": "sum(where(norm(r) <= 1, r^2, abs(r)))"},
    ],
)  # fmt: skip
def test_a_value_whose_size_is_seen_is_not(clauses):
    assert [w.code for w in warned(**clauses)] == []


@pytest.mark.parametrize(
    ("bias", "learns"),
    [("pinball(0.3)", False), ("write exact_sign(r) at key", False), ("huber(1)", True)],
)
def test_the_warning_says_what_training_does(bias, learns):
    import torch

    import miras_dsl as miras

    source = text(bias=bias)
    layer = miras.load(source).M(width=8, heads=2)
    layer(torch.randn(1, 5, 8))[0].square().sum().backward()
    gradient = layer.value_linear.weight.grad

    assert (gradient is not None and bool(gradient.abs().sum() > 0)) == learns
    assert ("only compared" in miras.explain(source)) != learns
