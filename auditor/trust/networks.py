"""A network as the measures of trust ask it: images in, scores out, and nothing sent back."""

from collections.abc import Callable

import torch
from torch import Tensor

from auditor.backward.trace import few_at_a_time
from auditor.clear import Clear
from auditor.folding.forward_only import shortcut

Network = Callable[[Tensor], Tensor]
"""Images (N, ch, H, W) float32 to scores (N, C) float32, before any softmax: the spatial mean of z_L."""


def scores_of(clear: Clear, images: Tensor) -> Network:
    """The network that `clear` explains. images: (N, ch, H, W), of which the first shows the way through the model.

    Without a tape where the forward pass allows it, which is several times faster. Raises what `Clear.plain` raises.
    """
    way = shortcut(clear.model, clear.plain(images[:1]))

    def of_part(part: Tensor) -> Tensor:
        batch = part.to(clear.dtype).clone(memory_format=torch.channels_last)
        responses = None if way is None else way.class_responses(clear.model, batch)
        return clear.plain(part).logits if responses is None else responses.mean((2, 3))

    return lambda images: torch.cat([of_part(part) for part in few_at_a_time(images)])
