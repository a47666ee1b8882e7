"""A memory inside a model of your own: an ordinary PyTorch program around one generated layer.

    python examples/04_memory_in_a_small_model.py [--steps 60]

The task is to say again what was said eight tokens ago.  The state is carried from piece to piece
of a long stream, cut off from the past with `detach` (truncated backpropagation).
"""

import argparse
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import miras_dsl as miras
from miras_dsl.runtime.layers.state_tree import detach

VOCAB, WIDTH, LAG, PIECE = 16, 48, 8, 32


class Echo(nn.Module):
    """Embedding, one memory with a residual, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.place = nn.Embedding(LAG, WIDTH)
        self.norm = nn.RMSNorm(WIDTH)
        self.memory = miras.load("gated_deltanet").GatedDeltaNet(width=WIDTH, heads=2)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor, state=None):
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]) % LAG)
        y, state = self.memory(self.norm(x), state)
        return self.head(x + y), state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    model = Echo()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    state, before = None, torch.randint(0, VOCAB, (32, LAG))
    losses = []
    for step in range(steps):
        piece = torch.randint(0, VOCAB, (32, PIECE))
        stream = torch.cat([before, piece], 1)
        logits, state = model(piece, state)
        loss = F.cross_entropy(logits.flatten(0, 1), stream[:, :PIECE].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        state, before = detach(state), stream[:, -LAG:]
        losses.append(loss.item())
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:3d}  loss {loss.item():.3f}  (knowing nothing: {log(VOCAB):.3f})")
    assert losses[-1] < losses[0]


if __name__ == "__main__":
    main()
