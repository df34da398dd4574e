"""What torch's own function modes do not see: Functions, checkpoints, compiled parts, autocast; and what no mode sees."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from auditor import Clear, UnsupportedModel
from auditor.operations.function_mode import Watch
from auditor.operations.rule_table import RULES
from tests.auditor.pieces import Swish

IMAGES = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1))
ANSWERING_ALL = {"gradient", "gradient_times_input", "cam"}
kept_under_a_name = Swish.apply


class Body(nn.Module):
    """A convolution, an operation, global average and a linear layer."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.operation = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), operation

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.operation(self.first(images)).mean((2, 3)))


def responses(model: nn.Module, rule: str) -> Tensor:
    return torch.cat([part for _, part in Clear(model, rule).responses(IMAGES)], 1)


def by_autograd(model: Body) -> Tensor:
    """Each class's positive response at each position, sent back by torch alone, outside of any mode."""
    images = IMAGES.clone().requires_grad_()
    scores = F.linear(model.operation(model.first(images)).permute(0, 2, 3, 1), model.last.weight, model.last.bias)
    found = []
    for label in range(3):
        score = scores[..., label]
        found.append(torch.autograd.grad(score, images, score.detach().clamp(min=0), retain_graph=True)[0].sum(1))
    return torch.stack(found, 1)


def part(maps: Tensor) -> Tensor:
    return F.relu(Swish.apply(maps) - 0.1)


ALIKE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "a Function kept under a name": (kept_under_a_name, F.silu),
    "checkpoint": (lambda maps: checkpoint(part, maps, use_reentrant=False), part),
    "reentrant checkpoint": (lambda maps: checkpoint(part, maps, use_reentrant=True), part),
    "compiled": (torch.compile(part), part),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ALIKE)
def test_is_seen_as_if_written_plainly(name: str, rule: str) -> None:
    operation, plain = ALIKE[name]
    torch.testing.assert_close(responses(Body(operation), rule), responses(Body(plain), rule), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_autocast_inside_runs_in_the_precision_of_the_model(rule: str) -> None:
    class Autocast(Body):
        def forward(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(images).float()

    assert torch.equal(responses(Autocast(part), rule), responses(Body(part), rule))


class TopHalf(torch.autograd.Function):
    """Keeps the larger half of an image's values: no function of each value alone."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        ctx.mask = maps >= flat.kthvalue(flat.shape[1] // 2, keepdim=True).values[:, :, None, None]
        return maps * ctx.mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.mask


class RectifiedInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.mark_dirty(maps)
        ctx.mask = maps > 0
        return maps.clamp_(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.mask


@torch.library.custom_op("clear_audit_tests::turned", mutates_args=())
def turned(maps: Tensor) -> Tensor:
    return maps.flip(3)


turned.register_autograd(lambda ctx, gradient: gradient.flip(3))


def scripted_source(maps: Tensor) -> Tensor:
    return torch.relu(maps)


UNKNOWN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "Function of many values": (TopHalf.apply, "autograd Function TopHalf"),
    "Function in place": (lambda maps: RectifiedInPlace.apply(1 * maps), "autograd Function RectifiedInPlace"),
    "operator of a library": (lambda maps: turned(1 * maps), "clear_audit_tests::turned"),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_named_where_the_rule_must_know_it(name: str, rule: str) -> None:
    operation, named = UNKNOWN[name]
    if rule in ANSWERING_ALL:
        assert responses(Body(operation), rule).any()
    else:
        with pytest.raises(UnsupportedModel, match=f"operation '{named}' .*rule '{rule}' has no answer.*gradient"):
            responses(Body(operation), rule)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_goes_back_by_its_gradient(name: str) -> None:
    model = Body(UNKNOWN[name][0])
    torch.testing.assert_close(responses(model, "gradient"), by_autograd(model), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("rule", RULES)
def test_what_no_mode_sees_is_found_in_the_graph(rule: str) -> None:
    """A scripted function runs in C++: nothing tells a mode of it."""

    def not_seen(maps: Tensor) -> Tensor:
        return F.relu(torch.jit.script(scripted_source)(maps) - 0.1)

    model = Body(not_seen)
    if rule == "gradient":
        torch.testing.assert_close(responses(model, rule), by_autograd(model), rtol=1e-5, atol=1e-6)
    elif rule not in ANSWERING_ALL:
        with pytest.raises(UnsupportedModel, match=r"was not seen when it was carried out.*TorchScript.*gradient"):
            responses(model, rule)


def test_torch_is_left_as_it_was() -> None:
    """After a watch, after nested ones, and after an error."""

    class Silent(Watch):
        def see(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            return function(*arguments, **keywords)

    parent, before = torch.autograd.Function.__mro__[1], torch.utils.checkpoint._checkpoint_without_reentrant_generator
    watch = Silent()
    with watch:
        with watch, Silent():
            assert "apply" in vars(parent)
        assert "apply" in vars(parent)
    with pytest.raises(ValueError, match="stop"), watch:
        raise ValueError("stop")
    assert "apply" not in vars(parent)
    assert torch.utils.checkpoint._checkpoint_without_reentrant_generator is before
    values = torch.randn(3, requires_grad=True)
    torch.testing.assert_close(Swish.apply(values), F.silu(values))
