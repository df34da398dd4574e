"""The demo's classifier: an ALL-CNN for 28 × 28 grey digits."""

from torch import nn


def build(classes: int = 10, width: int = 32, dropout: float = 0.5) -> nn.Sequential:
    """All-convolutional network after Springenberg et al. (2015), as the CLEAR paper uses.

    Input (N, 1, 28, 28) float32 in [0, 1]; output (N, classes) logits. The last convolution has one 1 × 1
    kernel a class, so that its output, before the global average, is the class response map of CLEAR's eq. 3.
    """

    def block(channels: int, width: int) -> list[nn.Module]:
        return [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
        ]

    return nn.Sequential(
        *block(1, width),
        *block(width, 2 * width),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(2 * width, classes, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
