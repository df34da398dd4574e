"""Trains the demo's ALL-CNN on the 60,000 MNIST training digits.

    python -m flows.demo.train FOLDER        # FOLDER has train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz

The test split is read once, after the last epoch, to print the accuracy; nothing is chosen by it.
"""

import gzip
import math
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from flows.demo.allcnn import build

HERE = Path(__file__).parent


def read_digits(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) float32 in [0, 1] and labels (N,) int64."""
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    classes = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    return torch.from_numpy(pixels.reshape(-1, 1, 28, 28) / np.float32(255)), torch.from_numpy(classes.astype(np.int64))


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by up to 10°, scaled by up to 10 % and moved by up to 2 pixels."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, scale = uniform(math.radians(10)), 1 + uniform(0.1)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    move = 2 * 2 / images.shape[-1]
    theta = torch.stack([cos, -sin, uniform(move), sin, cos, uniform(move)], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    predictions = torch.cat([model(batch).argmax(1) for batch in images.split(500)])
    return (predictions == labels).double().mean().item()


def train(images: Tensor, labels: Tensor, epochs: int, batch: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    steps = epochs * math.ceil(len(images) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        started, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(batch):
            logits = model(distort(images[chosen], generator).contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(images):.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return model


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the gzipped MNIST training files.")],
    epochs: int = 8,
    batch: int = 128,
    seed: int = 1,
    out: Path = HERE / "allcnn.safetensors",
) -> None:
    digits = read_digits(folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz")
    model = train(*digits, epochs, batch, seed)
    test = read_digits(HERE / "t10k-images-idx3-ubyte.gz", HERE / "t10k-labels-idx1-ubyte.gz")
    print(f"test accuracy {accuracy(model, *test):.4f}")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out)


if __name__ == "__main__":
    typer.run(main)
