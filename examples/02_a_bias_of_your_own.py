"""A bias that is in no library, written in place: the pinball loss, which wants a quantile.

    python examples/02_a_bias_of_your_own.py

No Python is written for it: the gradient is derived, the code generated, and the certificate
compares it with autodiff of the loss as it stands here.
"""

import sys

import miras_dsl as miras

PINBALL = """
# Remembers the upper quartile of what was said about a key: too low costs three times too high.
memory Quartile(d) {
  architecture W: matrix[value, key]
  bias         sum(max(0.75 * (value - W @ key), 0.25 * (W @ key - value)))
  retention    decay alpha
  algorithm    gd(eta), exact
  order        predict, decay, write, read
  gates {
    alpha = 0.9 + 0.1 * sigmoid(linear(x))
    eta   = sigmoid(linear(x))
  }
}
"""


def main() -> int:
    (certificate,) = miras.certify(PINBALL).values()
    print(certificate)
    return 0 if certificate.green else 1


if __name__ == "__main__":
    sys.exit(main())
