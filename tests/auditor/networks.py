"""Small random networks, each with its forward pass in torch and the same traced in matrix form up to z_L."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.auditor import matrix_form as form
from tests.auditor.matrix_form import Node
from tests.auditor.matrix_functions import relu

CLASSES = 5


class PointwiseHead(nn.Module):
    """Convolution, pooling, convolution, 1 × 1 convolution, global average."""

    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3)
        self.last = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        pooled = F.max_pool2d(torch.relu(self.first(images)), 2)
        scores = self.last(F.relu(self.second(pooled)))
        return F.adaptive_avg_pool2d(scores, 1).flatten(1)

    def trace(self, image: Node) -> Node:
        pooled = form.max_pool(relu(form.conv(image, self.first)), 2, 2)
        return form.conv(relu(form.conv(pooled, self.second)), self.last)


class OverlappingPool(nn.Module):
    """Strides, dilation, groups, padding, and max-pooling whose padded windows overlap; global average, linear."""

    channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, (3, 2), padding=(2, 1), dilation=(2, 1))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.second = nn.Conv2d(4, 6, 3, stride=(1, 2), padding=1, groups=2, bias=False)
        self.last = nn.Linear(6, CLASSES)
        self.rectifier = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.pool(self.rectifier(self.first(images)))
        return self.last(self.rectifier(self.second(pooled)).mean((2, 3)))

    def trace(self, image: Node) -> Node:
        pooled = form.max_pool(relu(form.conv(image, self.first)), 3, 2, 1)
        return form.pointwise(relu(form.conv(pooled, self.second)), self.last)


class AveragePool(nn.Module):
    """Batch norm with a history, average pooling, a first layer in place; global average, linear."""

    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.before, self.first, self.second = nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(6)])
        self.last = nn.Linear(6, CLASSES)
        with torch.no_grad():
            for norm in (self.before, *self.norms):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                norm.weight.normal_()
                norm.bias.normal_()

    def forward(self, images: Tensor) -> Tensor:
        started = F.relu(self.before(F.relu(images, inplace=True)))
        pooled = F.avg_pool2d(self.norms[0](self.first(started)).relu_(), 3, 2, 1)
        maps = F.relu_(self.norms[1](self.second(pooled)))
        return self.last(torch.flatten(F.adaptive_avg_pool2d(maps, (1, 1)), 1))

    def trace(self, image: Node) -> Node:
        started = relu(form.batch_norm(relu(image), self.before))
        pooled = form.avg_pool(relu(form.batch_norm(form.conv(started, self.first), self.norms[0])), 3, 2, 1)
        maps = relu(form.batch_norm(form.conv(pooled, self.second), self.norms[1]))
        return form.pointwise(maps, self.last)


class FlattenHead(nn.Module):
    """Flatten and two linear layers: z_L is 1 × 1."""

    channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.hidden, self.last = nn.Linear(64, 12), nn.Linear(12, CLASSES)
        self.dropout = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.first(images))
        return self.last(self.dropout(F.relu(self.hidden(maps.flatten(1)), True)))

    def trace(self, image: Node) -> Node:
        return form.linear(relu(form.linear(relu(form.conv(image, self.first)), self.hidden)), self.last)


class Residual(nn.Module):
    """Two residual blocks, one with a strided shortcut, on one reused in-place rectifier."""

    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.third, self.fourth = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.rectifier = nn.ReLU(inplace=True)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        entered = self.rectifier(self.stem(images))
        inner = self.second(self.rectifier(self.first(entered)))
        inner += entered
        middle = self.rectifier(inner)
        left = self.rectifier(self.fourth(self.rectifier(self.third(middle))) + self.shortcut(middle))
        return self.last(left.mean([2, 3]))

    def trace(self, image: Node) -> Node:
        conv = form.conv
        entered = relu(conv(image, self.stem))
        middle = relu(form.add(conv(relu(conv(entered, self.first)), self.second), entered))
        left = relu(form.add(conv(relu(conv(middle, self.third)), self.fourth), conv(middle, self.shortcut)))
        return form.pointwise(left, self.last)


class Concat(nn.Module):
    """Three branches side by side; the class maps are rectified before the global average, as in SqueezeNet."""

    channels = 2

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.features = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2), nn.ReLU(inplace=True))
        self.last = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        branches = [self.narrow(images), self.wide(images), F.max_pool2d(images, 3, stride=1, padding=1)]
        maps = self.features(torch.cat(branches, 1))
        return F.avg_pool2d(torch.relu(self.last(maps)), 3).squeeze(3).squeeze(2)

    def trace(self, image: Node) -> Node:
        branches = [form.conv(image, self.narrow), form.conv(image, self.wide), form.max_pool(image, 3, 1, 1)]
        maps = relu(form.conv(relu(form.cat(*branches)), self.features[1]))
        return relu(form.conv(maps, self.last))


NETWORKS = (PointwiseHead, OverlappingPool, AveragePool, FlattenHead, Residual, Concat)


def random_network(kind: type[nn.Module], samples: int = 2, size: int = 8, seed: int = 12) -> tuple[nn.Module, Tensor]:
    """A network of the kind, in eval mode, and images (samples, channels, size, size) float32."""
    torch.manual_seed(seed)
    model = kind().eval()
    return model, torch.randn(samples, kind.channels, size, size)
