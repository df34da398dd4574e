import contextlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from storage.datasets.images import UnreadableImage, check_range, decode

GREY = np.array([[0, 50, 100], [150, 200, 255]], dtype=np.uint8)
COLOUR = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[1, 2, 3], [40, 50, 60], [255, 255, 255]]], dtype=np.uint8)


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_grey_stays_grey(format: str) -> None:
    decoded = decode(encode(Image.fromarray(GREY), format))
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == GREY.tolist()


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_colour_stays_colour(format: str, options: dict[str, bool]) -> None:
    assert decode(encode(Image.fromarray(COLOUR), format, **options)).tolist() == COLOUR.tolist()


def test_a_jpeg_of_one_colour() -> None:
    decoded = decode(encode(Image.new("RGB", (16, 8), (200, 100, 50)), "JPEG", quality=100))
    assert decoded.shape == (8, 16, 3)
    assert np.abs(decoded.astype(int) - (200, 100, 50)).max() <= 1


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG2000", {"irreversible": False}), ("QOI", {}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})],
)
def test_colour_of_newer_formats(format: str, options: dict[str, object]) -> None:
    image = Image.fromarray(COLOUR).resize((32, 32))
    decoded = decode(encode(image, format, **options))
    assert np.abs(decoded.astype(int) - np.asarray(image)).max() <= (3 if format == "AVIF" else 0)
    assert decode(encode(Image.new("L", (16, 16), 77), "JPEG2000")).tolist() == [[77] * 16] * 16


def test_damage_that_avif_has_an_error_of_its_own_for() -> None:
    whole = encode(Image.new("RGB", (32, 32)), "AVIF")
    for position in range(12, len(whole)):
        with contextlib.suppress(UnreadableImage):
            decode(whole[:position] + bytes(4) + whole[position + 4 :])


def test_a_netpbm_written_by_hand() -> None:
    assert decode(b"P5 3 2 255\n" + GREY.tobytes()).tolist() == GREY.tolist()


def test_one_bit_is_black_and_white() -> None:
    assert decode(encode(Image.fromarray(GREY > 120))).tolist() == [[0, 0, 0], [255, 255, 255]]


# The picture as stored is [[A, B, C], [D, E, F]]; how it looks when it stands as EXIF says.
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, np.array),
        (2, np.fliplr),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, np.flipud),
        (5, lambda stored: stored.T),
        (6, lambda stored: stored[::-1].T),
        (7, lambda stored: stored[::-1, ::-1].T),
        (8, lambda stored: stored.T[::-1]),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_exif_orientation(orientation: int, upright: Callable[[np.ndarray], np.ndarray], format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode(encode(Image.fromarray(GREY), format, exif=exif)).tolist() == upright(GREY).tolist()


def test_a_palette_becomes_its_colours() -> None:
    assert decode(encode(Image.fromarray(GREY), "GIF")).tolist() == GREY[..., np.newaxis].repeat(3, axis=2).tolist()
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 255, 128, 0])
    image.putdata([1, 0])
    assert decode(encode(image)).tolist() == [[[255, 128, 0], [9, 8, 7]]]
    assert decode(encode(image, transparency=0)).tolist() == [[[255, 128, 0], [0, 0, 0]]]


def test_transparency_is_composited_over_black() -> None:
    colour = np.array([[[200, 100, 51, 255], [200, 100, 51, 0], [200, 100, 51, 128]]], dtype=np.uint8)
    assert decode(encode(Image.fromarray(colour))).tolist() == [[[200, 100, 51], [0, 0, 0], [100, 50, 26]]]
    grey = Image.merge("LA", (Image.new("L", (1, 1), 200), Image.new("L", (1, 1), 128)))
    assert decode(encode(grey)).tolist() == [[100]]
    assert decode(encode(Image.fromarray(GREY), transparency=255)).tolist() == [[0, 50, 100], [150, 200, 0]]


