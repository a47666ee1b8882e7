"""Generated layers and models: any split of a sequence gives the same numbers, and they learn."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from miras_dsl import spec
from miras_dsl.codegen.emit.layer.composition import layer_text, model_text
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.runtime.layers import state_tree as states
from tests.module import rules
from tests.module.generated_file import write


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A memory, a layer of three of them and a model, written to a file and imported."""
    use = spec.Use("Delta")
    both = spec.Together((spec.Use("Delta"), spec.Use("Delta")))
    layer = spec.LayerSpec(
        "Mixer",
        spec.Chain((use, both)),
        heads=2,
        conv=4,
        activation="silu",
        normalize=("query", "key"),
        output_gate=True,
        span=rules.span(12),
    )
    blocks = (spec.Block("Mixer"), spec.Block("swiglu")) * 2
    model = spec.ModelSpec("Tiny", 16, 11, blocks, span=rules.span(14))
    plain = spec.LayerSpec("LayerMeaning", spec.Use("Delta"), span=rules.span(13))
    small = spec.ModelSpec("Small", 16, 11, (spec.Block("LayerMeaning"),), span=rules.span(15))
    texts = [
        emit_module(build_module(rules.memory()), rules.FEEDS, rules.WEIGHTS),
        *map(layer_text, (layer, plain)),
        *map(model_text, (model, small)),
    ]
    return write(tmp_path_factory.mktemp("generated") / "delta.py", "delta", texts)


@pytest.fixture
def mixer(module: ModuleType) -> torch.nn.Module:
    torch.manual_seed(1)
    return module.Mixer(width=16).double()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_a_split_anywhere_gives_the_same_numbers(mixer: torch.nn.Module) -> None:
    x = noise(2, 9, 16)
    whole, last = mixer(x)
    for cut in (0, 1, 2, 5, 9):
        head, state = mixer(x[:, :cut])
        tail, state = mixer(x[:, cut:], state)
        torch.testing.assert_close(torch.cat([head, tail], 1), whole)
        torch.testing.assert_close(states.flatten(state), states.flatten(last))


def test_steps_give_the_numbers_of_one_call(mixer: torch.nn.Module) -> None:
    x = noise(2, 7, 16)
    whole, last = mixer(x)
    state, answers = None, []
    for t in range(7):
        y, state = mixer.step(x[:, t], state)
        answers.append(y)
    torch.testing.assert_close(torch.stack(answers, 1), whole)
    torch.testing.assert_close(states.flatten(state), states.flatten(last))


def test_packed_sequences_do_not_see_each_other(mixer: torch.nn.Module) -> None:
    lengths = [3, 0, 1, 6, 2]
    rows = [noise(1, n + 1, 16)[:, 1:] for n in lengths]
    ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    _, before = mixer(noise(5, 4, 16))
    for state in (None, before):
        packed, after = mixer(torch.cat(rows, 1), state, cu_seqlens=ends)
        alone = [
            mixer(row, None if state is None else states.map(state, lambda s: s[n : n + 1]))  # noqa: B023
            for n, row in enumerate(rows)
        ]
        torch.testing.assert_close(packed, torch.cat([y for y, _ in alone], 1))
        for path, value in states.leaves(after):
            want = torch.cat([states.flatten(kept)[path] for _, kept in alone])
            torch.testing.assert_close(value, want, msg=path)


def test_gradients_flow_through_a_carried_state(mixer: torch.nn.Module) -> None:
    x = noise(1, 8, 16)
    whole, split = x.clone().requires_grad_(), x.clone().requires_grad_()
    mixer(whole)[0].square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in mixer.named_parameters()}
    mixer.zero_grad()
    first, state = mixer(split[:, :3])
    second, _ = mixer(split[:, 3:], state)
    (first.square().sum() + second.square().sum()).backward()
    torch.testing.assert_close(split.grad, whole.grad)
    for name, parameter in mixer.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)
    assert all(grad.abs().max() > 0 for grad in wanted.values())


def test_a_later_token_changes_no_earlier_answer(mixer: torch.nn.Module) -> None:
    x = noise(1, 8, 16)
    other = x.clone()
    other[:, 5] += 1
    assert torch.equal(mixer(x)[0][:, :5], mixer(other)[0][:, :5])
    assert not torch.equal(mixer(x)[0][:, 5:], mixer(other)[0][:, 5:])


def test_no_tokens_change_nothing(mixer: torch.nn.Module) -> None:
    _, state = mixer(noise(2, 3, 16))
    y, after = mixer(noise(2, 3, 16)[:, :0], state)
    assert y.shape == (2, 0, 16)
    torch.testing.assert_close(states.flatten(after), states.flatten(state))


def test_a_model_learns_to_repeat(module: ModuleType) -> None:
    torch.manual_seed(0)
    model = module.Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.randint(0, 11, (8, 6)).repeat(1, 2)
    losses = []
    for _ in range(40):
        logits, _ = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - 2.398) < 0.2, "a new model knows nothing: log(11) nats"
    assert losses[-1] < 0.5 * losses[0]
    step, state = [], None
    for t in range(11):
        logits, state = model.step(ids[:, t], state)
        step.append(logits)
    torch.testing.assert_close(torch.stack(step, 1), model(ids[:, :-1])[0], rtol=1e-3, atol=1e-3)


def test_heads_of_a_model_can_be_chosen(module: ModuleType) -> None:
    assert module.Tiny(width=24, heads=3).blocks[0].layer.delta.heads == 3
    with pytest.raises(ValueError, match="width 16 cannot be shared by 3 heads"):
        module.Tiny(heads=3)


def test_weights_and_states_survive_a_file(module: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    model, ids = module.Tiny(), torch.randint(0, 11, (2, 5))
    _, state = model(ids)
    save_model(model, str(tmp_path / "weights.safetensors"))
    states.save(state, tmp_path / "state.safetensors")
    other = module.Tiny()
    load_model(other, str(tmp_path / "weights.safetensors"))
    again = states.load(tmp_path / "state.safetensors")
    assert torch.equal(other(ids, again)[0], model(ids, state)[0])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_types_of_answers_and_states(module: ModuleType, kind: torch.dtype) -> None:
    mixer = module.Mixer(width=16).to(kind)
    y, state = mixer(torch.randn(1, 3, 16).to(kind))
    assert y.dtype == kind
    wide = torch.promote_types(kind, torch.float32)
    assert {v.dtype for _, v in states.leaves(mixer.initial_state(1))} == {wide}
    assert {v.dtype for p, v in states.leaves(state) if "/conv/" in p} == {wide}


def test_autocast_keeps_gates_and_states_in_float32(module: ModuleType) -> None:
    layer = module.Delta(width=16)
    x = torch.randn(1, 3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        from miras_dsl.runtime.layers.conv_state import ConvState

        fed = layer.feeds(x, ConvState(layer.initial_state(1)))
        y, _ = layer(x)
    types = {name: value.dtype for name, value in fed.items()}
    assert types["query"] == types["key"] == types["value"] == torch.bfloat16
    assert types["log_alpha"] == types["eta"] == torch.float32
    assert y.dtype == torch.float32
