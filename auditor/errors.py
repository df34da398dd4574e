"""Errors of a model that cannot be explained, each one sentence."""

import torch


class UnsupportedModel(ValueError):
    """The model cannot be explained as asked: no head was found, or an operation has no rule."""


class RefusedImages(UnsupportedModel):
    """The model itself raises on images of this shape, or on a batch of this size."""


def check_memory(error: BaseException) -> None:
    """Raises torch.OutOfMemoryError where an error says that memory ran out: PyTorch has no error type for that on a CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        raise torch.OutOfMemoryError(str(error)) from error
