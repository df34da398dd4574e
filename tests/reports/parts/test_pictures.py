"""Pictures inside a page: as they are, or small enough."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports.parts.pictures import SIDES, embed, heat


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Four pictures of noise, which nothing compresses, 240 × 120."""
    generator = np.random.default_rng(0)
    made = [tmp_path / f"{number}.png" for number in range(4)]
    for path in made:
        Image.fromarray(generator.integers(0, 256, (120, 240, 3), dtype=np.uint8)).save(path)
    return made


def read_uri(uri: str) -> tuple[str, Image.Image]:
    kind, _, data = uri.partition(",")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_where_there_is_room_files_are_taken_as_they_are(paths: list[Path]) -> None:
    uris, reduced = embed(paths, room=10**6)
    assert reduced is None
    assert uris == {path: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() for path in paths}


@pytest.mark.parametrize("room", [150_000, 60_000, 20_000])
def test_all_are_reduced_to_the_first_side_at_which_they_fit(paths: list[Path], room: int) -> None:
    uris, side = embed(paths, room)
    assert side in SIDES
    assert sum(map(len, uris.values())) <= room
    for kind, picture in map(read_uri, uris.values()):
        assert kind == "data:image/jpeg;base64"
        assert picture.size == (side, side // 2)
    if side != SIDES[0]:
        larger, _ = embed(paths, sum(map(len, uris.values())) + 1)
        assert larger == uris, "the next side does not fit"


def test_at_the_smallest_side_they_take_what_they_need(paths: list[Path]) -> None:
    uris, side = embed(paths, room=1)
    assert side == SIDES[-1]
    assert len(uris) == 4


def test_a_missing_file_is_left_out(paths: list[Path], tmp_path: Path) -> None:
    uris, _ = embed([*paths, tmp_path / "gone.png"])
    assert list(uris) == paths
    assert embed([]) == ({}, None)


def test_hues_of_neighbouring_pixels_stay_apart(tmp_path: Path) -> None:
    """Red and blue stripes of one pixel, which chroma subsampling would make violet."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    path = tmp_path / "stripes.png"
    Image.fromarray(stripes).save(path)
    uris, side = embed([path], room=1)
    assert side == 64
    seen = np.asarray(read_uri(uris[path])[1].convert("RGB")).astype(int)
    assert np.abs(seen - stripes).mean() < 12


def test_heat_by_hand() -> None:
    shares = np.array([[0, 1 / 3, 2 / 3, 1]]) * 0.02

    def pixels(is_own: bool) -> list[list[list[int]]]:
        found: list[list[list[int]]] = np.asarray(Image.open(io.BytesIO(heat(shares, 0.02, is_own)))).tolist()
        return found

    assert pixels(True) == [[[0, 0, 0], [255, 0, 0], [255, 255, 0], [255, 255, 255]]]
    assert pixels(False) == [[[0, 0, 0], [85, 55, 85], [170, 110, 170], [255, 166, 255]]]
    assert np.asarray(Image.open(io.BytesIO(heat(shares * 0, 0, True)))).max() == 0
