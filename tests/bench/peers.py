"""What others would do for the same maps: a call, or a backward pass, a class."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from captum.attr import Deconvolution, GuidedBackprop


def captum_loop(method: "Deconvolution | GuidedBackprop", classes: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """As captum documents it: a target, a call."""
    return dominant(method.attribute(images, target=target).sum(1) for target in range(classes))


def autograd_loop(model: nn.Module, classes: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Plain gradients: one forward pass, and one backward a class."""
    images = images.detach().requires_grad_()
    logits = model(images)
    return dominant(
        torch.autograd.grad(logits[:, target].sum(), images, retain_graph=True)[0].sum(1) for target in range(classes)
    )


def batched_gradients(model: nn.Module, classes: int, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.detach().requires_grad_()
    logits = model(images)
    seeds = torch.eye(logits.shape[1], device=logits.device)[:classes, None].expand(-1, *logits.shape)
    (responses,) = torch.autograd.grad(logits, images, seeds, is_grads_batched=True)
    return dominant(responses.sum(2))


def dominant(responses: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Eq. 4 and 5 over classes in order, as `Clear` reduces its own."""
    best = winner = None
    for number, response in enumerate(responses):
        if best is None or winner is None:
            best, winner = torch.zeros_like(response), torch.full_like(response, -1, dtype=torch.int16)
        winner = torch.where(response > best, number, winner)
        best = torch.maximum(best, response)
    if best is None or winner is None:
        raise ValueError("no class, no map")
    return winner, best
