"""Memories for words of tokens and gates: numbers of heads, the largest entries, the token before."""

MEMORY = """
memory M(d) {{
  tokens       {{ query  key  value {tokens} }}
  architecture W: matrix[value, key]
  bias         {bias}
  retention    decay {decay}
  algorithm    {algorithm}, exact
  order        {order}
  read         {read}
  gates        {{ eta = sigmoid(linear(x)) {gates} }}
}}
layer Around = M with conv(3), silu, normalize(query, key), output_gate
"""


def memory(
    tokens: str = "",
    bias: str = "l2",
    decay: str = "0.5 + sigmoid(linear(x)) / 2",
    algorithm: str = "gd(eta)",
    order: str = "decay, predict, write, read",
    read: str = "W @ query",
    gates: str = "",
) -> str:
    """The text of a memory with some of its clauses replaced, and of a layer around it."""
    return MEMORY.format(
        tokens=tokens,
        bias=bias,
        decay=decay,
        algorithm=algorithm,
        order=order,
        read=read,
        gates=gates,
    )


TEXTS = {
    "a rate of each head": memory(decay="alpha", gates="alpha = 1 - 2^(-4 - head)"),
    "a share of the heads": memory(decay="alpha", gates="alpha = exp(-2^(-8 * head / heads))"),
    "heads in place": memory(
        tokens="far = key / head   shifted[value] = value + linear(x * head)",
        decay="1 - 2^(-1 - head)", algorithm="gd(eta / heads)",
        read="W @ (query + far) / head + shifted",
    ),
    "sparse slots": memory(
        tokens="slot[key] = topk(softmax(linear(x)), 2)",
        bias="-dot(W @ slot, value)", decay="alpha", order="decay, write, read",
        read="W @ (query + key)",
        gates="r[key] = topk(sigmoid(linear(x)), 2)   alpha[key] = 1 - eta * r / sum(r)",
    ),
    "more than there are": memory(read="W @ topk(query, 64) + topk(value, 1)"),
    "the token before": memory(
        tokens="key_before = shift(key)   value_before = shift(value)",
        bias="now: -dot(W @ key, value), past: -dot(W @ key_before, value_before)",
        algorithm="gd(now = eta, past = beta)", order="decay, write, read",
        gates="beta = 1 - eta",
    ),
    "two tokens before": memory(read="W @ (query + shift(shift(query)))"),
    "rates of terms": memory(
        tokens="removal = normalize(key * (1 + param[key]))",
        bias="erase: sum((W @ removal)^2) / 2, store: -dot(W @ key, value)",
        algorithm="momentum(erase = eta / 2, store = b, mu = m)",
        gates="b = sigmoid(linear(x))   m = 0.8 * sigmoid(linear(x))",
    ),
    "a quotient of exponentials": memory(
        decay="1 / (1 + exp(param[key]) / (1 + exp(eta)))",
        algorithm="gd(exp(-softplus(param(1))) / (1 + exp(eta)))",
    ),
    "squares of keys": memory(tokens="key = linear(x) + linear(x)^2 / 2"),
    "positive numbers": memory(
        decay="exp(-softplus(param(1)) * eta)", algorithm="gd(rate / 4)",
        gates="rate[key] = exp(param[key]) / (1 + softplus(param(1)))",
    ),
}  # fmt: skip
EVERYTHING = memory(
    tokens="slot = normalize(topk(key + shift(key) / head, 3))",
    bias="sum((W @ slot - value)^2) / 2",
    decay="1 - 2^(-1 - head - softplus(linear(x)))",
)
