"""R(x|c): one forward pass, then each class's response alone sent back to the input (eq. 3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from auditor.backward.head import feature_positions, find_head, named_head
from auditor.backward.merged_convs import Stem, find_stem
from auditor.backward.scores import find_scores
from auditor.backward.tape import Tape
from auditor.errors import UnsupportedModel
from auditor.operations.rule_table import RULES, Rule

if TYPE_CHECKING:
    from auditor.folding.operator import Operator

CHUNK_VALUES = 8_000_000
"""Values of R(x|c) held at once on a CPU: what bounds memory when there are many classes."""
FORWARD_VALUES = 2_500_000
"""Input values that go through the network at once where it is for us to say: sixteen photographs."""
MEMORY_PART = 16
"""A chunk takes at most this part of the memory that is free."""

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda responses: responses.sum(1),
    "l2": lambda responses: torch.linalg.vector_norm(responses, dim=1),
    "max": lambda responses: responses.amax(1),
}
"""From the responses of an input's channels (N, ch, H, W) to one map (N, H, W). `max` keeps the sign, `l2` has none."""


@dataclass(frozen=True)
class Method:
    """How responses are sent back: a rule of `RULES`, a channel reduction of `REDUCTIONS`, and the name of the head, if given."""

    rule: str
    reduction: str = "sum"
    head: str | None = None


class Backprojection:
    """The forward pass of a batch, ready to send any class back.

    logits: (N, C) float32, the spatial mean of the class responses. class_responses: (N, C, h, w) float32, z_L.
    seeds: (N, C, h, w) float32 ≥ 0, what is sent back. tape, head, calls: of the forward pass; there are none where an operator
    that reaches the image took a shortcut.

    Only positive class response is sent back: the seed is max(z_c, 0). A class that the network argues against would
    otherwise come back positive (negative response × negative kernel).
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        method: Method,
        watched: list[Tensor] | None = None,
        operator: "Operator | None" = None,
    ) -> None:
        """Raises UnsupportedModel.

        images: (N, ch, H, W) floating, as the model takes them. watched: where a hook leaves the output of the module that
        `method.head` names. operator: used where it fits.
        """
        rule = RULES[method.rule]
        self.times_input, self.reduce = rule.times_input, REDUCTIONS[method.reduction]
        self.images = images
        if operator is not None and (responses := operator.class_responses(model, images)) is not None:
            self.operator: Operator | None = operator
            self.decide(responses, rule)
            return
        # Not a leaf inside the model, so that it may work in place on its input.
        with torch.inference_mode(False):
            images = images.clone() if images.is_inference() else images
            self.images = images.detach().requires_grad_()
            self.summed = None
            if method.reduction == "sum" and not rule.times_input and not rule.shares:
                dtype = torch.promote_types(images.dtype, torch.float32)
                self.summed = torch.zeros_like(images[:, :1], dtype=dtype, requires_grad=True)
            with torch.enable_grad():
                self.given = self.images.clone()
                with Tape(method.rule, self.given, self.summed) as tape:
                    output = model(self.given)
                    calls = tuple(tape.calls)
        scores = find_scores(tape, output, len(self.images))
        if method.head is None or watched is None:
            head = find_head(tape, scores)
        else:
            head = named_head(tape, watched, scores, method.head)
        tape.check_path(head.root)
        for rectification in tape.rectified_among([head.root]):
            rectification.uses += 1
        self.tape, self.head, self.calls, self.scores = tape, head, calls, scores
        self.decide(head.responses, rule)
        self.operator = operator if operator is not None and operator.fits(self) else None

    def notes(self) -> list[str]:
        """What is to be said of how the model was read, in sentences; nothing where that is plain."""
        positions, before = self.head.positions, feature_positions(self.tape, self.head)
        if positions > 1 or before == 1:
            return list(self.scores.notes)
        return [
            *self.scores.notes,
            f"z_L has one position, and the features before it {before:,}: the scores are no average over positions, and each "
            "class is sent back from its score alone",
        ]

    @cached_property
    def stem(self) -> Stem | None:
        """Found when something is sent back to the image: many a forward pass, with an operator say, sends nothing there."""
        return None if self.summed is None else find_stem(self.tape, self.given)

    def decide(self, responses: Tensor, rule: Rule) -> None:
        self.class_responses = responses
        self.logits = responses.mean((2, 3))
        self.positive = responses.clamp(min=0)
        self.seeds = (self.positive > 0).float() if rule.seed_one else self.positive

    def send_back(self, classes: Tensor) -> Tensor:
        """R(x|c), (N, H, W) float32, its channels reduced. classes: (N,) int64, one class a sample."""
        seeds = self.seeds[torch.arange(len(classes), device=classes.device), classes]
        if self.operator is not None:
            return self.operator.finish(self, self.operator.apply_each(seeds, classes))
        return self.reach_input(self.head.root, self.head.enter(seeds.to(self.head.root.dtype), classes))

    def reach_input(self, root: Tensor, entering: Tensor) -> Tensor:
        """From a tensor of the forward pass to the input, (N, H, W) float32."""
        with torch.inference_mode(False):
            entering = entering.clone() if entering.is_inference() else entering
            if self.stem is not None and not self.stem.holds(root):
                (below,) = gradients(root, [self.stem.edge], entering)
                return self.nothing() if below is None else self.stem.send_back(below).float()
            leaves = [self.images] if self.summed is None else [self.images, self.summed]
            arrived = gradients(root, leaves, entering)
        response, summed = (*arrived, None)[:2]
        if response is None:
            return self.nothing() if summed is None else summed[:, 0].float()
        response = self.reduce((response * self.images.detach() if self.times_input else response).float())
        return response if summed is None else response + summed[:, 0].float()

    def nothing(self) -> Tensor:
        return self.images.new_zeros(self.images[:, 0].shape, dtype=torch.float32)

    def stream(self, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the classes in chunks with their responses, (k,) and (N, k, H, W), or (N, k) and (N, k, H, W).

        classes: (K,) int64 for all samples, or (N, K) for each its own. Classes without positive response anywhere
        in the batch have R = 0 and are not sent back.
        """
        samples, _, height, width = self.images.shape
        per_sample = classes.expand(samples, -1)
        positive = (self.seeds.amax((2, 3)).gather(1, per_sample) > 0).any(0).tolist()
        for start, stop in chunks(classes.shape[-1], samples * height * width, chunk_values(self.images.device)):
            chunk = classes[..., start:stop]
            if self.operator is not None and self.operator.plan.is_image_map and classes.dim() == 1:
                yield chunk, self.operator.apply(self.seeds, chunk).view(samples, stop - start, height, width)
                continue
            responses = self.images.new_zeros((samples, stop - start, height, width), dtype=torch.float32)
            for column in range(start, stop):
                if not positive[column]:
                    continue
                if self.operator is not None and classes.dim() == 1:
                    response = self.operator.finish(self, self.operator.apply(self.seeds, classes[column : column + 1])[:, 0])
                else:
                    response = self.send_back(per_sample[:, column])
                responses[:, column - start] = response
            yield chunk, responses


