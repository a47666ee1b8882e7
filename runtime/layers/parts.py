"""The parts of layers and models that generated modules share.

Shapes: features [B, T, width]; tokens and gates of a memory [B, T, H, *axes].  Packed sequences lie one
after the other in one row (B = 1), with their N + 1 bounds in `cu_seqlens`; states then have N rows.
Gates, logarithms, norms and states are computed in float32 at least, whatever the type of the parameters
and under autocast; tokens are in the type that autocast or the input has.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conv_state import ConvState, upcast
from .state_tree import State

GAIN = 0.5
"""Linear maps start normally distributed, with standard deviation GAIN / sqrt(fan-in)."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """What surrounds a memory inside its layer.

    conv         width of the causal depthwise convolution of query, key and value; 0 for none
    activation   "silu" after the convolution, or None
    normalize    names of tokens that are divided by their l2 norm
    output_norm  per-head RMS norm of the memory's answer
    output_gate  answer * silu(linear(x))
    The defaults are those of a memory that is used without a `layer` around it.
    """

    conv: int = 0
    activation: str | None = None
    normalize: tuple[str, ...] = ("query", "key")
    output_norm: bool = True
    output_gate: bool = False


def head_size(width: int, heads: int) -> int:
    """The width of one head.  Raises ValueError if ``heads`` does not divide ``width``."""
    if heads < 1 or width % heads:
        raise ValueError(f"width {width} cannot be shared by {heads} heads: it is not a multiple")
    return width // heads


def token_dtype(x: Tensor) -> torch.dtype:
    """The type in which tokens are computed: that of autocast if it is on, else that of ``x``."""
    kind = x.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else x.dtype


class Linear(nn.Module):
    """A learned linear map [..., inputs] -> [..., *shape], of rank at most ``rank`` if not 0.

    No bias: a formula that wants one says `+ param`.
    """

    def __init__(self, inputs: int, *shape: int, rank: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.down = nn.Parameter(torch.empty(rank, inputs)) if rank else None
        self.weight = nn.Parameter(torch.empty(prod(shape), rank or inputs))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.down is not None:
            self.down.normal_().div_(sqrt(self.down.shape[1]))
        self.weight.normal_().mul_(GAIN / sqrt(self.weight.shape[1]))

    def extra_repr(self) -> str:
        inputs = self.weight.shape[1] if self.down is None else self.down.shape[1]
        rank = "" if self.down is None else f", rank={self.weight.shape[1]}"
        return f"{inputs} -> {' x '.join(map(str, self.shape))}{rank}"

    def forward(self, x: Tensor) -> Tensor:
        # The result of another formula is in float32, whatever the type of the layer.
        x = x.to(self.weight.dtype)
        if self.down is not None:
            x = F.linear(x, self.down)
        return F.linear(x, self.weight).unflatten(-1, self.shape)


class CausalConv(nn.Module):
    """Causal depthwise convolution over time, [B, T, *shape] -> the same; weight 0 is that of the
    newest input."""

    kind = "conv"

    def __init__(self, name: str, width: int, *shape: int) -> None:
        super().__init__()
        self.name, self.lags, self.shape = name, width - 1, shape
        self.weight = nn.Parameter(torch.empty(width, *shape))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.uniform_(-1, 1).div_(sqrt(self.lags + 1))

    def extra_repr(self) -> str:
        return f"{self.name}, width={self.lags + 1}, {' x '.join(map(str, self.shape))}"

    def forward(self, x: Tensor, past: ConvState) -> Tensor:
        weight = self.weight.to(x.dtype)
        lagged = past.lagged(self.kind, self.name, x, self.lags)
        return torch.stack([w * u for w, u in zip(weight, lagged, strict=True)]).sum(0)


class Shift(nn.Module):
    """The previous token's features [B, T, *shape]; zero before the first."""

    kind = "shift"

    def __init__(self, name: str, *shape: int) -> None:
        super().__init__()
        self.name, self.lags, self.shape = name, 1, shape

    def extra_repr(self) -> str:
        return f"{self.name}, {' x '.join(map(str, self.shape))}"

    def forward(self, x: Tensor, past: ConvState) -> Tensor:
        return past.lagged(self.kind, self.name, x, 1)[1]


def initial_tails(layer: nn.Module, blank: Tensor, batch: int) -> State:
    """The first state of a layer's convolutions and shifts: kind -> name -> zeros [batch, lags, *shape]."""
    tails: dict[str, dict[str, Tensor]] = {}
    for block in layer.modules():
        if isinstance(block, CausalConv | Shift):
            zeros = blank.new_zeros(batch, block.lags, *block.shape)
            tails.setdefault(block.kind, {})[block.name] = zeros
    return dict(tails)


