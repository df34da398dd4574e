"""Zennit, and what it sends back."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAMES = {
    "torchvision": (),
    "torchvision.models": (),
    "torchvision.models.resnet": ("Bottleneck", "BasicBlock"),
}


def import_zennit() -> Any:
    """Without torchvision, of which it wants the names of two modules; skips the test where zennit itself is not installed."""
    if "torchvision" not in sys.modules:
        for name, classes in NAMES.items():
            stub = ModuleType(name)
            stub.__dict__.update({part: type(part, (nn.Module,), {}) for part in classes})
            sys.modules[name] = stub
        try:
            return pytest.importorskip("zennit")
        finally:
            for name in NAMES:
                del sys.modules[name]
    return pytest.importorskip("zennit")


def zennit_responses(model: nn.Module, images: Tensor, answers: list[tuple[Any, Any]], canonizers: Any = ()) -> Tensor:
    """R(x|c), (N, C, H, W) float32, of a model that returns logits (N, C), with max(z_c, 0) sent back.

    answers: kinds of modules with the rule for each, the first that fits.
    """
    zennit = import_zennit()

    def hook_for(ctx: Any, name: str, module: nn.Module) -> Any:
        return next((hook for kinds, hook in answers if isinstance(module, kinds)), None)

    return composite_responses(model, images, zennit.core.Composite(module_map=hook_for, canonizers=canonizers))


def composite_responses(model: nn.Module, images: Tensor, composite: Any) -> Tensor:
    """The same, by a composite of zennit's."""
    logits = model(images).detach()
    found = []
    for label in range(logits.shape[1]):
        given = images.clone().requires_grad_()
        with composite.context(model) as changed:
            seed = F.one_hot(torch.full((len(images),), label), logits.shape[1]) * logits.clamp(min=0)
            (relevance,) = torch.autograd.grad(changed(given), given, seed)
        found.append(relevance.sum(1).float())
    return torch.stack(found, 1)
