"""Whatever bytes an image file has: it is decoded and prepared, or it is unreadable and says why."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.datasets.images import UnreadableImage, decode
from storage.datasets.preprocessing import InputSpec, prepare
from tests.fuzz.conftest import Watch, check_sentence
from tests.fuzz.mutations import changed_bytes

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "QOI")
MODES = {"GIF": ("P",), "QOI": ("RGB",)}


def encode(form: str, mode: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).convert(mode).save(sink, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}))
    return sink.getvalue()


WHOLE = [encode(form, mode) for form in FORMATS for mode in MODES.get(form, ("L", "RGB"))]


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage and goes on
def test_images_of_any_content(trials: settings, watch: Watch, tmp_path: Path) -> None:
    assert all(decode(content).size for content in WHOLE)
    spec = InputSpec(3, 8, 8)

    @trials
    @given(content=st.sampled_from(WHOLE).flatmap(changed_bytes))
    def check(content: bytes) -> None:
        with watch():
            try:
                image = decode(content)
            except UnreadableImage as error:
                check_sentence(error)
                return
            assert image.dtype == np.uint8
            if image.size < 1_000_000:
                pixels, failures = prepare([image], spec)
                assert (pixels.shape, failures) == ((1, 3, 8, 8), {})

    check()
