"""Rectifying on the way back by whatever took a ReLU's output: who does it, and that it changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from auditor import Clear
from auditor.backward.tape import Tape
from tests.auditor.random_networks import networks

RULES = ["deconv", "gradient", "guided"]
IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def body(operation: Callable[[Tensor], Tensor]) -> nn.Module:
    """A convolution, what is under test on its 8 × 8 maps, and a linear layer for three classes."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = self.last(operation(self.first(images)).mean((2, 3)))
            return scores

    return Body()


def layer(maps: Tensor, size: tuple[int, int] = (3, 3), **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    kernels = torch.randn(4, maps.shape[1] // options.get("groups", 1), *size, generator=generator) / 4
    return F.conv2d(input=maps, weight=kernels.to(maps.dtype), **options)


def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation as autograd has it, each ReLU for itself."""
    monkeypatch.setattr("auditor.backward.handlers.turnable", lambda call: None)
    monkeypatch.setattr("auditor.backward.handlers.are_apart", lambda call: False)


def scattering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever arrives, however much of it and wherever the kernels are not 1 × 1, is scattered; poolings go back by loops."""
    monkeypatch.setattr("auditor.kernels.max_pool.CHANNELS", 1)
    monkeypatch.setattr("auditor.kernels.sparse_conv_transpose.SPAN", 1)
    monkeypatch.setattr("auditor.kernels.sparse_conv_transpose.MOST", 1)


def responses(model: nn.Module, images: Tensor, rule: str, precision: str = "float32") -> Tensor:
    return torch.cat([found for _, found in Clear(model, rule, precision=precision).responses(images)], 1)


def written_to(maps: Tensor) -> Tensor:
    rectified = F.relu(maps)
    rectified.mul_(-1.0).add_(2.0)
    return layer(rectified)


def written_to_in_part(maps: Tensor) -> Tensor:
    rectified = F.relu(maps)
    rectified[:, 0] = 1.0
    return layer(rectified)


def written_to_behind_a_pooling(maps: Tensor) -> Tensor:
    pooled = F.max_pool2d(F.relu(maps), 2)
    pooled.mul_(-1.0).add_(2.0)
    return layer(pooled)


def rectified_in_place(maps: Tensor) -> Tensor:
    pooled = F.max_pool2d(F.relu(maps, inplace=True), 2)
    return layer(F.relu(layer(pooled, size=(1, 1)), inplace=True))


def used_twice(maps: Tensor) -> Tensor:
    rectified = F.relu(maps)
    return layer(rectified, padding=1) + rectified


def used_by_two_layers(maps: Tensor) -> Tensor:
    rectified = F.relu(maps)
    return layer(rectified, padding=1) - layer(rectified, size=(1, 1))


def pooled_and_used(maps: Tensor) -> Tensor:
    """The convolution is behind the pooling, which is not the only one to take the ReLU's output."""
    rectified = F.relu(maps)
    return layer(F.max_pool2d(rectified, 2), padding=1) - F.avg_pool2d(rectified, 2)


def pooled_once_used_twice(maps: Tensor) -> Tensor:
    pooled = F.max_pool2d(F.relu(maps), 2)
    return layer(pooled, padding=1) - pooled


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], list[bool]]] = {
    "convolution": (lambda maps: layer(F.relu(maps)), [True]),
    "convolution, 1 × 1": (lambda maps: layer(F.relu(maps), size=(1, 1)), [True]),
    "convolution, 3 × 2, padded": (lambda maps: layer(F.relu(maps), size=(3, 2), padding=1), [True]),
    "convolution, dilated": (lambda maps: layer(F.relu(maps), padding=2, dilation=2), [True]),
    "convolution, padded by more than its kernel": (lambda maps: layer(F.relu(maps), size=(1, 1), padding=1), [False]),
    "convolution, strided": (lambda maps: layer(F.relu(maps), stride=2), [False]),
    "convolution, grouped": (lambda maps: layer(F.relu(maps), groups=2), [False]),
    "convolution, padded by name": (lambda maps: layer(F.relu(maps), padding="same"), [False]),
    "pooling": (lambda maps: F.max_pool2d(F.relu(maps), 2), [True, False]),
    "pooling, padded": (lambda maps: F.max_pool2d(F.relu(maps), 2, 3, padding=1), [True, False]),
    "pooling, ends cut": (lambda maps: F.max_pool2d(F.relu(maps), 3, ceil_mode=True), [True, False]),
    "pooling, windows overlap": (lambda maps: F.max_pool2d(F.relu(maps), 3, 2), [False]),
    "pooling, dilated": (lambda maps: F.max_pool2d(F.relu(maps), 2, 2, dilation=2), [False]),
    "pooling, then convolution": (lambda maps: layer(F.dropout(F.max_pool2d(F.relu(maps), 2), 0.5, False)), [True, True]),
    "pooling, then ReLU, then convolution": (lambda maps: layer(F.relu(F.max_pool2d(F.relu(maps), 2))), [True, False, True]),
    "in place": (rectified_in_place, [True, True, True]),
    "written to": (written_to, [False]),
    "written to behind a pooling": (written_to_behind_a_pooling, [True, False]),
    "used twice": (used_twice, [False]),
    "used by two layers": (used_by_two_layers, [False]),
    "pooled and used": (pooled_and_used, [False, False]),
    "pooled once, used twice": (pooled_once_used_twice, [True, False]),
    "not used by a layer": (lambda maps: F.relu(maps), [False]),
    "pooled with indices": (lambda maps: F.max_pool2d(F.relu(maps), 2, return_indices=True)[0], [False]),
}


