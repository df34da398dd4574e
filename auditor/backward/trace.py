"""R(x|c): one forward pass, then each class's response alone sent back to the input (eq. 3)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from auditor.backward.head import Head, feature_positions, find_head, named_head
from auditor.backward.merged_convs import Stem, find_stem
from auditor.backward.scores import Scores, find_scores
from auditor.backward.tape import Tape
from auditor.errors import UnsupportedModel
from auditor.kernels.enlargement import enlarge
from auditor.operations.rule_table import RULES

CHUNK_VALUES = 8_000_000
"""Values of R(x|c) held at once on a CPU: what bounds memory when there are many classes."""
FORWARD_VALUES = 2_500_000
"""Input values that go through the network at once where that can be chosen: sixteen photographs."""
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


class Backprojection(ABC):
    """The class responses of a batch, of which any class can be sent back.

    images: (N, ch, H, W). class_responses: (N, C, h, w) float32, z_L. logits: (N, C) float32, their spatial mean. positive: their
    positive part. seeds: (N, C, h, w) float32 ≥ 0, what is sent back.

    Only positive class response is sent back: the seed is max(z_c, 0). A class that the network argues against would
    otherwise come back positive (negative response × negative kernel).
    """

    def __init__(self, images: Tensor, class_responses: Tensor, method: Method) -> None:
        self.images, self.class_responses, self.method = images, class_responses, method
        self.reduce = REDUCTIONS[method.reduction]
        self.logits = class_responses.mean((2, 3))
        self.positive = class_responses.clamp(min=0)
        self.seeds = (self.positive > 0).float() if RULES[method.rule].seed_one else self.positive

    @abstractmethod
    def send_back(self, classes: Tensor) -> Tensor:
        """R(x|c), (N, H, W) float32, its channels reduced. classes: (N,) int64, one class a sample."""

    def seeds_of(self, classes: Tensor) -> Tensor:
        """(N, h, w). classes: (N,) int64, one class a sample."""
        return self.seeds[torch.arange(len(classes), device=classes.device), classes]

    def stream(self, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the classes in chunks with their responses, (k,) and (N, k, H, W), or (N, k) and (N, k, H, W).

        classes: (K,) int64 for all samples, or (N, K) for each its own. Classes without positive response anywhere
        in the batch have R = 0 and are not sent back.
        """
        samples, _, height, width = self.images.shape
        is_positive = (self.seeds.amax((2, 3)).gather(1, classes.expand(samples, -1)) > 0).any(0).tolist()
        for start, stop in chunks(classes.shape[-1], samples * height * width, chunk_values(self.images.device)):
            chunk = classes[..., start:stop]
            yield chunk, self.respond(chunk, is_positive[start:stop])

    def respond(self, classes: Tensor, is_positive: list[bool]) -> Tensor:
        """R(x|c) of some classes, (N, k, H, W) float32. classes: (k,) or (N, k). is_positive: which of the k are sent back."""
        samples, _, height, width = self.images.shape
        responses = self.images.new_zeros((samples, len(is_positive), height, width), dtype=torch.float32)
        for column in range(len(is_positive)):
            if is_positive[column]:
                responses[:, column] = self.respond_alone(classes[..., column])
        return responses

    def respond_alone(self, classes: Tensor) -> Tensor:
        """R(x|c), (N, H, W). classes: () for all samples, or (N,)."""
        return self.send_back(classes.expand(len(self.images)))


class Traced(Backprojection):
    """A forward pass that a tape has seen: each class goes back through the network.

    images: (N, ch, H, W), a leaf that receives what comes back. given: what the model took. summed: (N, 1, H, W), a leaf that
    receives what comes back with channels summed; None where channels are not summed. tape, scores, head: of the forward pass.
    calls: the names of all operations of the model, in order.
    """

    def __init__(
        self,
        method: Method,
        images: Tensor,
        given: Tensor,
        summed: Tensor | None,
        tape: Tape,
        calls: tuple[str, ...],
        scores: Scores,
        head: Head,
    ) -> None:
        super().__init__(images, head.responses, method)
        self.given, self.summed = given, summed
        self.tape, self.calls, self.scores, self.head = tape, calls, scores, head

    def notes(self) -> list[str]:
        """Sentences on how the model was read; none where that is plain."""
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
        """Looked for when something is sent back to the image: many forward passes, as with an operator, send nothing there."""
        return None if self.summed is None else find_stem(self.tape, self.given)

    def send_back(self, classes: Tensor) -> Tensor:
        seeds = self.seeds_of(classes)
        if RULES[self.method.rule].enlarges:
            return enlarge(seeds, self.images.shape[2:])
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
        times_input = RULES[self.method.rule].times_input
        response = self.reduce((response * self.images.detach() if times_input else response).float())
        return response if summed is None else response + summed[:, 0].float()

    def nothing(self) -> Tensor:
        return self.images.new_zeros(self.images[:, 0].shape, dtype=torch.float32)


def trace(model: nn.Module, images: Tensor, method: Method, watched: list[Tensor] | None = None) -> Traced:
    """The forward pass of a batch, seen by a tape. Raises UnsupportedModel.

    images: (N, ch, H, W) floating, as the model takes them. watched: where a hook leaves the output of the module that
    `method.head` names.
    """
    rule = RULES[method.rule]
    # Not a leaf inside the model, so that it may work in place on its input.
    with torch.inference_mode(False):
        images = images.clone() if images.is_inference() else images
        images = images.detach().requires_grad_()
        summed = None
        if method.reduction == "sum" and not rule.times_input and not rule.shares:
            dtype = torch.promote_types(images.dtype, torch.float32)
            summed = torch.zeros_like(images[:, :1], dtype=dtype, requires_grad=True)
        with torch.enable_grad():
            given = images.clone()
            with Tape(method.rule, given, summed) as tape:
                output = model(given)
                calls = tuple(tape.calls)
    scores = find_scores(tape, output, len(images))
    head = find_head(tape, scores) if method.head is None or watched is None else named_head(tape, watched, scores, method.head)
    tape.check_path(head.root)
    if rule.enlarges:
        check_places(head, method.rule)
    if rule.shares:
        tape.history.leave_out_below_zero()
    for rectification in tape.history.rectified_among([head.root]):
        rectification.uses += 1
    return Traced(method, images, given, summed, tape, calls, scores, head)


def check_places(head: Head, rule: str) -> None:
    """Raises UnsupportedModel where class responses have no places in the image that they could be enlarged to."""
    if head.of_tokens or (head.positions == 1 and len(head.responses)):
        what = "are of tokens, whose places in it are not known" if head.of_tokens else "have one position"
        raise UnsupportedModel(
            f"rule '{rule}' enlarges the class responses z_L to the image, and those of this model {what}: use a rule that sends "
            "them back to it, such as gradient"
        )


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
    """How many images, of so many values each, go through the network at once."""
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
