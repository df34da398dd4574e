"""Pictures inside a page: unchanged where there is room for them, else reduced."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

ROOM = 2_000_000
"""Most bytes that the pictures of a page may take."""

SIDES = (224, 192, 160, 128, 96, 64)
"""Longest sides, in pixels, to which pictures are reduced: the first at which all of them fit."""

JPEG: dict[str, Any] = {"format": "JPEG", "quality": 85, "subsampling": 0}
"""Without chroma subsampling: neighbouring pixels of a CLEAR map differ in hue."""
WEBP: dict[str, Any] = {"format": "WEBP", "quality": 85, "alpha_quality": 90}
"""For translucent maps: the brightness of a map is its opacity, which keeps the full resolution."""


OTHER = (1.0, 0.65, 1.0)
"""Evidence for any other class, red, green and blue in [0, 1]: `auditor.colour_maps.OTHER`, pale pink."""

PIXELATED_BELOW = 160
"""Images with fewer pixels a side are enlarged, and each of their pixels is to be seen."""


def are_pixelated(height: int, width: int) -> bool:
    """Whether images of this size are enlarged without smoothing."""
    return max(height, width) < PIXELATED_BELOW


def as_png(picture: "Image") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def as_uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def embed(paths: Sequence[Path], room: int = ROOM) -> tuple[dict[Path, str], int | None]:
    """Data URIs, by path, of the pictures that exist; and the longest side that they are reduced to, None where unchanged.

    paths: PNG files. room: bytes that all may take; at the smallest of SIDES they may take more.
    """
    import PIL.Image

    files = {path: path.read_bytes() for path in paths if path.is_file()}
    uris = {path: as_uri(data) for path, data in files.items()}
    if size(uris) <= room:
        return uris, None
    pictures = {path: PIL.Image.open(io.BytesIO(data)) for path, data in files.items()}
    longest = max(max(picture.size) for picture in pictures.values())
    for side in (side for side in SIDES if side <= longest or side == SIDES[-1]):
        uris = {path: reduce(picture, side) for path, picture in pictures.items()}
        if size(uris) <= room:
            break
    return uris, side


def size(uris: dict[Path, str]) -> int:
    return sum(map(len, uris.values()))


def reduce(picture: "Image", side: int) -> str:
    """A data URI of the picture with a longest side of at most `side` pixels."""
    options = WEBP if picture.mode == "RGBA" else JPEG
    smaller = picture.copy() if picture.mode == "RGBA" else picture.convert("RGB")
    smaller.thumbnail((side, side))
    stream = io.BytesIO()
    smaller.save(stream, **options)
    return as_uri(stream.getvalue(), options["format"].lower())


def heat(shares: np.ndarray, greatest: float, is_own: bool) -> bytes:
    """A mean evidence map as a PNG, in the colours of the binary heatmap.

    shares: (h, w) float ≥ 0. greatest: the share that has full brightness. is_own: from black over red and yellow to white;
    else from black to `OTHER`.
    """
    import PIL.Image

    part = shares / greatest if greatest > 0 else np.zeros_like(shares)
    hot = part[..., None] * 3 - np.arange(3)
    colors = hot if is_own else part[..., None] * np.array(OTHER)
    return as_png(PIL.Image.fromarray((colors.clip(0, 1) * 255).round().astype(np.uint8)))
