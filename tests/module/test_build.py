"""From text to classes and back to numbers: loading, caching, and a memory as a function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from miras_dsl.check import read
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.runtime.layers import state_tree as states
from miras_dsl.runtime.load.loader import implementation, load
from miras_dsl.source import Source

TEXT = """
memory Robust(dk, dv) {
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates { alpha = exp(-exp(param) * softplus(linear(x) + param))   eta = sigmoid(linear(x)) }
}
layer Mixer(heads = 2) = Robust with conv(4), silu, normalize(query, key), output_gate
model Tiny(width = 16, vocab = 11) = repeat 2 { Mixer ; swiglu }
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "cache"))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def test_a_file_becomes_classes(tmp_path: Path) -> None:
    file = tmp_path / "robust.mem"
    file.write_text(TEXT, encoding="utf-8")
    library = load(file)
    assert {"Robust", "Mixer", "Tiny"} <= set(dir(library))
    assert library.source_text == TEXT and library.path.read_text(encoding="utf-8") == library.text
    assert "# log_alpha: robust.mem:8" in library.text
    assert library["Robust"] is library.Robust and load(str(file)) is library
    with pytest.raises(AttributeError, match="no Rubust; it has Robust, Mixer, Tiny"):
        library.Rubust  # noqa: B018


def test_a_wrong_text_raises_all_its_mistakes() -> None:
    with pytest.raises(SpecErrors):
        load(TEXT.replace("decay, predict, write, read", "decay, write"))


def test_the_layer_splits_packs_and_steps() -> None:
    torch.manual_seed(0)
    layer = load(TEXT).Mixer(width=16).double()
    x = noise(2, 70, 16)
    whole, last = layer(x)
    first, state = layer(x[:, :33])
    second, state = layer(x[:, 33:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(states.flatten(state), states.flatten(last))
    step, state = layer.step(x[:, 0])
    torch.testing.assert_close(step, whole[:, 0])
    step, _ = layer.step(x[:, 1], state)
    torch.testing.assert_close(step, whole[:, 1])
    packed, _ = layer(x.reshape(1, 140, 16), cu_seqlens=torch.tensor([0, 70, 140]))
    torch.testing.assert_close(packed.reshape(2, 70, 16), whole)


def test_a_model_trains() -> None:
    torch.manual_seed(0)
    model = load(TEXT).Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.randint(0, 11, (4, 8)).repeat(1, 2)
    losses = []
    for _ in range(30):
        logits, _ = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_a_memory_as_a_function_of_its_leaves() -> None:
    spec = read(Source("robust.mem", TEXT)).memories["Robust"]
    run = implementation(spec, {"dk": 3, "dv": 5})
    inputs = {
        "query": noise(2, 6, 1, 3),
        "key": torch.nn.functional.normalize(noise(2, 6, 1, 3), dim=-1),
        "value": noise(2, 6, 1, 5),
        "alpha": noise(2, 6, 1).sigmoid(),
        "eta": noise(2, 6, 1).sigmoid(),
    }
    y, state = run(inputs, None)
    W = torch.zeros(2, 5, 3, dtype=torch.float64)
    for t in range(6):
        q, k, v, alpha, eta = (u[:, t, 0] for u in inputs.values())
        W = alpha[:, None, None] * W
        error = torch.einsum("bvk,bk->bv", W, k) - v
        W = W - eta[:, None, None] * error[:, :, None] * k[:, None, :]
        torch.testing.assert_close(y[:, t, 0], torch.einsum("bvk,bk->bv", W, q))
    torch.testing.assert_close(state["W"][:, 0], W)
    with pytest.raises(ValueError, match="Robust needs the size dv"):
        implementation(spec, {"dk": 3})
