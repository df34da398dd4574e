"""Class responses without a tape: the same as with one, or none."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import Clear
from auditor.backward.trace import Backprojection, Traced
from auditor.folding.folded import Folded
from auditor.folding.forward_only import Shortcut
from tests.auditor.networks import AveragePool, FlattenHead, PointwiseHead, Residual, random_network
from tests.auditor.pieces import Swish

ROOM = 1 << 30
IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    """Two convolutions, and classes decided as `way` says."""

    def __init__(self, way: Callable[["Body", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.linear, self.flat = nn.Linear(4, 3), nn.Linear(4 * 36, 3)
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        return self.way(self, images)


def rectified_in_place(body: Body, images: Tensor) -> Tensor:
    return F.relu(body.last(F.relu(body.first(images), inplace=True)), inplace=True).mean((2, 3))


def viewed(body: Body, images: Tensor) -> Tensor:
    maps = F.relu(body.first(images))
    scores: Tensor = body.flat(maps.view(maps.size(0), -1))
    return scores


def bits_of_a_constant(body: Body, images: Tensor) -> Tensor:
    """A view of another dtype, of what is none of the maps."""
    one = torch.ones(1).view(dtype=torch.int32).view(torch.float32)
    return body.last(F.relu(body.first(images)) * one.to(images.dtype)).mean((2, 3))


def written_to(body: Body, images: Tensor) -> Tensor:
    """The model writes into what it is given."""
    images -= 0.5
    return F.adaptive_avg_pool2d(body.last(F.relu(body.first(images))), 1).flatten(1)


def under_autocast(body: Body, images: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return body.last(F.relu(body.first(images))).mean((2, 3))


WAYS: dict[str, Callable[[Body, Tensor], Tensor]] = {
    "maps": lambda body, images: body.last(F.relu(body.first(images))).mean((2, 3)),
    "rectified in place": rectified_in_place,
    "average, then linear": lambda body, images: body.linear(F.relu(body.first(images)).mean((2, 3))),
    "tokens, then linear": lambda body, images: body.linear(F.relu(body.first(images)).flatten(2).transpose(1, 2).mean(1)),
    "viewed, then linear": viewed,
    "bits of a constant": bits_of_a_constant,
    "image written to": written_to,
    "autograd Function": lambda body, images: body.last(Swish.apply(body.first(images))).mean((2, 3)),
    "autocast": under_autocast,
}


def folded(model: nn.Module, images: Tensor = IMAGES, **options: str) -> Clear:
    clear = Clear(model, rule="linear", **options)  # type: ignore[arg-type]
    clear.fold(images, ROOM)
    return clear


def taped(clear: Clear, images: Tensor) -> Backprojection:
    """With the operator, without the shortcut."""
    operator = clear.operator
    assert operator is not None
    clear.operator = dataclasses.replace(operator, shortcut=None)
    try:
        return clear.forward(images)
    finally:
        clear.operator = operator


def took_a_tape(found: Backprojection) -> bool:
    return isinstance(found, Traced) or (isinstance(found, Folded) and found.traced is not None)


def assert_same_without_a_tape(clear: Clear, images: Tensor) -> None:
    given, expected = images.clone(), taped(clear, images)
    found = clear.forward(images)
    assert took_a_tape(expected)
    assert not took_a_tape(found)
    peak = float(expected.class_responses.abs().max())
    torch.testing.assert_close(found.class_responses, expected.class_responses, rtol=0, atol=1e-6 * peak)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-6 * peak)
    assert torch.equal(images, given)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_class_responses_are_the_same(way: str, precision: str) -> None:
    clear = folded(Body(WAYS[way]), precision=precision)
    assert_same_without_a_tape(clear, IMAGES)
    assert_same_without_a_tape(clear, torch.randn(7, 2, 6, 6, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("reduction", ["sum", "l2", "max"])
@pytest.mark.parametrize("kind", [AveragePool, FlattenHead, Residual])
def test_maps_are_the_same(kind: type[nn.Module], reduction: str) -> None:
    model, images = random_network(kind, samples=4)
    clear = folded(model, images, reduction=reduction)
    assert not took_a_tape(clear.forward(images))
    maps, responses = clear(images), [found for _, found in clear.responses(images)]
    assert clear.operator is not None
    clear.operator = dataclasses.replace(clear.operator, shortcut=None)
    expected = clear(images)
    assert expected.dominant_response.any()
    torch.testing.assert_close(maps.dominant_response, expected.dominant_response)
    assert torch.equal(maps.dominant_class, expected.dominant_class)
    torch.testing.assert_close(responses, [found for _, found in clear.responses(images)])


def test_inference_mode() -> None:
    clear = folded(Body(WAYS["maps"]))
    with torch.inference_mode():
        assert_same_without_a_tape(clear, IMAGES.clone())


def test_exported_program() -> None:
    program = torch.export.export(Body(WAYS["average, then linear"]).eval(), (IMAGES,))
    assert_same_without_a_tape(folded(program), IMAGES)  # type: ignore[arg-type]


def test_named_head_keeps_nothing() -> None:
    clear = folded(Body(WAYS["maps"]), head="last")
    assert_same_without_a_tape(clear, IMAGES)
    for _ in range(3):
        clear(IMAGES)
    assert clear.watched is not None
    assert len(clear.watched) <= 1


def test_tail_needs_a_tape() -> None:
    model, images = random_network(PointwiseHead, samples=4)
    clear = folded(model, images)
    assert clear.operator is not None
    assert clear.operator.shortcut is None
    assert took_a_tape(clear.forward(images))


def test_another_way_through_the_model_is_taken_with_a_tape() -> None:
    """A model that looks at the image: the bright ones take one rectifier more."""

    def branching(body: Body, images: Tensor) -> Tensor:
        maps = F.relu(body.first(images))
        return body.last(F.relu(2 * maps) if images.amin() > 0 else maps).mean((2, 3))

    model = Body(branching)
    clear, bright = folded(model), IMAGES.abs() + 0.1
    assert_same_without_a_tape(clear, IMAGES)
    found = clear.forward(bright)
    assert took_a_tape(found)
    assert not isinstance(found, Folded), "nor does the operator fit"
    torch.testing.assert_close(clear(bright).dominant_response, Clear(model, rule="linear")(bright).dominant_response)


def test_other_sizes_are_taken_with_a_tape() -> None:
    model = Body(WAYS["maps"])
    clear, larger = folded(model), torch.randn(2, 2, 8, 6, generator=torch.Generator().manual_seed(3))
    assert took_a_tape(clear.forward(larger))
    torch.testing.assert_close(clear(larger).dominant_response, Clear(model, rule="linear")(larger).dominant_response)


def test_an_image_that_is_no_numbers_is_taken_with_a_tape() -> None:
    clear, images = folded(Body(WAYS["maps"])), IMAGES.clone()
    images[1, 0, 2, 3] = torch.nan
    found = clear.forward(images)
    assert took_a_tape(found)
    assert found.logits[1].isnan().all()


def test_a_shortcut_that_finds_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Shortcut.class_responses
    monkeypatch.setattr(Shortcut, "class_responses", lambda self, model, images: read(self, model, images) + 1.0)
    clear = folded(Body(WAYS["maps"]))
    assert clear.operator is not None
    assert clear.operator.shortcut is None
