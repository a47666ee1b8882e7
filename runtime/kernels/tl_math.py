"""Scalar functions for kernels that Triton lacks, or has with large relative errors near 0.

In float32 `2 sigmoid(2x) - 1`, `log(1 + t)` and `|x| - log(2)` lose the digits of a small operand.
Polynomials are used there; the largest error is a few units in the last place.  Each form is finite
wherever the function is, so that choosing between two of them never yields a NaN.
"""

from __future__ import annotations

from .optional_triton import tl, triton


@triton.jit
def tanh(x):
    """tanh(x)."""
    z = x * x
    near = -5.70498872745e-3 * z + 2.06390887954e-2
    near = (near * z - 5.37397155531e-2) * z + 1.33314422036e-1
    near = (near * z - 3.33332819422e-1) * z * x + x
    # What is left to 1 is small, and so is its error: 1 - tanh(x)^2 keeps its digits.
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0.0, -far, far))


@triton.jit
def sinh(x):
    """(e^x - e^-x) / 2, from e^(x/2), which is finite wherever the result is."""
    z = x * x
    near = 2.03721912945e-4 * z + 8.33028376239e-3
    near = (near * z + 1.66667160211e-1) * z * x + x
    half = tl.exp(0.5 * tl.abs(x))
    far = 0.5 * half * half - 0.5 / half / half
    return tl.where(tl.abs(x) < 1.0, near, tl.where(x < 0.0, -far, far))


@triton.jit
def cosh(x):
    """(e^x + e^-x) / 2."""
    half = tl.exp(0.5 * tl.abs(x))
    return 0.5 * half * half + 0.5 / half / half


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0; the factor x / (u - 1) corrects the rounding of u = 1 + x."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0)))


@triton.jit
def softplus(x):
    """log(1 + e^x)."""
    return tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def logcosh(x):
    """log(cosh(x))."""
    size = tl.abs(x)
    z = x * x
    near = -4.001657601832e-4 * z + 1.973924341664e-3
    near = (near * z - 6.679694910112e-3) * z + 2.221259637214e-2
    near = ((near * z - 8.333281367968e-2) * z + 4.999999953952e-1) * z
    far = (size - 0.6931471805599453) + log1p(tl.exp(-2.0 * size))
    return tl.where(size < 0.8, near, far)


@triton.jit
def gelu(x):
    """x Φ(x) with the standard normal distribution Φ."""
    return 0.5 * x * (1.0 + tl.erf(0.7071067811865476 * x))


@triton.jit
def gelu_slope(x):
    """The derivative of `gelu`."""
    density = tl.exp(-0.5 * (x * x)) * 0.3989422804014327
    return 0.5 * (1.0 + tl.erf(0.7071067811865476 * x)) + x * density


@triton.jit
def asinh(x):
    """log(x + sqrt(x^2 + 1)); above 1e4 the root is taken to be x."""
    size = tl.abs(x)
    inner = tl.minimum(size, 1e4)
    near = log1p(inner + inner * inner / (1.0 + tl.sqrt(inner * inner + 1.0)))
    far = tl.log(tl.maximum(size, 1.0)) + 0.6931471805599453
    found = tl.where(size < 1e4, near, far)
    return tl.where(x < 0.0, -found, found)


@triton.jit
def within_turn(x):
    """x less whole turns of 2 pi, from -pi to pi; multiples of 6.28125 are exact."""
    turns = tl.floor(x / 6.283185307179586 + 0.5)
    return (x - turns * 6.28125) - turns * 0.0019353071795864769


@triton.jit
def sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0.0, 1.0, 0.0) - tl.where(x < 0.0, 1.0, 0.0)


@triton.jit
def rsqrt(x):
    """1 / sqrt(x) for x > 0, else 0."""
    return tl.where(x > 0.0, 1.0 / tl.sqrt(tl.where(x > 0.0, x, 1.0)), 0.0)


@triton.jit
def hypot(x, c):
    """sqrt(x^2 + c^2) for c > 0; the larger of the two is taken out of the root."""
    size = tl.abs(x)
    large, small = tl.maximum(size, c), tl.minimum(size, c)
    share = small / large
    return large * tl.sqrt(1.0 + share * share)


@triton.jit
def hypot_slope(x, c):
    """x / sqrt(x^2 + c^2)."""
    return x / hypot(x, c)


@triton.jit
def power(x, p):
    """x^p for x >= 0.

    x is m 2^n with m from 0.7 to 1.4, so x^p is 2^(p n) m^p.  `exp(p log(x))` would round the large
    product p log(x); here p n is split into a whole number and a rest, and only the rest is rounded.
    """
    tiny = x < 1e-30
    scaled = tl.where(tiny, x * 18446744073709551616.0, x)
    bits = scaled.to(tl.int32, bitcast=True) - 0x3F3504F3
    m = ((bits & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True)
    n = (bits >> 23).to(tl.float32) - tl.where(tiny, 64.0, 0.0)
    p = p + tl.zeros_like(x)
    high = (p.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
    whole = tl.minimum(tl.maximum(tl.floor(high * n + 0.5), -126.0), 127.0)
    rest = (high * n - whole) + (p - high) * n
    found = tl.exp2(rest + p * tl.log2(m)) * tl.exp2(whole)
    return tl.where((x > 0.0) & (x < float("inf")), found, tl.exp(p * tl.log(x)))


@triton.jit
def abs_pow(x, p):
    """|x|^p, 0 at 0."""
    return tl.where(x != 0.0, power(tl.abs(tl.where(x != 0.0, x, 1.0)), p), 0.0)


@triton.jit
def signed_pow(x, p):
    """sign(x) |x|^p, 0 at 0."""
    return sign(x) * abs_pow(x, p)


@triton.jit
def pow_nonneg(x, p):
    """x^p for a p that is not a whole number, 0 at 0."""
    there = x != 0.0
    return tl.where(there, power(tl.where(there, x, 1.0), p), 0.0)