class TokenPreprocess(nn.Module):
    """The convolution, activation and l2 normalisation of a token [B, T, *shape], as `Backbone` says.

    Raises ValueError for an activation other than "silu" or None.
    """

    def __init__(self, name: str, backbone: Backbone, *shape: int) -> None:
        super().__init__()
        self.name, self.shape = name, shape
        projected = name in ("query", "key", "value")
        self.conv = CausalConv(name, backbone.conv, *shape) if projected and backbone.conv else None
        self.activation = backbone.activation if projected else None
        self.normalize = name in backbone.normalize
        if self.activation not in (None, "silu"):
            raise ValueError(f"unknown activation {self.activation!r}")

    def extra_repr(self) -> str:
        said = (self.name, self.activation, "unit length" if self.normalize else None)
        return ", ".join([*filter(None, said), " x ".join(map(str, self.shape))])

    def forward(self, token: Tensor, past: ConvState) -> Tensor:
        if self.conv is not None:
            token = self.conv(token, past)
        if self.activation == "silu":
            token = F.silu(token)
        return unit(token, -1).to(token.dtype) if self.normalize else token


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, computed in float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.fill_(1)

    def extra_repr(self) -> str:
        return str(len(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        wide = upcast(x)
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return (scaled * self.weight).to(x.dtype)


class OutputProjection(nn.Module):
    """From a memory's answer [B, T, H, size] to features [B, T, width]: norm, gate, projection."""

    def __init__(self, width: int, heads: int, size: int, backbone: Backbone) -> None:
        super().__init__()
        self.norm = RMSNorm(size) if backbone.output_norm else None
        self.gate = Linear(width, heads, size) if backbone.output_gate else None
        self.project = Linear(heads * size, width)

    def forward(self, answer: Tensor, x: Tensor) -> Tensor:
        answer = answer.to(token_dtype(x))
        if self.norm is not None:
            answer = self.norm(answer)
        if self.gate is not None:
            answer = answer * F.silu(self.gate(x))
        return self.project(answer.flatten(-2)).to(x.dtype)


def like_parameters(layer: nn.Module) -> Tensor:
    """An empty tensor on the layer's device, of the type of its states (float32 at least)."""
    parameter = next(layer.parameters())
    return upcast(parameter.new_empty(0))


def head_numbers(layer: nn.Module) -> Tensor:
    """1, 2 … up to the layer's number of heads: [H], of the type of its states."""
    blank = like_parameters(layer)
    return torch.arange(1, layer.heads + 1, dtype=blank.dtype, device=blank.device)


def expand_to(value: Tensor | float, blank: Tensor, *shape: int) -> Tensor:
    """A number, or a tensor that broadcasts to ``shape``, expanded to it."""
    tensor = value if isinstance(value, Tensor) else blank.new_tensor(value)
    return tensor.expand(shape)


def expand_initial(first: Tensor, batch: int) -> Tensor:
    """An initial value [H, *axes] for every sequence, [batch, H, *axes]; it has gradients."""
    return upcast(first).expand(batch, *first.shape)


def unit(x: Tensor, axis: int) -> Tensor:
    """x / max(|x|, 1e-6) along an axis, in float32 at least."""
    return F.normalize(upcast(x), dim=axis, eps=1e-6)


def largest_entries(x: Tensor, axis: int, count: int) -> Tensor:
    """x with 0 in place of all but its ``count`` largest entries along an axis; of equal ones the first
    stay.  A gradient goes to those that stay."""
    falling = torch.argsort(x.detach(), dim=axis, descending=True, stable=True)
    return torch.where(falling.argsort(axis) < count, x, torch.zeros_like(x))


def orthogonal(x: Tensor, steps: int) -> Tensor:
    """Newton-Schulz iteration on matrices [..., rows, columns]: singular values approach 1 (Muon)."""
    wide = upcast(x)
    x = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=1e-6)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def learned_constant(first: float, *shape: int) -> nn.Parameter:
    """A learned constant of this shape whose entries start at ``first``."""
    return nn.Parameter(torch.full(shape, first))


def learned_weight(*shape: int) -> nn.Parameter:
    """The learned initial value of a weight [H, *axes]: normally distributed, with standard deviation
    1 / sqrt(columns) for matrices and 0.02 for vectors."""
    scale = 1 / sqrt(shape[-1]) if len(shape) > 2 else 0.02
    return nn.Parameter(torch.randn(shape) * scale)


def positive_weight(*shape: int) -> nn.Parameter:
    """The learned logits of a weight [H, *axes] whose rows start positive; see `rows_on_simplex`."""
    return nn.Parameter(torch.randn(shape))


def rows_on_simplex(logits: Tensor, total: float) -> Tensor:
    """Positive rows that sum to ``total``."""
    return total * upcast(logits).softmax(-1)


def log_uniform_rate(*shape: int) -> nn.Parameter:
    """A learned constant p with e^p uniform in [1, 16]: the start of a decay rate `exp(param)`."""
    return nn.Parameter(torch.empty(shape).uniform_(1, 16).log())


def inverse_softplus_step(*shape: int) -> nn.Parameter:
    """A learned constant p with softplus(p) log-uniform in [0.001, 0.1]: the start of a step size
    `softplus(… + param)`."""
    step = torch.empty(shape).uniform_(log(1e-3), log(1e-1)).exp()
    return nn.Parameter(step + torch.log(-torch.expm1(-step)))