@pytest.mark.parametrize("way", WAYS)
def test_who_rectifies(way: str) -> None:
    operation, expected = WAYS[way]
    model = body(operation).requires_grad_(False)
    with Tape("guided") as tape:
        model(IMAGES.clone().requires_grad_())
    assert [rectification.is_handed_over for rectification in tape.history.rectified.values()] == expected


def test_writing_into_a_part_is_a_use() -> None:
    """Of a rule that knows it."""
    model = body(written_to_in_part).requires_grad_(False)
    with Tape("gradient") as tape:
        model(IMAGES.clone().requires_grad_())
    assert [rectification.is_handed_over for rectification in tape.history.rectified.values()] == [False]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("rule", ["linear", *RULES])
@pytest.mark.parametrize("way", WAYS)
def test_same_as_each_for_itself(way: str, rule: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = body(WAYS[way][0])
    handed_over = responses(model, IMAGES, rule, precision)
    ordinary(monkeypatch)
    expected = responses(model, IMAGES, rule, precision)
    assert expected.any()
    tolerance = {"float64": 1e-6, "float32": 1e-5, "bfloat16": 2e-2}[precision]
    torch.testing.assert_close(handed_over, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("rule", ["linear", *RULES])
@pytest.mark.parametrize("way", WAYS)
def test_same_when_scattered(way: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = body(WAYS[way][0])
    expected = responses(model, IMAGES, rule, "float64")
    scattering(monkeypatch)
    found = responses(model, IMAGES, rule)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(networks())
def test_random_network_same_as_each_for_itself(drawn: tuple[nn.Module, Tensor]) -> None:
    model, images = drawn
    for rule in RULES:
        handed_over = responses(model, images, rule)
        with pytest.MonkeyPatch.context() as monkeypatch:
            scattering(monkeypatch)
            scattered = responses(model, images, rule)
        with pytest.MonkeyPatch.context() as monkeypatch:
            ordinary(monkeypatch)
            expected = responses(model, images, rule)
        tolerance = 1e-4 * max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(handed_over, expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(scattered, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rule", RULES)
def test_same_without_onednns_own_convolution(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not part of torch's public interface: a build may lack it."""
    model = body(WAYS["pooling, then convolution"][0])
    fused = responses(model, IMAGES, rule)
    monkeypatch.setattr("auditor.kernels.relu_backward.is_fused", lambda arrived: False)
    torch.testing.assert_close(responses(model, IMAGES, rule), fused, rtol=0, atol=1e-5 * float(fused.abs().max()))


def test_onednns_own_convolution_is_there_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    genuine = torch.ops.mkldnn._convolution_pointwise

    class Spy:
        binary = staticmethod(lambda *arguments: called.append("mask") or genuine.binary(*arguments))

        def __call__(self, *arguments: object) -> object:
            called.append("no mask")
            return genuine(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", Spy())
    for rule in RULES:
        next(Clear(body(WAYS["convolution"][0]), rule).responses(IMAGES))
    assert called == ["no mask"] * 3 + ["mask"] * 6


@pytest.mark.parametrize("rule", ["linear", *RULES])
def test_no_image_is_no_error(rule: str) -> None:
    assert Clear(body(WAYS["pooling, then convolution"][0]), rule)(IMAGES[:0]).dominant_class.shape == (0, 8, 8)


@pytest.mark.parametrize("rule", ["gradient", "linear"])
def test_convolution_with_kernels_that_depend_on_the_input(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes back to kernels is another thing than what goes back to maps."""
    constant = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))

    def of_one_image(maps: Tensor) -> Tensor:
        return F.conv2d(constant, F.relu(maps[:1])[:, :, :3, :3].expand(4, -1, -1, -1))

    model = body(of_one_image)
    found = responses(model, IMAGES[:1], rule)
    ordinary(monkeypatch)
    torch.testing.assert_close(found, responses(model, IMAGES[:1], rule))