def test_cmyk_becomes_rgb() -> None:
    assert decode(encode(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF")).tolist() == [[[0, 255, 255]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(format: str) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    assert decode(encode(Image.fromarray(values), format)).tolist() == [[0, 0, 1, 1, 128, 255]]


def test_16_bit_grey_of_other_makers() -> None:
    assert decode(b"P5 2 1 65535\n" + struct.pack(">2H", 257, 65535)).tolist() == [[1, 255]]
    big_endian = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"MM")
    assert decode(encode(Image.fromarray(np.array([[514]], dtype=">u2")), "TIFF", tiffinfo=big_endian)).tolist() == [[2]]


def cut(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"^the file is empty \(0 bytes\)$"),
        (b"<html>not here</html>", "^not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^not an image of a known format"),
        (encode(NOISE)[:12], "cut off in its header$"),
        *((cut(encode(NOISE, format)), "^damaged or truncated: ") for format in ("PNG", "JPEG", "BMP", "PPM")),
        (encode(NOISE)[:60] + b"\0" * 40 + encode(NOISE)[100:], "^damaged or truncated: "),
        (encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "^floating-point pixels.*save it with 8 or 16 bits"),
        (
            encode(Image.fromarray(np.array([[70_000]], dtype=np.int32)), "TIFF"),
            r"^32-bit integer pixels outside 0…65535",
        ),
    ],
)
def test_a_file_that_is_no_image_has_a_reason_in_one_line(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason) as caught:
        decode(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [99, 40])  # Pillow warns from once the limit on and raises from twice
def test_a_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    content = encode(Image.new("L", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(content).shape == (10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnreadableImage, match=r"^decompression bomb: "):
        decode(content)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


BOMB = zlib.compress(bytes(80_000_000), 9)


@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"zTXt", b"word\0\0" + BOMB),
        chunk(b"iTXt", b"word\0\1\0\0\0" + BOMB),
        chunk(b"iCCP", b"word\0\0" + BOMB),
        100 * chunk(b"zTXt", b"word\0\0" + zlib.compress(bytes(1_000_000), 9)),
    ],
    ids=["zTXt", "iTXt", "iCCP", "many"],
)
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_bomb_of_text_in_an_image_is_not_unpacked(bomb: bytes, where: str) -> None:
    whole = encode(Image.fromarray(GREY))
    cut_at = 33 if where == "before" else len(whole) - 12  # after the header, and before the end
    tracemalloc.start()
    with contextlib.suppress(UnreadableImage):
        assert np.array_equal(decode(whole[:cut_at] + bomb + whole[cut_at:]), GREY)
    assert tracemalloc.get_traced_memory()[1] < 75_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 5), (5, 0), (0, 0)])
def test_a_header_that_claims_too_much_or_nothing_is_not_decoded(width: int, height: int) -> None:
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 154, 0, 0, 54, 40, width, height, 1, 8, 0, 100, 0, 0, 0, 0) + bytes(100)
    gif = b"GIF89a" + struct.pack("<HHBBB", width % 65_536, height % 65_536, 0, 0, 0) + b";"
    ppm = f"P5 {width} {height} 255\n".encode() + bytes(100)
    for content in (png, bmp, gif, ppm):
        with pytest.raises(UnreadableImage) as caught:
            decode(content)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage and goes on
@settings(deadline=None)
@given(
    position=st.integers(0, 400),
    junk=st.binary(min_size=1, max_size=8),
    format=st.sampled_from(["PNG", "GIF", "TIFF", "AVIF", "JPEG2000", "QOI"]),
)
def test_damaged_bytes_never_raise_anything_else(position: int, junk: bytes, format: str) -> None:
    whole = encode(NOISE, format)
    try:
        decoded = decode(whole[:position] + junk + whole[position + len(junk) :])
    except UnreadableImage:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim in (2, 3)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 4)])
def test_a_range_outside_the_dataset_is_an_error(start: int, stop: int) -> None:
    check_range(0, 3, 3)
    with pytest.raises(IndexError, match=rf"\[{start}, {stop}\) of a dataset of 3"):
        check_range(start, stop, 3)
