"""What the formats share: limits, and the decoding of images."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from storage.datasets.dataset import Samples
from storage.errors import InputError

Content = tuple[np.ndarray, str]
"""An image, uint8 (H, W) or (H, W, 3), and the SHA-256 of the bytes that it was read from."""

BLOCK_BYTES = 1 << 20
MOST_SAMPLES = 1 << 27
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "QOI")
"""What an image is decoded from, by its content. Pillow knows more: formats that run another program (EPS), that nothing tells
from other files (TGA), or whose old decoders nobody needs here."""

COMMON_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, RuntimeError)  # what 400,000 damaged files made Pillow raise
RARE_DAMAGE = (
    EOFError,
    LookupError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)  # what its plugins can raise


class UnreadableImage(Exception):
    """One image cannot be had. The message is the reason, in one line."""


def check_count(count: int, address: str) -> None:
    """Raises InputError where a file claims more samples than an audit can hold the labels of."""
    if count > MOST_SAMPLES:
        raise InputError(f"{address} lists {count:,} samples; split it into datasets of at most {MOST_SAMPLES:,}")


def check_range(start: int, stop: int, count: int) -> None:
    """Raises IndexError unless 0 ≤ start ≤ stop ≤ count."""
    if not 0 <= start <= stop <= count:
        raise IndexError(f"samples [{start}, {stop}) of a dataset of {count}")


def samples_of(ids: list[str], labels: np.ndarray, contents: Sequence[Content | UnreadableImage]) -> Samples:
    """One range's samples, of what was read for each id or the reason why nothing was."""
    read = [(None, "") if isinstance(content, UnreadableImage) else content for content in contents]
    failures = {place: str(reason) for place, reason in enumerate(contents) if isinstance(reason, UnreadableImage)}
    return Samples(ids, [image for image, _ in read], labels, [digest for _, digest in read], failures)


def decode(content: bytes) -> np.ndarray:
    """The image in a file's bytes as uint8, (H, W) where it is grey and (H, W, 3) where it has colour.

    It stands upright (EXIF orientation is applied). Transparency is composited over black: fully transparent pixels are
    mostly stored as black, so a loader that drops the alpha channel, as classifiers' loaders do, sees the same.
    16-bit grey is scaled by 255/65535 and rounded. Of several frames it is the first.

    Raises UnreadableImage: no bytes, damaged or cut off, no image of a known format, more pixels than
    `PIL.Image.MAX_IMAGE_PIXELS`, or pixels whose range is unknown (floating point, 32-bit integers beyond 16 bits).
    """
    if not content:
        raise UnreadableImage("the file is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if 0 in image.size:
                raise UnreadableImage(f"it has {image.width}×{image.height} pixels")
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and image.width * image.height > most:
                raise UnreadableImage(f"decompression bomb: {image.width}×{image.height} is more than {most} pixels")
            return _pixels(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("not an image of a known format, or cut off in its header") from error
    except (*COMMON_DAMAGE, *RARE_DAMAGE) as error:
        raise UnreadableImage(f"damaged or truncated: {' '.join(str(error).split())}") from error


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _scaled_to_8_bits(np.asarray(image))
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    is_grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        layers = np.asarray(image.convert("LA" if is_grey else "RGBA")).astype(np.uint16)
        over_black = ((layers[..., :-1] * layers[..., -1:] + 127) // 255).astype(np.uint8)
        return over_black[..., 0] if is_grey else over_black
    return np.array(image.convert("L" if is_grey else "RGB"))


def _scaled_to_8_bits(values: np.ndarray) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImage("32-bit integer pixels outside 0…65535; save it with 8 or 16 bits")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
