"""Colours by their definitions and pictures by hand."""

import colorsys
import io
import math
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from auditor.colour_maps import (
    OTHER,
    against_rest,
    binary_heatmap,
    binary_map,
    clear_map,
    full_brightness,
    palette,
    picture,
    translucent,
)
from reports.parts.pictures import heat

Color = tuple[float, float, float]


def oklab(color: Color) -> Color:
    """Ottosson's reference formulas, 2020, one colour at a time."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def even_hues(classes: int) -> list[Color]:
    return [colorsys.hsv_to_rgb(index / classes, 1, 1) for index in range(classes)]


def least_distance(colors: list[Color]) -> float:
    return min(math.dist(oklab(first), oklab(second)) for first, second in combinations(colors, 2))


def rows(colors: Tensor) -> list[Color]:
    return [tuple(row) for row in colors.tolist()]


@pytest.mark.parametrize("classes", [1, 2, 10, 12, 13, 1000])
def test_palette_varies_hue_only(classes: int) -> None:
    colors = palette(classes)
    assert (colors.shape, colors.dtype) == ((classes, 3), torch.float32)
    for color in rows(colors):
        assert colorsys.rgb_to_hsv(*color)[1:] == (1, 1)
    assert torch.equal(palette(classes), colors)


def test_ten_classes_are_told_apart() -> None:
    """Measured: 0.123 against 0.045 for hues spaced evenly in HSV, whose greens are one."""
    assert least_distance(even_hues(10)) < 0.05
    assert least_distance(rows(palette(10))) > 0.12


@pytest.mark.parametrize("classes", [5, 10, 12])
def test_neighbours_are_equally_far_apart_along_the_hue_circle(classes: int) -> None:
    """By walking the circle in small steps of hue from each colour to the next."""
    hues = [colorsys.rgb_to_hsv(*color)[0] for color in rows(palette(classes))]
    assert hues == sorted(hues)
    walks = []
    for start, stop in zip(hues, [*hues[1:], 1 + hues[0]], strict=True):
        path = [oklab(colorsys.hsv_to_rgb((start + (stop - start) * step / 500) % 1, 1, 1)) for step in range(501)]
        walks.append(sum(math.dist(first, second) for first, second in pairwise(path)))
    assert walks == pytest.approx([sum(walks) / classes] * classes, rel=1e-3)


def test_a_thousand_classes_keep_neighbours_apart() -> None:
    colors = rows(palette(1000))
    neighbours = [math.dist(oklab(first), oklab(second)) for first, second in pairwise(colors)]
    assert min(neighbours) > 0.3, "measured 0.319; evenly spaced they would be 0.002 apart"
    assert len(set(colors)) == 1000
    assert palette(13)[:13].tolist() == palette(1000)[:13].tolist(), "a class keeps its colour when classes are added"


PRIMARIES = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0.5, 0]])


def test_clear_map_by_hand() -> None:
    """Two samples with peaks 4 and 0.1; orange at half value is (128, 64, 0); no class is black, whatever responds."""
    classes = torch.tensor([[[0, 1], [-1, 3]], [[2, -1], [3, 0]]], dtype=torch.int16)
    response = torch.tensor([[[4.0, 1], [3, 2]], [[0.1, 0], [0.04, 0]]])
    actual = clear_map(classes, response, PRIMARIES)
    assert actual.dtype == torch.uint8
    assert actual.tolist() == [
        [[[255, 0, 0], [0, 64, 0]], [[0, 0, 0], [128, 64, 0]]],
        [[[0, 0, 255], [0, 0, 0]], [[102, 51, 0], [0, 0, 0]]],
    ]


def test_clear_map_is_eq_6() -> None:
    """Back from RGB to HSV: hue is F(Ĉ), saturation 1, value D."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(-1, 10, (3, 6, 7), generator=generator).short()
    response = torch.rand(3, 6, 7, generator=generator).masked_fill(classes < 0, 0)
    response *= torch.tensor([1, 50, 0.01])[:, None, None]
    colors = palette(10)
    pictures = clear_map(classes, response, colors)
    for sample, y, x in torch.cartesian_prod(torch.arange(3), torch.arange(6), torch.arange(7)).tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(*(pictures[sample, y, x].double() / 255).tolist())
        expected = (response[sample, y, x] / response[sample].max()).item()
        assert value == pytest.approx(expected, abs=0.5 / 255 + 1e-6)
        if value > 0.2:
            wanted = colorsys.rgb_to_hsv(*colors[classes[sample, y, x]].tolist())[0]
            assert saturation == 1
            assert (hue - wanted + 0.5) % 1 - 0.5 == pytest.approx(0, abs=1 / (6 * 255 * value))


