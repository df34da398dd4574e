"""What goes wrong with a model, said in one sentence."""

import torch


class UnsupportedModel(ValueError):
    """The model cannot be explained as asked: no head was found, or an operation has no rule."""


class RefusedImages(UnsupportedModel):
    """The model itself raises on images of this shape, or on so many."""


def check_memory(error: BaseException) -> None:
    """Raises torch.OutOfMemoryError where an error says that memory is used up: on a CPU, PyTorch has no type for that."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        raise torch.OutOfMemoryError(str(error)) from error
