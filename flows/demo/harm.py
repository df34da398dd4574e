"""A harmed copy of the demo's weights, to see what an audit makes of it: python -m flows.demo.harm FILE"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
NOISE = 2.0
"""Of the last two convolutions' weights, in standard deviations of each."""


def harm(path: Path, seed: int = 0) -> None:
    """Adds noise to the weights of the last two convolutions and writes the result."""
    weights = load_file(HERE / "allcnn.safetensors")
    kernels = [name for name, weight in weights.items() if weight.dim() == 4][-2:]
    generator = torch.Generator().manual_seed(seed)
    for name in kernels:
        weight = weights[name]
        weights[name] = weight + NOISE * weight.std() * torch.randn(weight.shape, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


if __name__ == "__main__":
    harm(Path(sys.argv[1]))
