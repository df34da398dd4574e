"""Convolutions that carry out what surrounds them: which do, and that it changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.folding.forward_only import Replay
from auditor.kernels.conv_fusion import Fused, Seen, fuse

IMAGES = torch.randn(3, 2, 7, 9, generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    """`way` through a convolution of two channels to four, grouped ones, and a batch norm with statistics of its own."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.bare = nn.Conv2d(2, 4, (3, 5), stride=(2, 1), dilation=(1, 2), bias=False)
        self.grouped, self.norm = nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)
        self.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        return self.way(self, images) + 1


def added_to_in_place(body: Any, images: Tensor) -> Tensor:
    """The norm's output is looked at once more, behind a rectifier that wrote into it."""
    normed = body.norm(body.first(images))
    rectified = F.relu(normed, inplace=True)
    return rectified + normed


def shape_asked(maps: Tensor) -> Tensor:
    return F.relu(maps) if maps.dim() == 4 and maps.size(1) == maps.shape[1] else maps


def scaled_by_the_image(body: Any, images: Tensor) -> Tensor:
    return F.relu(F.conv2d(images, body.first.weight * images.mean(), padding=1))


FUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "rectifier": (lambda body, images: F.relu(body.first(images)), 1),
    "norm": (lambda body, images: body.norm(body.first(images)), 1),
    "norm and rectifier": (lambda body, images: body.norm(body.first(images)).relu(), 2),
    "no bias, strides, dilation": (lambda body, images: torch.relu(body.norm(body.bare(images))), 2),
    "groups, ReLU6": (lambda body, images: F.relu6(body.norm(body.grouped(images))), 2),
    "hardtanh": (lambda body, images: F.hardtanh(body.first(images), -0.2, 0.3), 1),
    "hardtanh as it comes": (lambda body, images: nn.Hardtanh()(body.first(images)), 1),
    "in place": (lambda body, images: nn.ReLU6(inplace=True)(body.norm(body.first(images))), 2),
    "looked at after it was written to": (added_to_in_place, 2),
    "zeros around": (lambda body, images: body.first(nn.ZeroPad2d((2, 2, 1, 1))(images)), 1),
    "zeros around, norm, rectifier": (lambda body, images: F.relu(body.norm(body.grouped(F.pad(images, (1, 1, 1, 1))))), 3),
    "keywords": (lambda body, images: F.relu(input=F.conv2d(input=images, weight=body.first.weight, stride=2)), 1),
    "asked for its shape": (lambda body, images: shape_asked(body.first(images)), 1),
}


WHOLE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "taken twice": lambda body, images: F.relu(maps := body.first(images)) + maps,
    "norm taken twice": lambda body, images: F.relu(maps := body.first(images)) + body.norm(maps),
    "seen through a view": lambda body, images: F.relu_(maps := body.first(images)[:]) + maps,
    "kernels of the image": scaled_by_the_image,
    "kernels worked out": lambda body, images: F.relu(F.conv2d(images, body.first.weight * 2)),
    "padding by a word": lambda body, images: F.relu(F.conv2d(images, body.first.weight, padding="same")),
    "another rectifier": lambda body, images: F.leaky_relu(body.first(images)),
    "more on one side": lambda body, images: body.first(F.pad(images, (0, 1, 0, 1))),
    "less than nothing around": lambda body, images: body.first(F.pad(images, (-1, -1, -1, -1))),
    "ones around": lambda body, images: body.first(F.pad(images, (1, 1, 1, 1), value=1.0)),
    "reflection around": lambda body, images: body.first(F.pad(images, (1, 1, 1, 1), mode="reflect")),
    "padded for two": lambda body, images: body.first(wide := F.pad(images, (1, 1, 1, 1))) + wide.mean(),
    "not of a convolution": lambda body, images: F.relu(images),
}


def watched(model: nn.Module, images: Tensor) -> tuple[list[Seen], Tensor]:
    seen: list[Seen] = []
    with torch.no_grad(), Replay(0, {}, seen):
        output = model(images)
    return seen, output


def fused_output(model: nn.Module, fused: dict[int, Fused | None], images: Tensor) -> Tensor:
    with torch.no_grad(), Replay(0, fused):
        output: Tensor = model(images)
    return output


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("way", FUSED)
def test_fused_gives_the_same(way: str, dtype: torch.dtype) -> None:
    body, carried = FUSED[way]
    model, images = Body(body).eval().to(dtype), IMAGES.to(dtype)
    seen, expected = watched(model, images)
    fused = fuse(model, seen)
    assert sum(stand_in is not None for stand_in in fused.values()) == 1
    assert sum(stand_in is None for stand_in in fused.values()) == carried
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 5e-2}[dtype]
    for batch in (images, images[:1].contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(
            fused_output(model, fused, batch),
            expected[: len(batch)],
            rtol=tolerance,
            atol=tolerance * float(expected.abs().max()),
        )


@pytest.mark.parametrize("way", WHOLE)
def test_what_others_see_or_decide_is_left_as_it_is(way: str) -> None:
    model = Body(WHOLE[way]).eval()
    seen, _ = watched(model, IMAGES)
    assert fuse(model, seen) == {}


def test_last_result_is_what_it_was() -> None:
    """Class responses may be read before a norm or a rectifier: up to there, nothing is carried out ahead."""
    model = Body(FUSED["norm and rectifier"][0]).eval()
    seen, _ = watched(model, IMAGES)
    names = [operation.call.name for operation in seen]
    for last in ("conv2d", "batch_norm", "relu"):
        number = names.index(last)
        with torch.no_grad(), Replay(number, fuse(model, seen[: number + 1])) as replay:
            model(IMAGES)
        torch.testing.assert_close(replay.result, seen[number].output)


def test_exported_program_is_fused() -> None:
    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Body(FUSED["zeros around, norm, rectifier"][0])

        def forward(self, images: Tensor) -> Tensor:
            return F.hardtanh(self.body.norm(F.relu6(self.body.first(images))), 0.0, 6.0)

    program = torch.export.export(Exported().eval(), (IMAGES,)).module()
    seen, expected = watched(program, IMAGES)
    fused = fuse(program, seen)
    assert sum(stand_in is None for stand_in in fused.values()) == 1
    torch.testing.assert_close(fused_output(program, fused, IMAGES), expected)
