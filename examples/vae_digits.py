"""A variational autoencoder (Kingma & Welling 2013) on scikit-learn's 8x8 digits: random nodes inside the compiled step.

The encoder gives a mean and a variance for each of two latent numbers; the step draws from them, decodes the draw, and lowers
reconstruction error plus divergence from the standard normal distribution.  A key, advanced by every step, makes each draw new.

Needs the extra:  pip install "graphc[examples]"
Run it:           python examples/vae_digits.py
                  python examples/vae_digits.py --picture digits.png     decoded points of the latent plane
"""

import argparse
import struct
import time
import zlib

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import graphc
from graphc import nn, optim

LATENT = 2


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 64))
        self.register_buffer("key", np.array(1, np.int64))  # where the random numbers come from

    def forward(self, pixels: graphc.Tensor) -> tuple[graphc.Tensor, graphc.Tensor, graphc.Tensor]:
        mean, log_variance = graphc.split(self.encoder(pixels), LATENT, -1)
        noise = graphc.normal(mean.shape, seed=self.key)
        drawn = graphc.updating(mean + (0.5 * log_variance).exp() * noise, {self.key: self.key + 1})
        return self.decoder(drawn), mean, log_variance


def losses_of(model: Autoencoder, pixels: graphc.Tensor) -> tuple[graphc.Tensor, graphc.Tensor]:
    """Reconstruction error and divergence, each the mean over images."""
    logits, mean, log_variance = model(pixels)
    reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none").sum(1).mean()
    divergence = (0.5 * (mean ** 2 + log_variance.exp() - 1.0 - log_variance).sum(1)).mean()
    return reconstruction, divergence


def picture(model: Autoencoder, path: str, side: int = 12) -> None:
    """A PNG: digits decoded from a square of the latent plane."""
    across = np.linspace(-2, 2, side, dtype=np.float32)
    points = np.stack(np.meshgrid(across, across[::-1]), -1).reshape(-1, 2)
    images = 1 / (1 + np.exp(-model.decoder(points)))
    framed = np.pad(images.reshape(side, side, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    grid = framed.transpose(0, 2, 1, 3).reshape(10 * side, 10 * side)
    rows = np.kron(255 - 255 * grid, np.ones((4, 4))).astype(np.uint8)  # every pixel four times as large

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 8, 0, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def main(epochs: int = 60, save: str = "") -> tuple[float, float, float]:
    """The training loss of the first and the last epoch, and that of held-out images."""
    graphc.manual_seed(0)
    images = (load_digits().data / 16.0).astype(np.float32)
    train, held_out = train_test_split(images, test_size=0.2, random_state=0)

    model = Autoencoder()
    pixels = graphc.placeholder("pixels", ("batch", 64))
    reconstruction, divergence = losses_of(model, pixels)
    parts = {"reconstruction": reconstruction, "divergence": divergence}
    step = graphc.train_step(reconstruction + divergence, optim.Adam(model.parameters(), lr=2e-3), outputs=parts)
    evaluate = graphc.function([pixels], reconstruction + divergence)

    history: dict[str, list[float]] = {name: [] for name in ("loss", *parts)}
    start = time.perf_counter()
    for epoch in range(epochs):
        done = step.fit({"pixels": train}, batch_size=32, epochs=1, seed=epoch)
        for name, values in zip(history.values(), done.values(), strict=True):
            name.append(float(values[0]))
        if epoch == 0 or (epoch + 1) % 10 == 0:
            shown = "  ".join(f"{name} {values[-1]:.2f}" for name, values in history.items())
            print(f"epoch {epoch + 1:3}/{epochs}  {shown}  {time.perf_counter() - start:.1f} s")
    held = float(np.mean([evaluate(held_out) for _ in range(20)]))  # an average over draws
    print(f"loss {history['loss'][0]:.2f} -> {history['loss'][-1]:.2f}, held-out images {held:.2f} (nats an image)")
    if save:
        picture(model, save)
        print(f"wrote {save}")
    return history["loss"][0], history["loss"][-1], held


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--picture", default="", metavar="FILE.png", help="write decoded points of the latent plane")
    options = parser.parse_args()
    main(options.epochs, options.picture)
