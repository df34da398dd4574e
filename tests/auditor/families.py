"""A dozen families of image classifiers, each as small as shows how it is made; random weights, in evaluation mode."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def normed(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    return nn.Sequential(conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs))


class SqueezeExcite(nn.Module):
    """Hu et al. 2018; gate: what makes the channels' factors."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.reduce, self.expand, self.gate = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1), gate

    def forward(self, maps: Tensor) -> Tensor:
        pooled = maps.mean((2, 3), keepdim=True)
        return maps * self.gate(self.expand(F.relu(self.reduce(pooled))))


class Pooled(nn.Module):
    """Features, global average, flatten, dropout, linear."""

    def __init__(self, *features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(channels, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class Attention(nn.Module):
    """Vaswani et al. 2017, written out, with a dropout on its weights. tokens: (N, T, K); bias: (heads, T, T)."""

    def __init__(self, width: int, heads: int, bias: Tensor | None = None) -> None:
        super().__init__()
        self.heads, self.bias = heads, None if bias is None else nn.Parameter(bias)
        self.qkv, self.project, self.dropout = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Dropout(0.1)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        samples, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(samples, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        scores = (query * (width // self.heads) ** -0.5) @ key.transpose(-2, -1)
        if self.bias is not None:
            scores = scores + self.bias
        if mask is not None:
            scores = scores.view(-1, len(mask), *scores.shape[1:]) + mask[:, None]
            scores = scores.flatten(0, 1)
        weights = self.dropout(scores.softmax(-1))
        return self.project((weights @ value).transpose(1, 2).reshape(samples, count, width))


def perceptron(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))


class SwinBlock(nn.Module):
    """Liu et al. 2021: attention within windows, in every second block shifted by half a window. maps: (N, H, W, K)."""

    def __init__(self, width: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(width, 2, torch.randn(2, window**2, window**2))
        self.perceptron = perceptron(width)

    def forward(self, maps: Tensor) -> Tensor:
        samples, height, width, channels = maps.shape
        window, shift = self.window, self.shift
        shifted = torch.roll(self.norms[0](maps), (-shift, -shift), (1, 2)) if shift else self.norms[0](maps)
        split = shifted.view(samples, height // window, window, width // window, window, channels)
        windows = split.permute(0, 1, 3, 2, 4, 5).reshape(-1, window**2, channels)
        attended = self.attention(windows, self.mask(height, width) if shift else None)
        joined = attended.view(samples, height // window, width // window, window, window, channels)
        joined = joined.permute(0, 1, 3, 2, 4, 5).reshape(samples, height, width, channels)
        maps = maps + (torch.roll(joined, (shift, shift), (1, 2)) if shift else joined)
        return maps + self.perceptron(self.norms[1](maps))

    def mask(self, height: int, width: int) -> Tensor:
        """(windows, T, T): places that the shift brought together from opposite borders do not see each other."""
        window, weight = self.window, next(self.parameters())
        regions = weight.new_zeros(height, width)
        regions[-self.shift :] += 1
        regions[:, -self.shift :] += 2
        flat = regions.view(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
        return (flat[:, None] != flat[:, :, None]).to(weight.dtype) * -100


class Swin(nn.Module):
    """Patches merged two by two between two stages; the average over height and width, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.first = nn.Sequential(SwinBlock(8, 4, 0), SwinBlock(8, 4, 2))
        self.norm, self.merge = nn.LayerNorm(32), nn.Linear(32, 16, bias=False)
        self.second = SwinBlock(16, 4, 0)
        self.last, self.head = nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(self.patches(images).permute(0, 2, 3, 1))
        corners = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        maps = self.second(self.merge(self.norm(torch.cat(corners, -1))))
        return self.head(self.last(maps).permute(0, 3, 1, 2).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022: depthwise 7 × 7, a perceptron over channels, a scale for each, a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = conv(width, width, 7, groups=width, bias=True), nn.LayerNorm(width)
        self.perceptron, self.scale = perceptron(width), nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.perceptron(self.norm(self.depthwise(maps).permute(0, 2, 3, 1))) * self.scale
        return maps + inner.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """A norm between the global average and the linear layer: z_L is 1 × 1."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 2, 2), ConvNeXtBlock(8), nn.Conv2d(8, 12, 2, 2), ConvNeXtBlock(12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.features(images).mean([-2, -1])))


class ResNeXtBlock(nn.Module):
    """Xie et al. 2017, with a squeeze-and-excite before the shortcut joins."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            normed(inputs, 8, 1), nn.ReLU(inplace=True), normed(8, 8, 3, stride, 4), nn.ReLU(inplace=True), normed(8, outputs, 1)
        )
        self.gate, self.shortcut = SqueezeExcite(outputs, nn.Sigmoid()), normed(inputs, outputs, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        joined = self.gate(self.inner(maps))
        joined += self.shortcut(maps)
        return F.relu(joined, inplace=True)


def seresnext() -> nn.Module:
    stem = (normed(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
    return Pooled(*stem, ResNeXtBlock(8, 12, 1), ResNeXtBlock(12, 16, 2), channels=16)


class DenseLayer(nn.Module):
    """Huang et al. 2017: norm and rectifier before the convolution, whose maps are put beside those that came."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), conv(inputs, growth))

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, self.inner(maps)], 1)


def densenet() -> nn.Module:
    first = (conv(3, 6), DenseLayer(6, 4), DenseLayer(10, 4))
    transition = (nn.BatchNorm2d(14), nn.ReLU(), conv(14, 8, 1), nn.AvgPool2d(2))
    return Pooled(*first, *transition, DenseLayer(8, 4), nn.BatchNorm2d(12), nn.ReLU(), channels=12)


class InvertedResidual(nn.Module):
    """Sandler et al. 2018: widened, filtered depthwise, gated, narrowed, the last without an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        wide = 2 * inputs
        self.inner = nn.Sequential(
            *(normed(inputs, wide, 1), activation, normed(wide, wide, 3, stride, wide), activation),
            *(SqueezeExcite(wide, gate), normed(wide, outputs, 1)),
        )
        self.joins = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        return self.inner(maps) + maps if self.joins else self.inner(maps)


def mobilenet_v3() -> nn.Module:
    """Howard et al. 2019."""
    swish, gate = nn.Hardswish(inplace=True), nn.Hardsigmoid()
    blocks = (InvertedResidual(8, 8, 1, nn.ReLU(), gate), InvertedResidual(8, 12, 2, swish, gate))
    return Pooled(normed(3, 8, 3, 2), swish, *blocks, normed(12, 16, 1), swish, channels=16)


def efficientnet() -> nn.Module:
    """Tan & Le 2019."""
    blocks = (InvertedResidual(8, 8, 1, nn.SiLU(), nn.Sigmoid()), InvertedResidual(8, 12, 2, nn.SiLU(), nn.Sigmoid()))
    return Pooled(normed(3, 8, 3, 2), nn.SiLU(), *blocks, normed(12, 16, 1), nn.SiLU(), channels=16)


class ViT(nn.Module):
    """Dosovitskiy et al. 2021: tokens of patches and one for the class, which alone is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.class_token = nn.Conv2d(3, 12, 4, 4), nn.Parameter(torch.randn(1, 1, 12))
        self.position_embedding = nn.Parameter(torch.randn(1, 17, 12))
        self.attentions = nn.ModuleList([Attention(12, 3), Attention(12, 3)])
        self.perceptrons = nn.ModuleList([perceptron(12), perceptron(12)])
        self.norms = nn.ModuleList([nn.LayerNorm(12) for _ in range(5)])
        self.head = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.position_embedding
        for number in (0, 1):
            tokens = tokens + self.attentions[number](self.norms[2 * number](tokens))
            tokens = tokens + self.perceptrons[number](self.norms[2 * number + 1](tokens))
        return self.head(self.norms[4](tokens)[:, 0])


class Mixer(nn.Module):
    """Tolstikhin et al. 2021: one perceptron over the tokens, one over the channels; the average of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.tokens, self.channels = nn.Conv2d(3, 12, 4, 4), perceptron(16), perceptron(12)
        self.norms = nn.ModuleList([nn.LayerNorm(12) for _ in range(3)])
        self.head = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.tokens(self.norms[0](tokens).transpose(1, 2)).transpose(1, 2)
        tokens = tokens + self.channels(self.norms[1](tokens))
        return self.head(self.norms[2](tokens).mean(1))


class PoolFormerBlock(nn.Module):
    """Yu et al. 2022: an average over the neighbours in place of attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(1, width), nn.GroupNorm(1, width)])
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.perceptron = nn.Sequential(nn.Conv2d(width, 16, 1), nn.GELU(), nn.Conv2d(16, width, 1))
        self.scales = nn.ParameterList([torch.rand(width, 1, 1) + 0.5 for _ in range(2)])

    def forward(self, maps: Tensor) -> Tensor:
        normal = self.norms[0](maps)
        maps = maps + self.scales[0] * (self.pool(normal) - normal)
        return maps + self.scales[1] * self.perceptron(self.norms[1](maps))


def poolformer() -> nn.Module:
    features = (nn.Conv2d(3, 8, 2, 2), PoolFormerBlock(8), nn.Conv2d(8, 12, 3, 2, 1), PoolFormerBlock(12))
    return Pooled(*features, nn.GroupNorm(1, 12), channels=12)


class Ghost(nn.Module):
    """Han et al. 2020: half of the maps are made, the others from these by a cheap filter; what is too much is cut off."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = (outputs + 1) // 2
        self.outputs, self.made = outputs, nn.Sequential(normed(inputs, half, 1), nn.ReLU())
        self.cheap = nn.Sequential(normed(half, half, 3, groups=half), nn.ReLU())

    def forward(self, maps: Tensor) -> Tensor:
        made = self.made(maps)
        return torch.cat([made, self.cheap(made)], 1)[:, : self.outputs]


def ghostnet() -> nn.Module:
    blocks = (Ghost(8, 11), SqueezeExcite(11, nn.Hardsigmoid()), normed(11, 11, 3, 2, 11), Ghost(11, 15))
    return Pooled(normed(3, 8, 3, 2), nn.ReLU(), *blocks, channels=15)


class ShuffleBlock(nn.Module):
    """Ma et al. 2018: half of the channels pass by; then halves are shuffled into each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            *(normed(half, half, 1), nn.ReLU(), normed(half, half, 3, groups=half)), normed(half, half, 1), nn.ReLU()
        )

    def forward(self, maps: Tensor) -> Tensor:
        kept, changed = maps.chunk(2, 1)
        joined = torch.cat((kept, self.branch(changed)), 1)
        samples, channels, height, width = joined.shape
        shuffled = joined.view(samples, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return shuffled.view(samples, channels, height, width)


def shufflenet() -> nn.Module:
    return Pooled(normed(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), ShuffleBlock(8), ShuffleBlock(8), channels=8)


class InceptionBlock(nn.Module):
    """Szegedy et al. 2015: kernels of several sizes and a pooling side by side."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                normed(inputs, 3, 1),
                nn.Sequential(normed(inputs, 4, 1), nn.ReLU(), normed(4, 4, 3)),
                nn.Sequential(nn.AvgPool2d(3, 1, 1), normed(inputs, 3, 1)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), normed(inputs, 2, 1)),
            ]
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([F.relu(branch(maps), inplace=True) for branch in self.branches], 1)


def inception() -> nn.Module:
    return Pooled(normed(3, 8, 3, 2), nn.ReLU(), InceptionBlock(8), nn.MaxPool2d(3, 2), InceptionBlock(12), channels=12)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "ConvNeXt": ConvNeXt,
    "DenseNet": densenet,
    "EfficientNet": efficientnet,
    "GhostNet": ghostnet,
    "Inception": inception,
    "MLP-Mixer": Mixer,
    "MobileNetV3": mobilenet_v3,
    "PoolFormer": poolformer,
    "SE-ResNeXt": seresnext,
    "ShuffleNetV2": shufflenet,
    "Swin": Swin,
    "ViT": ViT,
}


def family(name: str) -> tuple[nn.Module, Tensor]:
    """One of `FAMILIES` in float64, in evaluation mode, its batch norms at work, and images (2, 3, 16, 16)."""
    torch.manual_seed(0)
    model = FAMILIES[name]().double().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(0, 0.2)
    model.train()(torch.randn(8, 3, 16, 16, dtype=torch.float64))
    return model.eval(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
