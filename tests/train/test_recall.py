"""The recall task is the published one; scores mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from miras_dsl.runtime.train import recall_task
from miras_dsl.runtime.train.recall_task import (
    IGNORED,
    RecallTask,
    ablate_memory,
    accuracy,
    generate,
    learn,
)
from tests.train.tiny import Mixer, Tiny


class Lookup(nn.Module):
    """Solves the task by search: the value that followed this key the first time."""

    def __init__(self, task: RecallTask):
        super().__init__()
        self.task, self.mixer = task, Search()

    def forward(self, tokens):
        found, _ = self.mixer(tokens)
        return nn.functional.one_hot(found, self.task.vocab).float(), {}


class Search(nn.Module):
    def forward(self, tokens):
        same = (tokens[:, :, None] == tokens[:, None, :]).int()
        first = same.argmax(-1)
        return tokens.gather(1, (first + 1).clamp(max=tokens.shape[1] - 1)), {}


def test_a_sequence_is_what_was_published():
    """Distinct keys below the middle, distinct values above, each key asked once, at even gaps."""
    task = RecallTask(vocab=40, length=48, pairs=6)
    tokens, answers = (t.numpy() for t in generate(task, 50, 0))
    for row, asked in zip(tokens, answers, strict=True):
        keys, values = row[0:12:2], row[1:12:2]
        assert len(set(keys)) == len(set(values)) == 6
        assert keys.min() >= 1
        assert keys.max() < 20 <= values.min()
        assert values.max() < 40
        (where,) = np.nonzero(asked != IGNORED)
        assert len(where) == 6
        assert (where >= 12).all()
        assert (where % 2 == 0).all()
        assert {row[p]: asked[p] for p in where} == dict(zip(keys, values, strict=True))
        rest = np.setdiff1d(np.arange(12, 48), where)
        assert (row[rest] == 0).all()


def test_gaps_follow_the_power_law():
    """With one pair the gap g is drawn with probability (g + 1)^(a - 1), normalised."""
    task = RecallTask(vocab=8, length=20, pairs=1)
    _, answers = generate(task, 40_000, 1)
    gap = (np.nonzero(answers.numpy() != IGNORED)[1] - 2) // 2
    wanted = (np.arange(9) + 1.0) ** (0.01 - 1)
    np.testing.assert_allclose(
        np.bincount(gap, minlength=9) / 40_000, wanted / wanted.sum(), atol=0.01
    )


def test_filler_is_the_whole_vocabulary():
    tokens, _ = generate(RecallTask(vocab=16, length=64, pairs=2, filler=True), 50, 0)
    assert set(np.unique(tokens.numpy())) == set(range(16))


def test_the_stream_is_seeded():
    task = RecallTask()
    assert torch.equal(generate(task, 3, (0, 1))[0], generate(task, 3, (0, 1))[0])
    assert not torch.equal(generate(task, 3, (0, 1))[0], generate(task, 3, (0, 2))[0])


@pytest.mark.parametrize(("length", "pairs"), [(63, 4), (64, 17)])
def test_impossible_tasks_are_refused(length, pairs):
    with pytest.raises(ValueError, match="must be even"):
        RecallTask(length=length, pairs=pairs)


def test_one_who_looks_it_up_scores_everything():
    """The measure reaches 1 for a right answer and chance for a silenced one."""
    task = RecallTask(vocab=64, length=64, pairs=8)
    model = Lookup(task)
    assert accuracy(model, task, 200, 0) == 1.0
    with ablate_memory(model, (Search,)) as silenced:
        assert silenced == 1
        assert accuracy(model, task, 200, 0) <= 3 * task.chance
    assert accuracy(model, task, 200, 0) == 1.0


def test_switching_nothing_off_is_refused():
    with (
        pytest.raises(ValueError, match="holds no Mixer"),
        ablate_memory(nn.Linear(2, 2), (Mixer,)),
    ):
        pass


def test_what_stops_learning_is_not_what_scores_it(monkeypatch):
    """A score on sequences that decided when to stop would be a little too good."""
    task, drawn = RecallTask(vocab=8, length=8, pairs=1), []

    def watched(task, count, seed):
        drawn.append((count, seed))
        return generate(task, count, seed)

    monkeypatch.setattr(recall_task, "generate", watched)
    torch.manual_seed(0)
    score = learn(Tiny(width=24, vocab=8), task, seconds=60, steps=400, rate=1e-2, enough=0.5)
    assert score.steps < 400, "it was stopped by its accuracy"
    (*_, asked), scored = (seed for count, seed in drawn if count == 128), drawn[-1][1]
    training = {seed for count, seed in drawn if count == 64}
    assert drawn[-1][0] == 512
    assert asked != scored
    assert not {asked, scored} & training


def test_learning_gets_better_and_stops_in_time():
    """One pair right after another: a small recurrent model learns it in moments."""
    task = RecallTask(vocab=8, length=8, pairs=1)
    torch.manual_seed(0)
    model = Tiny(width=24, vocab=8)
    before = accuracy(model, task, 200, 0)
    losses = []
    score = learn(
        model,
        task,
        seconds=30,
        steps=150,
        rate=1e-2,
        report=lambda _s, loss, _p: losses.append(loss),
    )
    assert score.accuracy > max(0.6, before)
    assert score.steps == len(losses) <= 150
    assert losses[-1] < losses[0]
