"""R(x|c): one forward pass, then each class's response alone sent back to the input (eq. 3)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from auditor.errors import UnsupportedModel
from auditor.head import find_head
from auditor.rules import Tape

CHUNK_VALUES = 8_000_000
"""Values of R(x|c) held at once: what bounds memory when there are many classes."""


class Backprojection:
    """The forward pass of a batch, ready to send any class back.

    logits: (N, C) float32, the spatial mean of the class responses. class_responses: (N, C, h, w) float32, z_L.

    Only positive class response is sent back: the seed is max(z_c, 0). A class that the network argues against would
    otherwise come back positive (negative response × negative kernel).
    """

    def __init__(self, model: nn.Module, images: Tensor, rule: str) -> None:
        """images: (N, ch, H, W) floating, as the model takes them. Raises UnsupportedModel."""
        # Not a leaf inside the model, so that it may work in place on its input.
        with torch.inference_mode(False):
            images = images.clone() if images.is_inference() else images
            self.images = images.detach().requires_grad_()
            with Tape(rule) as tape, torch.enable_grad():
                output = model(self.images.clone())
        if not isinstance(output, Tensor):
            raise UnsupportedModel(f"the model returns {type(output).__name__}: one tensor of class scores is needed")
        head = find_head(tape, output)
        tape.check_path(head.root)
        self.head = head
        self.class_responses = head.responses
        self.logits = head.responses.mean((2, 3))
        self.seeds = head.responses.clamp(min=0)

    def send_back(self, classes: Tensor) -> Tensor:
        """R(x|c), (N, H, W) float32, summed over the input's channels. classes: (N,) int64, one class a sample."""
        seeds = self.seeds[torch.arange(len(classes), device=classes.device), classes].to(self.head.root.dtype)
        with torch.inference_mode(False):
            entering = self.head.enter(seeds, classes)
            entering = entering.clone() if entering.is_inference() else entering
            (response,) = torch.autograd.grad(self.head.root, self.images, entering, retain_graph=True)
        return response.float().sum(1)

    def stream(self, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the classes in chunks with their responses, (k,) and (N, k, H, W), or (N, k) and (N, k, H, W).

        classes: (K,) int64 for all samples, or (N, K) for each its own. Classes without positive response anywhere
        in the batch have R = 0 and are not sent back.
        """
        samples, _, height, width = self.images.shape
        per_sample = classes.expand(samples, -1)
        positive = (self.seeds.amax((2, 3)).gather(1, per_sample) > 0).any(0).tolist()
        for start, stop in chunks(classes.shape[-1], samples * height * width):
            responses = self.images.new_zeros((samples, stop - start, height, width), dtype=torch.float32)
            for column in range(start, stop):
                if positive[column]:
                    responses[:, column - start] = self.send_back(per_sample[:, column])
            yield classes[..., start:stop], responses


def chunks(classes: int, values_a_class: int) -> Iterator[tuple[int, int]]:
    size = max(1, CHUNK_VALUES // values_a_class)
    for start in range(0, classes, size):
        yield start, min(start + size, classes)
