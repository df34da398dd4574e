"""Whether a map depends on what the network learnt: on its scores (Sixt et al. 2020) and its weights (Adebayo et al. 2018).

A map that hardly changes when what was learnt is lost shows the image, or the architecture, and not the network.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from auditor.clear import Clear
from auditor.operations.calls import tensors
from auditor.operations.function_mode import Watch
from auditor.trust.pseudorandom import keys_of, uniform
from auditor.trust.similarity import spearman, structural


class Likeness(NamedTuple):
    """How alike maps are to those that were, each (N,) float32, NaN where one is empty: Spearman's correlation, and SSIM."""

    spearman: Tensor
    structural: Tensor


class Uses(Watch):
    """Notes which of the tensors that it is given a forward pass uses, in the order of their first use."""

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in named}
        self.used: dict[str, None] = {}

    def see(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        for tensor in tensors((arguments, keywords)):
            if id(tensor) in self.names:
                self.used.setdefault(self.names[id(tensor)])
        return function(*arguments, **keywords)


def layers(clear: Clear, images: Tensor) -> list[str]:
    """The names of the weights that can be randomised, from the input to the classes: parameters of two axes or more, as used.

    Biases, and scales and shifts of norms, have one and stay. None where a program holds its weights as constants.
    images: (N, ch, H, W), of which the first shows the way.
    """
    weights = [(name, weight) for name, weight in clear.model.named_parameters() if weight.dim() > 1]
    with torch.no_grad(), Uses(weights) as uses:
        clear.model(images[:1].to(clear.dtype).clone())
    return list(uses.used)


def cascade(names: list[str]) -> Iterator[list[str]]:
    """From the classes down to the input: the last layer, the last two, …, all of them (Adebayo et al. 2018, section 3.1)."""
    return (names[-count:] for count in range(1, len(names) + 1))


def randomized(clear: Clear, names: Iterable[str], seed: int) -> Clear:
    """The same explanation of a network in which the entries of the named weights are shuffled, each weight for itself.

    Shuffled, and not drawn: a weight keeps its mean, spread, outliers and zeros, so that responses stay in their range in any
    architecture, exported programs included, whose way of being initialised is not known. A weight is shuffled in the same
    way whichever others are.
    """
    with torch.inference_mode(False):
        changed = clear.changed(copy.deepcopy(clear.model))
    places = {name: place for place, (name, _) in enumerate(changed.model.named_parameters())}
    parameters = dict(changed.model.named_parameters())
    for name in names:
        weight = parameters[name]
        generator = torch.Generator().manual_seed(seed + places[name])
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.data.copy_(weight.data.flatten()[order].view(weight.shape))
    return changed


def likeness(before: Tensor, after: Tensor) -> Likeness:
    """Of maps (N, H, W) to those before: of their positive parts, which is what an audit shows of them.

    Magnitudes would be alike wherever both are zero, as those of maps multiplied by the input are outside of the object.
    """
    before, after = before.clamp(min=0), after.clamp(min=0)
    return Likeness(spearman(before, after), structural(before, after))


def other_class(images: Tensor, classes: Tensor, count: int, seed: int) -> Tensor:
    """Of each image a random class other than the one given, from its content: (N,) int64. classes: (N,). count: at least 2.

    The `likeness` of its map and the predicted class's is the test of the random logit (Sixt, Granz & Landgraf 2020, section 5).
    """
    steps = (uniform(keys_of(images, seed), 1)[:, 0] * (count - 1)).long()
    return (classes + 1 + steps) % count
