"""What makes maps of images for classes: a rule, or a control that knows less of the network than a map should.

Rules and controls are measured alike. A rule that does no better than a control has shown nothing.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.backward.trace import samples_at_once
from auditor.clear import Clear
from auditor.trust.fills import background
from auditor.trust.pseudorandom import keys_of, uniform

Explainer = Callable[[Tensor, Tensor], Tensor]
"""Images (N, ch, H, W) and classes (N, k) int64 to responses (N, k, H, W) float32."""


def by_rule(clear: Clear) -> Explainer:
    """R(x|c) under the rule of `clear`."""

    def explain(images: Tensor, classes: Tensor) -> Tensor:
        size = samples_at_once(images[0].numel())
        parts = zip(torch.split(images, size), torch.split(classes, size), strict=True)
        return torch.cat([torch.cat([maps for _, maps in clear.forward(part).stream(own)], 1) for part, own in parts])

    return explain


def ink(images: Tensor, classes: Tensor) -> Tensor:
    """The input itself: |x − background| summed over channels; the background is what `fills.background` says.

    A control that knows nothing of the network: the same for all classes.
    """
    return for_every_class((images.float() - background(images)).abs().sum(1), classes)


def edges(images: Tensor, classes: Tensor) -> Tensor:
    """The magnitude of Sobel's gradient, summed over channels; the border is replicated. A control, the same for all classes."""
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    horizontal = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    vertical = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return for_every_class(torch.hypot(horizontal, vertical).sum(1), classes)


def random_pixels(seed: int) -> Explainer:
    """Uniform numbers in [0, 1), from an image's content and a seed. A control, the same for all classes."""

    def explain(images: Tensor, classes: Tensor) -> Tensor:
        height, width = images.shape[2:]
        return for_every_class(uniform(keys_of(images, seed), height * width).view(-1, height, width), classes)

    return explain


def for_every_class(maps: Tensor, classes: Tensor) -> Tensor:
    """(N, H, W) to (N, k, H, W). classes: (N, k)."""
    return maps[:, None].expand(-1, classes.shape[1], -1, -1)
