"""What a state may go through: pieces, decoding, packing, padding, going back, other rows, a file.

Whatever happens to a state between two calls, answers, later states and gradients are those of a batch
that was read in one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import miras_dsl as miras
from miras_dsl.runtime.layers import state_tree
from tests.module.test_operator import RULES, layer_of
from tests.module.word_memories import TEXTS

pytestmark = pytest.mark.filterwarnings("ignore::miras_dsl.exceptions.SpecWarning")
TOKENS = 21
FILES = ("gated_deltanet", "delta_product", "rwkv7", "hgrn", "yaad")
LAYERS = {f"{file}.{name}": (file, name) for file in FILES for name in miras.parse(file).layers}
LAYERS |= {name: (name, "") for name in RULES}
LAYERS["the token before"] = (TEXTS["the token before"], "Around")


def layer_named(name: str) -> nn.Module:
    torch.manual_seed(0)
    file, title = LAYERS[name]
    layer = miras.load(file)[title](width=8, heads=2) if title else layer_of(name)
    return layer.double()


class Reading:
    """A batch [3, TOKENS, 8], what the layer makes of it in one call, and that call's gradients."""

    def __init__(self, name: str) -> None:
        self.layer = layer_named(name)
        self.x = torch.randn(3, TOKENS, 8, dtype=torch.float64)
        self.weights = torch.randn(3, TOKENS, 8, dtype=torch.float64)
        with torch.no_grad():
            _, self.before = self.layer(torch.randn(3, 5, 8, dtype=torch.float64))
        leaf = self.x.clone().requires_grad_()
        self.y, self.after = self.layer(leaf, self.before)
        self.gradients = self.gradients_of(self.y, self.after, leaf)

    def gradients_of(self, y: Tensor, after: state_tree.State, x: Tensor) -> list[Tensor]:
        """Of the input and every parameter, for a loss of answers and states after them."""
        loss = (y * self.weights).sum()
        for _, value in state_tree.leaves(after):
            if value.is_floating_point():
                loss = loss + value.sin().sum()
        wanted = [x, *self.layer.parameters()]
        return list(torch.autograd.grad(loss, wanted, materialize_grads=True, allow_unused=True))

    def require_same(self, y: Tensor, after: state_tree.State, x: Tensor) -> None:
        torch.testing.assert_close(y, self.y, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(after, self.after, rtol=1e-9, atol=1e-10)
        for found, wanted in zip(self.gradients_of(y, after, x), self.gradients, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)


@pytest.fixture(params=LAYERS, scope="module")
def reading(request: pytest.FixtureRequest) -> Iterator[Reading]:
    yield Reading(request.param)


def test_in_pieces_and_token_by_token(reading: Reading) -> None:
    """A prefill in pieces of 1, 7, 0 and 5 tokens, then `step` for each of the others."""
    x, state, answers = reading.x.clone().requires_grad_(), reading.before, []
    for start, end in ((0, 1), (1, 8), (8, 8), (8, 13)):
        y, state = reading.layer(x[:, start:end], state)
        answers.append(y)
    for t in range(13, TOKENS):
        y, state = reading.layer.step(x[:, t], state)
        answers.append(y[:, None])
    reading.require_same(torch.cat(answers, 1), state, x)


def test_packed_beside_other_sequences(reading: Reading) -> None:
    """Each row as a packed sequence, between an empty one and a strange one."""
    x = reading.x.clone().requires_grad_()
    strange = torch.randn(1, 4, 8, dtype=torch.float64)
    row = torch.cat([x[:1], strange, x[1:2], x[2:]], 1)
    ends = [0, TOKENS, TOKENS, TOKENS + 4, 2 * TOKENS + 4, 3 * TOKENS + 4]
    before = state_tree.rows(reading.before, torch.tensor([0, 1, 0, 1, 2]))
    y, after = reading.layer(row, before, torch.tensor(ends))
    own = [y[:, :TOKENS], y[:, TOKENS + 4 : 2 * TOKENS + 4], y[:, 2 * TOKENS + 4 :]]
    reading.require_same(torch.cat(own), state_tree.rows(after, torch.tensor([0, 3, 4])), x)


def test_padded_with_a_mask(reading: Reading) -> None:
    """Padding before, behind and between the tokens."""
    x = reading.x.clone().requires_grad_()
    mask = torch.zeros(3, TOKENS + 6, dtype=torch.bool)
    mask[0, :TOKENS] = mask[1, 6:] = mask[2, 3 : TOKENS + 3] = True
    mask[2, [0, 9]] = torch.tensor([True, False])
    padded = torch.full((3, TOKENS + 6, 8), 1e3, dtype=torch.float64)
    padded = padded.masked_scatter(mask[..., None], x)
    y, after = reading.layer(padded, reading.before, attention_mask=mask)
    reading.require_same(y[mask].unflatten(0, (3, TOKENS)), after, x)


def test_rolled_back(reading: Reading) -> None:
    """A draft is read and refused, twice; the state after an earlier token is found as well."""
    x = reading.x.clone().requires_grad_()
    history = reading.layer.history(every=4, state=reading.before)
    first = history.extend(x[:, :10])
    history.extend(torch.randn(3, 7, 8, dtype=torch.float64))
    history.roll_back(10)
    second = history.extend(x[:, 10:14])
    history.extend(torch.randn(3, 1, 8, dtype=torch.float64))
    history.roll_back(14)
    third = history.extend(x[:, 14:])
    assert history.tokens == TOKENS
    state = history.at(13)
    fourth, after = reading.layer(x[:, 13:], state)
    torch.testing.assert_close(fourth[:, 1:], third, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(after, history.state, rtol=1e-9, atol=1e-10)
    reading.require_same(torch.cat([first, second, third], 1), history.state, x)
    with pytest.raises(ValueError, match="21 tokens were read, so there is no state after 22"):
        history.at(22)


def test_other_rows_and_a_file(reading: Reading, tmp_path: Path) -> None:
    """Rows change places on the way, and the state is written to a file and read again."""
    order, back = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    x = reading.x.clone().requires_grad_()
    first, middle = reading.layer(x[:, :9], reading.before)
    second, after = reading.layer(x[order, 9:], miras.state_rows(middle, order))
    reading.require_same(torch.cat([first, second[back]], 1), miras.state_rows(after, back), x)
    miras.save_state(middle, tmp_path / "state.safetensors")
    again, _ = reading.layer(x[:, 9:], miras.load_state(tmp_path / "state.safetensors"))
    torch.testing.assert_close(again, second[back], rtol=0, atol=1e-12)


def test_a_damaged_state(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(miras.EnvironmentFailure, match="there is no file"):
        miras.load_state(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(miras.EnvironmentFailure, match="holds no state"):
        miras.load_state(path)
    with pytest.raises(miras.EnvironmentFailure, match="cannot be written"):
        miras.save_state({"W": torch.zeros(1)}, tmp_path / "none" / "state")
