"""Maps as pictures: responses and classes in, RGB out (eq. 6, and the binary maps of section 4.2)."""

import math

import torch
from torch import Tensor

GOLDEN_STEP = (math.sqrt(5) - 1) / 2
"""Part of the hue circle between neighbouring classes, where there are too many classes to spread evenly."""

EVEN_CLASSES = 12
"""Up to here classes are spread evenly over the hue circle."""

HUES = 6 * 600
"""Points at which the hue circle is measured."""

GREYED = (0.13, 0.43, 0.04)
"""Red, green and blue in an image that lies under a map: its luma (ITU-R 709) at 0.6, so that colours stand out from white."""

OTHER = (1.0, 0.65, 1.0)
"""Of the binary heatmap, evidence for any other class: pale pink. No class has it, for theirs are fully saturated (`palette`); of
all colours of full value it is about the farthest, in OKLab, from these, from the hot scale and from an image's greys."""

PERCENTILE = 99
"""Of a sample's positive responses: what lies above it is drawn at full brightness. The peak alone would leave the rest black."""


def palette(classes: int) -> Tensor:
    """Colours of classes, (classes, 3) float32 RGB in [0, 1]: F of eq. 6, fully saturated, full value, only hue varies.

    Hues are spaced evenly by the length of the hue circle in OKLab (Ottosson 2020), not by HSV hue, whose greens look
    alike. Above `EVEN_CLASSES` class i stands at i times the golden ratio: neighbouring indices stay clearly apart, but
    other classes come close. Two clearly different colours are then still two classes; two like colours may be one
    class or two, which only `dominant_class` tells.
    """
    circle = hue_circle(torch.arange(HUES + 1, dtype=torch.float64) / HUES)
    steps = torch.linalg.vector_norm(oklab(circle).diff(dim=0), dim=1)
    lengths = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    indices = torch.arange(classes, dtype=torch.float64)
    positions = indices / max(classes, 1) if classes <= EVEN_CLASSES else (indices * GOLDEN_STEP).frac()
    wanted = positions * lengths[-1]
    after = torch.searchsorted(lengths, wanted, right=True).clamp(max=HUES)
    hues = (after - 1 + (wanted - lengths[after - 1]) / steps[after - 1]) / HUES
    return hue_circle(hues).float()


def hue_circle(hues: Tensor) -> Tensor:
    """HSV to RGB with S = V = 1. hues: (n,) in [0, 1]. Returns (n, 3) in [0, 1]."""
    distance_from_peak = (hues[:, None] * 6 - torch.tensor([0, 2, 4], dtype=hues.dtype) + 3).remainder(6) - 3
    return (2 - distance_from_peak.abs()).clamp(0, 1)


def oklab(colors: Tensor) -> Tensor:
    """sRGB to OKLab (Ottosson 2020), where distances are about those that people see. (n, 3) in [0, 1] to (n, 3)."""
    linear = torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    cones = torch.tensor(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ],
        dtype=colors.dtype,
    )
    opponents = torch.tensor(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ],
        dtype=colors.dtype,
    )
    return (linear @ cones.T).pow(1 / 3) @ opponents.T


def clear_map(dominant_class: Tensor, dominant_response: Tensor, colors: Tensor) -> Tensor:
    """CLEAR maps (eq. 6): H = F(Ĉ), S = 1, V = D, as a part of each sample's `full_brightness`.

    dominant_class: (N, H, W) integer, −1 = none. dominant_response: (N, H, W) float ≥ 0. colors: (C, 3) in [0, 1], see
    `palette`. Returns (N, H, W, 3) uint8 RGB; black where no class dominates.
    """
    value = scale(dominant_response, full_brightness(dominant_response))
    value = torch.where(dominant_class >= 0, value, 0)
    # With S = 1, HSV to RGB is linear in V.
    return to_bytes(colors.to(value)[dominant_class.clamp(min=0).long()] * value[..., None])


