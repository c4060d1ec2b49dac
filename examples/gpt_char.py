"""A character-level GPT on text that ships with Python: attention, layer norm and AdamW in one native step.

Run it:  python examples/gpt_char.py
"""

import contextlib
import io
import time

import numpy as np

import graphc
from graphc import nn, optim

with contextlib.redirect_stdout(io.StringIO()):
    import this  # holds the Zen of Python in ROT13, and prints it when it is imported

LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 4, 64, 4, 64, 8


class Block(nn.Module):
    """Pre-norm causal self-attention and a perceptron, each with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: graphc.Tensor) -> graphc.Tensor:
        q, k, v = (part.reshape(BATCH, CONTEXT, HEADS, WIDTH // HEADS).transpose(1, 2)
                   for part in graphc.split(self.qkv(self.norm1(x)), WIDTH, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(BATCH, CONTEXT, WIDTH))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, characters: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, index: graphc.Tensor) -> graphc.Tensor:
        x = self.token(index) + self.place(graphc.arange(CONTEXT))
        return self.head(self.norm(self.blocks(x)))


def main(steps: int = 300) -> tuple[float, float]:
    graphc.manual_seed(0)
    text = "".join(this.d.get(c, c) for c in this.s)
    characters = sorted(set(text))
    codes = np.array([characters.index(c) for c in text])
    generator = np.random.default_rng(0)

    model = GPT(len(characters))
    x = graphc.placeholder("x", (BATCH, CONTEXT), "int64")
    y = graphc.placeholder("y", (BATCH, CONTEXT), "int64")
    logits = model(x)
    loss = nn.functional.cross_entropy(logits.reshape(BATCH * CONTEXT, -1), y.reshape(-1))
    step = graphc.train_step(loss, optim.AdamW(model.parameters(), lr=1e-3), grad_clip_norm=1.0)

    losses = []
    start = time.perf_counter()
    for number in range(steps):
        begin = generator.integers(0, len(codes) - CONTEXT - 1, BATCH)
        windows = codes[begin[:, None] + np.arange(CONTEXT + 1)]
        losses.append(float(step(windows[:, :-1], windows[:, 1:])))
        if (number + 1) % 100 == 0:
            spent = (time.perf_counter() - start) / (number + 1)
            print(f"{number + 1}/{steps} loss:{np.mean(losses[-20:]):.3f}  {spent * 1e3:.1f} ms a step")
    return losses[0], float(np.mean(losses[-20:]))


if __name__ == "__main__":
    main()
