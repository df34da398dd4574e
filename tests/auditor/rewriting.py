"""The same network written otherwise, and how far maps are from each other."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def noops(model: nn.Module) -> Iterator[nn.Module]:
    """The model, in which every layer's output passes through operations that do nothing, for as long as this lasts."""

    def do_nothing(module: nn.Module, inputs: Any, output: Any) -> Any:
        return F.dropout(output.clone(), training=False).to(output.dtype) if isinstance(output, Tensor) else output

    hooks = [layer.register_forward_hook(do_nothing) for layer in model.modules() if not list(layer.children())]
    try:
        yield model
    finally:
        for hook in hooks:
            hook.remove()


def without_biases(model: nn.Module) -> nn.Module:
    """The same model without what takes relevance for itself: biases, shifts of norms, embeddings that are added."""
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if any(word in name.rpartition(".")[2] for word in ("bias", "embed", "token", "beta")):
            parameter.data.zero_()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            layer.running_mean.zero_()
    return model


def deviation(found: Tensor, expected: Tensor) -> float:
    """Σ |found − expected| / Σ |expected| of each map (N, K, …), the largest; where a map is 0, what is found counts in full."""
    difference = (found - expected).abs().flatten(2).sum(2)
    whole = expected.abs().flatten(2).sum(2)
    return float(torch.where(difference == 0, 0.0, difference / whole).max())