def binary_heatmap(label_response: Tensor, rest_response: Tensor) -> Tensor:
    """Evidence for a class against all others (section 4.2): whichever is greater at a pixel; a tie is the class's.

    The class's response runs from black over red and yellow to white, the others' from black to `OTHER`, both on one
    scale, the `full_brightness` of the greater of the two in that sample. Only positive responses show.

    label_response, rest_response: (N, H, W) float, the class's response and the maximum over all others; see
    `against_rest`. Returns (N, H, W, 3) uint8 RGB.
    """
    brightest = full_brightness(torch.maximum(label_response, rest_response))
    hot = scale(label_response, brightest)[..., None] * 3 - torch.arange(3, device=label_response.device)
    other = scale(rest_response, brightest)[..., None] * torch.tensor(OTHER, device=rest_response.device)
    return to_bytes(torch.where((label_response >= rest_response)[..., None], hot, other))


def against_rest(dominant_class: Tensor, dominant_response: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """What the binary maps compare, from the dominant maps alone: where one class speaks loudest, and where another does.

    dominant_class: (N, H, W) integer, −1 = none. dominant_response: (N, H, W) float ≥ 0. shown: (N,) int64, the class of
    each sample. Returns its response and the others' maximum, each like `dominant_response`, where it is the greater of the
    two and positive, else 0: no more of either is ever seen.
    """
    is_shown = dominant_class == shown[:, None, None]
    return dominant_response * is_shown, dominant_response * ~is_shown


def binary_map(label_response: Tensor, rest_response: Tensor) -> Tensor:
    """Where a class speaks loudest, red, and where another does, blue; black where the louder one is not positive.

    label_response, rest_response: (N, H, W) float, the class's response and the maximum over all others; a tie is the
    class's. Returns (N, H, W, 3) uint8 RGB, each channel 0 or 255.
    """
    label_wins = label_response >= rest_response
    red = label_wins & (label_response > 0)
    blue = ~label_wins & (rest_response > 0)
    return to_bytes(torch.stack([red, torch.zeros_like(red), blue], -1).float())


def picture(images: Tensor) -> Tensor:
    """Input pixels as a picture to lay beside a map.

    images: (N, ch, H, W) uint8: three channels are RGB, any other number is shown in grey, as their mean. Returns
    (N, H, W, 3) uint8.
    """
    if images.shape[1] == 3:
        return images.permute(0, 2, 3, 1).contiguous()
    grey = images.float().mean(1).round().to(torch.uint8)
    return grey[..., None].repeat(1, 1, 1, 3)


def translucent(maps: Tensor) -> Tensor:
    """Maps as they are laid over an image: over black they are themselves, and where they are dark the image shows.

    maps: (N, H, W, 3) uint8 RGB on black, of this file's functions. Returns (N, H, W, 4) uint8 RGBA: the colour at its
    brightest, and the brightness, HSV's V, as opacity.
    """
    opacity = maps.amax(-1, keepdim=True)
    colors = maps.float() * 255 / opacity.clamp(min=1)
    return torch.cat([colors.round().to(torch.uint8), opacity], -1)


def over_image(layers: Tensor, pictures: Tensor) -> Tensor:
    """Maps on the images, as the paper's figures show them: the image grey and dark below, the map's colours above.

    layers: (N, H, W, 4) uint8, see `translucent`. pictures: (N, H, W, 3) uint8 RGB, see `picture`. Returns (N, H, W, 3) uint8.
    """
    grey = (pictures.float() * torch.tensor(GREYED, device=pictures.device)).sum(-1, keepdim=True)
    opacity = layers[..., 3:].float() / 255
    return (layers[..., :3] * opacity + grey * (1 - opacity)).round().to(torch.uint8)


def full_brightness(responses: Tensor) -> Tensor:
    """The response that is drawn at full brightness, (N, 1, 1) float32: a percentile of each sample's positive ones.

    responses: (N, H, W) float. At most 100 − `PERCENTILE` % of them lie above it; 0 where none is positive.
    """
    positive = responses.float().flatten(1)
    positive = torch.where(positive > 0, positive, torch.nan)
    return positive.nanquantile(PERCENTILE / 100, dim=1, interpolation="higher").nan_to_num(0)[:, None, None]


def scale(responses: Tensor, brightest: Tensor) -> Tensor:
    """The positive part of `responses` as a part of `brightest`, float32 in [0, 1]; 0 where nothing is positive."""
    return torch.where(brightest > 0, (responses.float() / brightest).clamp(0, 1), 0)


def to_bytes(colors: Tensor) -> Tensor:
    """Colours in [0, 1], and beyond: these are cut, to uint8."""
    return (colors.clamp(0, 1) * 255).round().to(torch.uint8)
