"""Folding: what is the same for every image is worked out once.

T_c, one fixed linear operator a class, goes from the h·w seeds to the P values that arrive at the input, or at the last operation
that depends on the input. R(x|c) is then a matrix product.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from auditor.backward.trace import CHUNK_VALUES
from auditor.folding.argmax import compete
from auditor.folding.class_statistics import Survey, survey
from auditor.folding.forward_only import Shortcut
from auditor.folding.low_rank import Patterns
from auditor.folding.plan import FoldPlan

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""How far a folded response may be from the plain one, relative to the sample's largest response."""


@dataclass(frozen=True)
class Operator:
    """tensor: (C, h·w, P), T_c of every class; (C, h·w, R) where it is made of patterns. P: the values at the cut, channels last.

    shortcut: a forward pass without a tape, where the cut is the image, so that class responses are all that is needed of it.
    """

    plan: FoldPlan
    tensor: Tensor
    patterns: Patterns | None = None
    shortcut: Shortcut | None = None

    @property
    def memory(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors by name, for `restore_operator`."""
        if self.patterns is None:
            return {"operator": self.tensor}
        patterns = self.patterns
        return {
            "operator": self.tensor,
            "patterns": patterns.values,
            "ranks": torch.tensor(patterns.ranks),
        }

    def class_responses(self, model: nn.Module, images: Tensor) -> Tensor | None:
        """(N, C, h, w) float32, of images (N, ch, H, W) that fit; None where a tape has to see the forward pass."""
        plan = self.plan
        if self.shortcut is None or tuple(images.shape[-len(plan.shape) :]) != plan.shape:
            return None
        responses = self.shortcut.class_responses(model, images.detach().clone())
        fitting = responses is not None and responses.shape[1:] == (plan.classes, plan.height, plan.width)
        return responses if fitting else None

    def apply(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """What arrives at the cut, (N, k, P) float32. seeds: (N, C, h, w). classes: (k,) int64, the same for all samples."""
        if seeds.device.type != "cpu":
            operator, chosen = self.of(seeds, classes)
            return self.expand(torch.bmm(chosen, operator.to(seeds.dtype))).transpose(0, 1)
        # One class at a time: the last bits of MKL's products depend on how many there are and on where they begin in memory.
        arrived = seeds.new_empty(len(seeds), len(classes), prod(self.plan.shape))
        for place, number in enumerate(classes.tolist()):
            own = slice(number, number + 1)
            arrived[:, place] = self.expand(torch.bmm(seeds[:, own].flatten(2).transpose(0, 1), self.tensor[own].to(seeds.dtype)))
        return arrived

    def apply_each(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """The same for one class a sample, (N, P). seeds: (N, h, w). classes: (N,) int64."""
        size = max(1, CHUNK_VALUES // max(prod(self.tensor.shape[1:]), prod(self.plan.shape)))
        flat = seeds.flatten(1)[:, None]
        parts = zip(torch.split(flat, size), torch.split(classes, size), strict=True)
        return torch.cat([self.expand(torch.bmm(part, self.tensor[chosen].to(seeds.dtype)))[:, 0] for part, chosen in parts])

    def expand(self, arrived: Tensor) -> Tensor:
        return arrived if self.patterns is None else self.patterns.expand(arrived)

    def dominance(self, seeds: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 4 and 5 of many classes without all their maps leaving the caches, on a CPU: Ĉ, int16, and D, float32, (N, P).

        seeds: (N, C, h, w). classes: (K,) int64, ascending, the same for all samples. For `plan.is_image_map`.
        """
        operator, chosen = self.of(seeds, classes)
        return compete(operator, self.patterns, chosen, classes.to(torch.int16))

    def survey(self, seeds: Tensor, classes: Tensor) -> Survey:
        """Statistics over many classes, on a CPU. seeds, classes, `plan`: as for `dominance`."""
        operator, chosen = self.of(seeds, classes)
        return survey(operator, self.patterns, chosen, classes.to(torch.int16), self.plan.shape)

    def takes_whole(self, images: Tensor) -> bool:
        """Whether `dominance` and `survey` serve a batch whose classes are the same for all samples."""
        return self.plan.is_image_map and images.device.type == "cpu" and len(images) > 0

    def of(self, seeds: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The operator and the seeds, (K, N, h·w), of some classes."""
        every = len(classes) == len(self.tensor)
        chosen = (seeds if every else seeds[:, classes]).flatten(2).transpose(0, 1).contiguous()
        return self.tensor if every else self.tensor[classes], chosen

    def at_cut(self, arrived: Tensor) -> Tensor:
        """What arrived in the shape of the cut, (N, …) or (N, H, W) where channels are summed. arrived: (N, P)."""
        shape = self.plan.shape
        if len(shape) != 3:
            return arrived.reshape(-1, *shape)
        channels, height, width = shape
        return arrived.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def restore_operator(plan: FoldPlan, tensors: dict[str, Tensor]) -> Operator:
    """The operator of its tensors, by name; on the device where they are."""
    patterns = None
    if "patterns" in tensors:
        patterns = Patterns(tensors["patterns"], tuple(tensors["ranks"].tolist()), prod(plan.shape))
    return Operator(plan, tensors["operator"], patterns)
