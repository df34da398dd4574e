"""Makes what `Clear` is given a batch for a model, or says in one sentence why it cannot be one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from auditor.errors import RefusedImages, check_memory

Images = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]
"""A batch (N, ch, H, W), or N images (ch, H, W); floating, as the model takes them.

An image with a number that is not finite has scores that are not finite; the other images are not affected.
"""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
"""How many images a model is tried with, to say what it does take."""
WRITTEN_IN = "a batch size is written into it; keep the first axis as it comes, as in 'x.flatten(1)'"


def as_batch(images: Images, device: torch.device | None) -> Tensor:
    """(N, ch, H, W), floating. device: of the model, None where it is on none. Raises ValueError."""
    batch = stacked(images) if isinstance(images, list | tuple) else as_tensor(images)
    shape = tuple(batch.shape)
    if batch.dim() == 3:
        raise ValueError(f"images have shape {shape}: a batch (N, ch, H, W) is needed; of one image, images[None] is one")
    if batch.dim() == 5:
        raise ValueError(f"images have shape {shape}: volumes and videos are not audited, a batch (N, ch, H, W) is needed")
    if batch.dim() != 4:
        raise ValueError(f"images have shape {shape}: a batch (N, ch, H, W) is needed")
    if not batch[:1].numel() and len(batch):
        raise ValueError(f"images have shape {shape}: there is nothing to explain")
    if not batch.is_floating_point():
        kind = str(batch.dtype).removeprefix("torch.")
        raise ValueError(f"images are of {kind}: floating numbers are needed, scaled and normalised as the model was trained on")
    if device is not None and batch.device != device:
        raise ValueError(f"images are on {batch.device} and the model on {device}: move one to the other")
    return batch


def stacked(images: Sequence[Any]) -> Tensor:
    if not images:
        raise ValueError("images are an empty list: there is nothing to explain")
    tensors = [as_tensor(image) for image in images]
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise ValueError(f"images have different shapes ({', '.join(map(str, shapes))}): resize them to one")
    if len({(tensor.dtype, tensor.device) for tensor in tensors}) > 1:
        raise ValueError("images are of different types or on different devices: make them one tensor")
    return torch.stack(tensors)


def as_tensor(images: Any) -> Tensor:
    if isinstance(images, Tensor):
        return images
    if not isinstance(images, np.ndarray):
        raise ValueError(
            f"images are {type(images).__name__}: a tensor or an array (N, ch, H, W), or a list of (ch, H, W), is needed"
        )
    if images.dtype.kind not in "fiub":
        raise ValueError(f"images are an array of {images.dtype}: floating numbers are needed")
    return torch.from_numpy(np.array(images, dtype=images.dtype.newbyteorder("=")))


def refusal(model: nn.Module, images: Tensor) -> RefusedImages | None:
    """Why a model fails on a batch even when no tape watches it; None where it does not fail. images: (N, ch, H, W)."""
    error = raised(model, images)
    if error is None:
        return None
    words = str(error).strip().split("\n")[0].rstrip(".") or "no words"
    kind = str(images.dtype).removeprefix("torch.")
    sentence = f"the model does not take {kind} images of shape {tuple(images.shape)} ({type(error).__name__}: {words})"
    other = other_batch(model, images)
    if other is None:
        return RefusedImages(f"{sentence}: correct channels, height, width or precision, or the model")
    return RefusedImages(f"{sentence}, but a batch of {other}: {WRITTEN_IN}")


def other_batch(model: nn.Module, images: Tensor) -> int | None:
    """A batch size that the model does take; None where it takes none of `BATCHES`."""
    numbers = [number for number in BATCHES if number != len(images) > 0]
    return next((number for number in numbers if raised(model, images[:1].expand(number, -1, -1, -1)) is None), None)


def raised(model: nn.Module, images: Tensor) -> BaseException | None:
    """What a model raises on a batch, SystemExit included; None where it raises nothing."""
    try:
        with torch.no_grad():
            model(images.contiguous())
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        check_memory(error)
        return error
    return None
