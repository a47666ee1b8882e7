"""Exploring from a script: specs are text, so a design space is a loop.

    python examples/05_explore_from_a_script.py [--seconds 3] [--out runs/explore]

Three biases, two retention gates and two networks make twelve memories.  Each is trained for a few
seconds on generated recall, and they are ranked; the ranking is also a picture.  The best three are
checked against autodiff before anybody builds on them.
"""

import argparse
from itertools import product
from pathlib import Path

import torch

import miras_dsl as miras
from miras_dsl.runtime.train import plots, recall_task

BIASES = {
    "l2": "sum(({answer} - value)^2) / 2",
    "logcosh": "sum(log(cosh({answer} - value)))",
    "huber": "huber(1)",
}
RETENTIONS = {"keep all": "none", "decay": "l2(alpha)"}
NETWORKS = {
    "matrix": ("W: matrix[value, key]", "W @ key", "exact"),
    "mlp": ("mlp(hidden = 2 * d, activation = gelu, residual)", "M(key)", "anchored(8)"),
}
TASK = recall_task.RecallTask(vocab=16, length=16, pairs=2)


def memory(bias: str, retention: str, network: str) -> str:
    """The text of one memory, with a layer and a small model around it."""
    architecture, answer, meaning = NETWORKS[network]
    decays = retention != "keep all"
    return f"""
memory Candidate(d) {{
  architecture {architecture}
  bias         {BIASES[bias].format(answer=answer)}
  retention    {RETENTIONS[retention]}
  algorithm    gd(eta), {meaning}
  order        predict, {"decay, " if decays else ""}write, read
  gates {{
    eta = sigmoid(linear(x)) / {1 if network == "matrix" else 8}
    {"alpha = 0.9 + 0.1 * sigmoid(linear(x))" if decays else ""}
  }}
}}
layer Mixer(heads = 1) = Candidate with conv(4), silu, normalize(query, key), output_gate
model Small(width = 32, vocab = {TASK.vocab}) = repeat 1 {{ Mixer ; swiglu }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of training for each memory")
    parser.add_argument("--out", type=Path, default=Path("runs/explore"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)

    scores: dict[str, float] = {}
    texts: dict[str, str] = {}
    for choices in product(BIASES, RETENTIONS, NETWORKS):
        name, text = ", ".join(choices), memory(*choices)
        torch.manual_seed(0)
        model = miras.load(text).Small(width=32, vocab=TASK.vocab)
        score = recall_task.learn(model, TASK, seconds=asked.seconds, rate=1e-2)
        print(f"{name:28} {score.steps:4d} steps  {score.accuracy:6.1%}")
        scores[name], texts[name] = score.accuracy, text

    print("\nranking")
    for place, name in enumerate(sorted(scores, key=scores.__getitem__, reverse=True)):
        proof = ""
        if place < 3:
            (certificate,) = miras.certify(texts[name]).values()
            proof = "certificate green" if certificate.green else "certificate RED"
        print(f"{scores[name]:6.1%}  {name:28} {proof}".rstrip())
    title = f"recall after {asked.seconds:g} s, {TASK.pairs} pairs"
    picture = plots.ranking(asked.out / "ranking.png", scores, "accuracy", title, TASK.chance)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