def gradients(root: Tensor, targets: list[Tensor] | list[GradientEdge], entering: Tensor) -> tuple[Tensor | None, ...]:
    """What arrives at each of the targets, None where nothing leads there. Raises UnsupportedModel."""
    try:
        return torch.autograd.grad(root, targets, entering, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise UnsupportedModel(
            "the model writes in place into what its own gradient is worked out from, so that nothing can be sent back: take the "
            "in-place operation out"
        ) from error


def samples_at_once(values: int) -> int:
    """How many images of so many values go through the network at once."""
    return max(1, FORWARD_VALUES // values)


def few_at_a_time(images: Tensor) -> tuple[Tensor, ...]:
    return torch.split(images, samples_at_once(images[0].numel()))


def chunks(classes: int, values_a_class: int, values: int) -> Iterator[tuple[int, int]]:
    size = max(1, values // max(1, values_a_class))
    for start in range(0, classes, size):
        yield start, min(start + size, classes)


def chunk_values(device: torch.device) -> int:
    """How many values of R(x|c) to hold at once: a part of a GPU's free memory; a fixed number on a CPU: more is no faster."""
    if device.type != "cuda":
        return CHUNK_VALUES
    free, _ = torch.cuda.mem_get_info(device)
    return max(CHUNK_VALUES, int(free) // MEMORY_PART // 4)
