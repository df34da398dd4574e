"""Networks that can be folded, for the tests of folding."""

import torch
from torch import Tensor, nn

from auditor import Clear

ROOM = 1 << 30


def all_responses(clear: Clear, images: Tensor) -> Tensor:
    return torch.cat([responses for _, responses in clear.responses(images)], 1)


class Narrow(nn.Module):
    """Three channels, widened by a 1 × 1 convolution for seven classes: the basis is sent back from the three."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU6(), nn.Conv2d(3, 9, 1), nn.BatchNorm2d(9), nn.ReLU6())
        self.last = nn.Linear(9, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images).mean((2, 3)))  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Patches as tokens, mixed across and along; nothing on the way depends on the image but rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.patches = nn.Conv2d(1, 6, 2, stride=2)
        self.tokens, self.channels, self.last = nn.Linear(16, 16), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2)
        mixed = (tokens + nn.functional.gelu(self.tokens(tokens))).transpose(1, 2)
        return self.last((mixed + nn.functional.silu(self.channels(mixed))).mean(1))  # type: ignore[no-any-return]


class StemPool(nn.Module):
    """As ResNet begins: convolution, batch norm, rectifier, overlapping max-pooling; then a block and a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Linear(4, 6)
        for norm in (self.stem[1], self.inner[1]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.pool(self.stem(images))
        return self.last(torch.relu(self.inner(pooled) + pooled).mean((2, 3)))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """A squeeze-excite gate in the middle, fixed layers before and behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first, self.squeeze, self.excite = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2), nn.Linear(2, 4)
        self.second, self.last = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.first(images))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(maps.mean((2, 3))))))
        maps = maps * gate[:, :, None, None]
        return self.last(torch.relu(self.second(maps)).mean((2, 3)))  # type: ignore[no-any-return]


class Patches(nn.Module):
    """Patches of 8 × 8 pixels to one number each, and 300 classes: what all of them send back is made of as many patterns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.second = nn.Conv2d(1, 1, 8, stride=8), nn.Conv2d(1, 6, 3, padding=1)
        self.last = nn.Linear(6, 300)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(images)))).mean((2, 3)))  # type: ignore[no-any-return]


class Unbiased(nn.Sequential):
    """Of a blank image no class has a response."""

    def __init__(self) -> None:
        torch.manual_seed(9)
        convolutions = nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False)
        super().__init__(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