def test_one_bright_pixel_does_not_darken_the_others() -> None:
    """Of 1 to 300, three lie above 297, which is 1 %; what is not positive does not count."""
    responses = torch.cat([torch.arange(300.0) + 1, torch.zeros(50), -torch.ones(50)])
    responses = responses[torch.randperm(400, generator=torch.Generator().manual_seed(0))].view(1, 20, 20)
    assert full_brightness(responses).tolist() == [[[298.0]]]
    assert full_brightness(responses).item() == np.quantile(np.arange(1, 301), 0.99, method="higher")
    loud = responses.clone()
    loud[responses == 300] = 1e6
    zeros = torch.zeros(1, 20, 20, dtype=torch.int16)
    assert torch.equal(clear_map(zeros, loud, PRIMARIES), clear_map(zeros, responses, PRIMARIES))
    assert torch.equal(binary_heatmap(loud, -loud), binary_heatmap(responses, -responses))
    assert (full_brightness(loud) > 0).all()
    assert full_brightness(-torch.ones(2, 3, 4)).tolist() == [[[0]], [[0]]]


def test_a_translucent_map_over_black_is_the_map() -> None:
    """And over white it is Porter and Duff's over: Pillow's; fully black is fully transparent."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.randint(0, 256, (2, 9, 8, 3), generator=generator, dtype=torch.uint8) * torch.randint(
        0, 2, (2, 9, 8, 1), generator=generator, dtype=torch.uint8
    )
    layers = translucent(maps)
    assert (layers.shape, layers.dtype) == ((2, 9, 8, 4), torch.uint8)
    assert torch.equal(layers[..., 3], maps.amax(-1))
    for layer, wanted in zip(layers, maps, strict=True):
        black = Image.new("RGBA", (8, 9), (0, 0, 0, 255))
        laid = np.asarray(Image.alpha_composite(black, Image.fromarray(layer.numpy())).convert("RGB")).astype(int)
        assert np.abs(laid - wanted.numpy()).max() <= 1
    assert translucent(torch.tensor([[[[0, 0, 0], [51, 0, 0], [100, 200, 50]]]], dtype=torch.uint8)).tolist() == [
        [[[0, 0, 0, 0], [255, 0, 0, 51], [128, 255, 64, 200]]]
    ]


def test_clear_map_of_nothing_is_black() -> None:
    actual = clear_map(torch.full((2, 3, 4), -1, dtype=torch.int16), torch.zeros(2, 3, 4), palette(10))
    assert actual.shape == (2, 3, 4, 3)
    assert actual.count_nonzero() == 0


def test_clear_map_of_stored_responses() -> None:
    """float16 divided by the peak, as maps are stored."""
    actual = clear_map(torch.tensor([[[0, 1]]]), torch.tensor([[[1, 0.5]]], dtype=torch.float16), PRIMARIES)
    assert actual.tolist() == [[[[255, 0, 0], [0, 128, 0]]]]


LABEL = torch.tensor([[[6.0, 2, 1, 4], [3, -1, -1, 0]], [[0, 0, 0, 0], [0, 0, 0, -2]]])
REST = torch.tensor([[[3.0, 1, 3, 4], [4, 2, -5, 0]], [[0, 0, 0, 0], [0, 0, -1, 5]]])
"""Two samples of 2 × 4: clear wins, a tie, a class against all, both against, both silent; then silence but for one."""


def test_binary_heatmap_by_hand() -> None:
    """The scale is 6, then 5. Hot runs through red at a third and yellow at two thirds: 2 of 6 is full red."""
    assert binary_heatmap(LABEL, REST).tolist() == [
        [
            [[255, 255, 255], [255, 0, 0], [128, 83, 128], [255, 255, 0]],
            [[170, 110, 170], [85, 55, 85], [0, 0, 0], [0, 0, 0]],
        ],
        [[[0, 0, 0]] * 4, [[0, 0, 0], [0, 0, 0], [0, 0, 0], [255, 166, 255]]],
    ]


def test_binary_heatmap_between_its_colours() -> None:
    """1 of 12: a quarter of red; 6 of 12: red and half of green; 10 of 12: yellow and half of blue."""
    actual = binary_heatmap(torch.tensor([[[1.0, 6, 10, 12]]]), torch.zeros(1, 1, 4))
    assert actual.tolist() == [[[[64, 0, 0], [255, 128, 0], [255, 255, 128], [255, 255, 255]]]]
    assert actual.dtype == torch.uint8


def test_no_class_has_the_colour_of_the_others() -> None:
    """Nor the hot scale, nor an image under a map: the nearest is farther than two of ten classes are from each other."""
    hot = [tuple(min(max(step / 100 - place, 0), 1) for place in range(3)) for step in range(301)]
    greys = [(step / 100,) * 3 for step in range(61)]
    hues = [colorsys.hsv_to_rgb(step / 720, 1, 1) for step in range(720)]
    nearest = min(math.dist(oklab(OTHER), oklab(color)) for color in [*hues, *hot, *greys])
    assert nearest > least_distance(rows(palette(10)))


@pytest.mark.parametrize("is_own", [True, False])
def test_reports_draw_mean_evidence_in_the_colours_of_the_binary_heatmap(is_own: bool) -> None:
    """Neither package may import the other: the colours stand in both."""
    shares = torch.arange(65).view(1, 5, 13) / 64
    nothing = torch.zeros_like(shares)
    drawn = binary_heatmap(shares, nothing) if is_own else binary_heatmap(nothing, shares)
    in_report = Image.open(io.BytesIO(heat(shares[0].double().numpy(), 1.0, is_own)))
    assert np.array_equal(np.asarray(in_report), drawn[0].numpy())


@pytest.mark.parametrize("draw", [binary_heatmap, binary_map])
def test_binary_maps_from_the_dominant_maps_are_those_from_all_responses(draw: Callable[..., Tensor]) -> None:
    """Of random responses of both signs without ties, and of a sample that is silent."""
    responses = torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(4))
    responses[3] = -1
    shown = torch.tensor([0, 4, 2, 1])
    best, winner = responses.max(1)
    dominant_class, dominant_response = torch.where(best > 0, winner, -1).to(torch.int16), best.clamp(min=0)
    label = responses.gather(1, shown[:, None, None, None].expand(-1, 1, 6, 7))[:, 0]
    rest = responses.scatter(1, shown[:, None, None, None].expand(-1, 1, 6, 7), -torch.inf).amax(1)
    assert torch.equal(draw(*against_rest(dominant_class, dominant_response, shown)), draw(label, rest))


def test_binary_map_by_hand() -> None:
    red, blue, black = [255, 0, 0], [0, 0, 255], [0, 0, 0]
    actual = binary_map(LABEL, REST)
    assert actual.tolist() == [
        [[red, red, blue, red], [blue, blue, black, black]],
        [[black] * 4, [black, black, black, blue]],
    ]
    assert actual.dtype == torch.uint8


def test_picture_of_grey_and_colour() -> None:
    one = torch.tensor([[[[0, 7], [200, 255]]]], dtype=torch.uint8)
    assert picture(one).tolist() == [[[[0] * 3, [7] * 3], [[200] * 3, [255] * 3]]]
    three = torch.tensor([[[[1]], [[2]], [[3]]]], dtype=torch.uint8)
    assert picture(three).tolist() == [[[[1, 2, 3]]]]
    two = torch.tensor([[[[250]], [[255]]]], dtype=torch.uint8)
    assert picture(two).tolist() == [[[[252, 252, 252]]]], "252.5, to even, and no overflow on the way"
