"""What was probably meant by a word that is not known, and what to write for things the language lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

ALIASES = {
    "swish": "silu", "logistic": "sigmoid", "sgn": "exact_sign", "ln": "log", "clamp": "clip",
    "absolute": "abs", "fabs": "abs", "maximum": "max", "minimum": "min", "average": "mean",
    "length": "norm", "l2norm": "norm", "layer_norm": "layernorm", "einsum": "dot", "inner": "dot",
    "if": "where", "select": "where", "dense": "linear", "proj": "linear", "project": "linear",
    "top_k": "topk", "kwta": "topk", "maxk": "topk",
    "delay": "shift", "prev": "shift", "previous": "shift", "convolution": "conv", "conv1d": "conv",
    "mse": "l2", "squared": "l2_full", "mae": "l1", "quantile": "pinball", "cosh_loss": "logcosh",
    "weight_decay": "l2", "forget": "l2", "keep": "none", "sgd": "gd", "descent": "gd",
    "q": "query", "k": "key", "v": "value", "target": "value", "error": "r", "residual": "r",
    "linear_map": "matrix", "zeros": "zero", "random": "learned", "swiglu": "glu",
    "normalise": "normalize", "unit": "normalize", "l2_normalize": "normalize", "sig": "sigmoid",
    "nabla": "grad", "gradient": "grad", "g": "grad", "parameter": "param", "ffn": "swiglu",
    "newton_schulz": "orthogonal", "orthogonalize": "orthogonal", "tensor": "matrix",
    "normal": "learned", "randn": "learned", "xavier": "learned", "ones": "positive",
    "output": "read", "retrieve": "read", "update": "write", "erase": "decay", "retain": "decay",
    "recall": "predict", "chunk": "anchored", "chunked": "anchored", "online": "exact",
    "sigma": "sigmoid", "lr": "eta", "learning_rate": "eta", "rate": "eta", "beta": "eta", "momentum": "mu",
}  # fmt: skip
"""Word of another language or library -> the word of this language."""

ATTENTION = (
    "a memory keeps weights of a fixed size and no tokens, so this language has no attention; nearest "
    "to a window is `algorithm gd(eta), window(64, 1), exact`, which learns from the last 64 tokens"
)
RANDOM = "a formula gives the same numbers at every run: there is nothing random in it"
AXES = "a shape cannot be changed: axes have names, and `@`, `outer` and `sum` make and remove them"
COMPOSED = {
    "square": "`v^2`", "pow": "`x^2`", "power": "`x^2`", "rsqrt": "`1 / sqrt(x)`",
    "reciprocal": "`1 / x`", "log1p": "`log(1 + x)`", "expm1": "`exp(x) - 1`",
    "log2": "`log(x) / log(2)`", "log10": "`log(x) / log(10)`", "exp2": "`2^x`",
    "tan": "`sin(x) / cos(x)`", "logsumexp": "`log(sum(exp(v)))`", "lse": "`log(sum(exp(v)))`",
    "logsigmoid": "`-softplus(-x)`", "log_sigmoid": "`-softplus(-x)`",
    "leaky_relu": "`max(x, 0.01 * x)`", "relu6": "`clip(x, 0, 6)`", "hardtanh": "`clip(x, -1, 1)`",
    "elu": "`where(x > 0, x, exp(x) - 1)`", "mish": "`x * tanh(softplus(x))`",
    "relu2": "`relu(x)^2`", "squared_relu": "`relu(x)^2`", "softsign": "`x / (1 + abs(x))`",
    "heaviside": "`where(x > 0, 1, 0)`", "step": "`where(x > 0, 1, 0)`",
    "rmsnorm": "`v / sqrt(mean(v^2) + 0.000001)`", "rms_norm": "`v / sqrt(mean(v^2) + 0.000001)`",
    "rms": "`sqrt(mean(v^2))`", "var": "`mean((v - mean(v))^2)`", "std": "`sqrt(mean((v - mean(v))^2))`",
    "cosine_similarity": "`dot(normalize(a), normalize(b))`",
    "cosine": "`dot(normalize(a), normalize(b))`", "matmul": "`W @ key`", "mm": "`W @ key`",
    "bmm": "`W @ key`", "mv": "`W @ key`", "mul": "`a * b`", "add": "`a + b`", "sub": "`a - b`",
    "div": "`a / b`", "neg": "`-x`", "frobenius": "`sqrt(sum(W^2))`", "mse_loss": "`sum(r^2)`",
    "pi": "the number, `3.14159`", "e": "`exp(1)`", "lerp": "`g * a + (1 - g) * b`",
}  # fmt: skip
"""Functions of other libraries -> how they are written here."""
ABSENT = {
    **{name: f"it is written {text}" for name, text in COMPOSED.items()},
    **dict.fromkeys(
        ("attention", "softmax_attention", "self_attention", "mha", "transformer", "sdpa",
         "softmax", "sliding_window", "flash_attention", "linear_attention"), ATTENTION),
    **dict.fromkeys(("dropout", "rand", "noise", "bernoulli", "gaussian", "uniform"), RANDOM),
    **dict.fromkeys(
        ("reshape", "view", "cat", "concat", "stack", "split", "chunk", "squeeze", "unsqueeze",
         "permute", "expand", "repeat", "rearrange", "gather", "slice", "roll", "flatten"), AXES),
    **dict.fromkeys(
        ("transpose", "t"),
        "nothing is transposed: `@` sums the axis that both sides name, as in `value @ W` and `W @ key`"),
    **dict.fromkeys(("true", "false", "none", "null", "nan", "inf", "infinity"),
                    "there are only numbers: write `1` or `0`, and a bound such as `1000`"),
    **dict.fromkeys(
        ("adam", "adamw", "rmsprop", "adagrad", "lion", "nesterov", "adafactor"),
        "write its rules in place: `{ carry S  S = mu * S + grad  W = keep(W) - eta * S }`"),
    **dict.fromkeys(
        ("zeros", "ones", "full", "eye", "identity", "zeros_like", "ones_like"),
        "a number goes with every shape: write `0` or `1`"),
    **dict.fromkeys(("detach", "stop_gradient", "no_grad", "stopgrad"),
                    "there is no stop of gradients: the outer gradient is that of the formula"),
    **dict.fromkeys(("cumsum", "cumprod", "scan", "for", "while", "loop"),
                    "a formula is about one token; what goes from token to token is the memory itself, "
                    "`shift(x)` or `conv(x, width = 4)`"),
    **dict.fromkeys(("argmax", "sort", "argsort", "one_hot", "floor", "ceil", "round", "mod"),
                    "it has no useful slope and is no function here; `softmax(v)` is its smooth form, and "
                    "`topk(v, n)` keeps the n largest entries"),
    **dict.fromkeys(("cross_entropy", "nll", "kl_div", "ce", "bce", "kl_loss"),
                    "a bias compares M(key) with value: written out, "
                    "`-sum(value * log(softmax(M(key))))`"),
    **dict.fromkeys(("batchnorm", "groupnorm", "batch_norm", "instance_norm"),
                    "a formula sees one token of one head: `layernorm(v)`"),
    **dict.fromkeys(("lstm", "gru", "rnn", "mamba", "ssm", "rwkv", "gla", "retnet"),
                    "it is written as a memory of its own, with the four choices; "
                    "`miras new name.mem` writes one to start from"),
    **dict.fromkeys(("gain", "embedding", "mlp_layer", "residual_block"),
                    "what surrounds a memory stands in `layer … with …` and in `model …`"),
}  # fmt: skip
"""A thing that other systems have and this language lacks -> what to write instead."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A help sentence: the closest known word, what to write for a thing that is not here, or a list."""
    words = sorted({w for w in known if not w.startswith("_")})
    meant = _same(word, words, ALIASES)
    if meant:
        return f"did you mean `{meant}`?"
    if word.lower() in ABSENT:
        return ABSENT[word.lower()]
    close = get_close_matches(word[:64], words, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    if not words:
        return ""
    shown = ", ".join(f"`{w}`" for w in words[:16])
    return f"known here: {shown}{' …' if len(words) > 16 else ''}"


def argument_help(function: str, name: str, names: Iterable[str]) -> str:
    """A help sentence about an argument ``name`` that ``function`` has not."""
    if name in ("dim", "axis", "axes", "keepdim"):
        return f"`{function}` goes over all axes of what it is given; `W @ key` sums one axis"
    if function == "where":
        return "a comparison is written with two signs: `where(a == b, then, otherwise)`"
    return did_you_mean(name, names)


def close_word(word: str, words: Iterable[str], aliases: Mapping[str, str]) -> str:
    """The one of ``words`` that was probably meant; empty if none is near."""
    known = list(words)
    close = get_close_matches(word[:64].lower(), known, n=1, cutoff=0.75)
    return _same(word, known, aliases) or (close[0] if close else "")


def is_absent(word: str) -> bool:
    """Whether the language is known to lack what ``word`` names."""
    return word.lower() in ABSENT


def _same(word: str, words: list[str], aliases: Mapping[str, str]) -> str:
    """A word that is the same in other letters, or that another system calls so."""
    alias = aliases.get(word.lower(), "")
    same = [w for w in words if w.lower() == word.lower()]
    return alias if alias in words else same[0] if same else ""
