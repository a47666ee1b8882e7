"""The delta rule in six lines: read, typed, derived, compiled, run forward, backward and by token.

python examples/01_delta_rule_in_six_lines.py
"""

import torch

import miras_dsl as miras

DELTA = """
memory Delta(d) {
  architecture W: matrix[value, key]
  bias         sum((W @ key - value)^2) / 2
  retention    none
  algorithm    gd(eta), exact
  order        predict, write, read
  gates        { eta = sigmoid(linear(x)) }
}
"""


def main() -> None:
    torch.manual_seed(0)
    layer = miras.load(DELTA).Delta(width=32, heads=2)
    x = torch.randn(2, 100, 32, requires_grad=True)

    y, _ = layer(x)
    y.square().mean().backward()
    print(
        f"100 tokens at once: {tuple(y.shape)}; the input's gradient has norm {x.grad.norm():.4f}"
    )

    # The same tokens one by one, as in decoding, with the state carried by hand.
    with torch.no_grad():
        carried, answers = None, []
        for t in range(100):
            answer, carried = layer.step(x[:, t], carried)
            answers.append(answer)
    gap = (torch.stack(answers, 1) - y).abs().max().item()
    print(f"one token at a time: largest difference {gap:.1e}")
    assert gap < 1e-4


if __name__ == "__main__":
    main()
