"""Maps on disk: shards that are written apart and joined by moving their files."""

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from storage.maps import MapShape, create_maps, open_maps, shard_files, shard_samples, write_shard

NAMES = ["dominant_class", "dominant_response", "response_peak"]


def random_maps(count: int, height: int = 5, width: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """dominant_class int16 with −1 among them, and dominant_response whose greatest value is a power of two a sample."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(-1, 1000, (count, height, width)).astype(np.int16)
    responses = generator.integers(0, 512, (count, height, width)).astype(np.float32)
    responses[:, 0, 0] = 512
    return classes, responses * np.float32(2.0) ** generator.integers(-20, 20, (count, 1, 1)).astype(np.float32)


def metadata(path: Path, name: str) -> dict[str, Any]:
    """The array's own JSON, as any reader of Zarr meets it."""
    content: dict[str, Any] = json.loads((path / name / "zarr.json").read_text())
    return content


@pytest.mark.parametrize(("count", "shard"), [(40, 16), (64, 32), (33, 32), (7, 16), (1, 16), (96, 32)])
def test_shards_that_are_moved_into_place_are_the_whole_array(tmp_path: Path, count: int, shard: int) -> None:
    shape = MapShape(count, 5, 7, shard)
    classes, responses = random_maps(count)
    create_maps(tmp_path / "whole", shape, {"rule": "linear"})
    for index, start in enumerate(range(0, count, shard)):
        part = tmp_path / f"shard-{index}"
        write_shard(part, shape, classes[start : start + shard], responses[start : start + shard])
        for local, published in zip(shard_files(0), shard_files(index), strict=True):
            (tmp_path / "whole" / published).parent.mkdir(parents=True, exist_ok=True)
            (part / local).rename(tmp_path / "whole" / published)
    maps = open_maps(tmp_path / "whole")
    assert maps.attrs.asdict() == {"rule": "linear"}
    np.testing.assert_array_equal(maps["dominant_class"][:], classes)
    peak = responses.max((1, 2))
    np.testing.assert_array_equal(maps["response_peak"][:], peak)
    # A power of two over at most ten bits: float16 holds the quotient exactly.
    restored = maps["dominant_response"][:].astype(np.float32) * maps["response_peak"][:][:, None, None]
    np.testing.assert_array_equal(restored, responses)


def test_arrays_are_as_the_design_says(tmp_path: Path) -> None:
    create_maps(tmp_path / "maps", MapShape(100, 28, 30, 64), {})
    kinds = {"dominant_class": ("int16", -1), "dominant_response": ("float16", 0), "response_peak": ("float32", 0)}
    for name, (dtype, fill) in kinds.items():
        described = metadata(tmp_path / "maps", name)
        assert described["data_type"] == dtype
        assert described["fill_value"] == fill
        assert described["shape"] == ([100] if name == "response_peak" else [100, 28, 30])
        chunk = described["chunk_grid"]["configuration"]["chunk_shape"]
        assert chunk == ([64] if name == "response_peak" else [64, 28, 30])
    for name, cname, level in (("dominant_class", "lz4", None), ("dominant_response", "zstd", 1)):
        (sharding,) = metadata(tmp_path / "maps", name)["codecs"]
        assert sharding["name"] == "sharding_indexed"
        assert sharding["configuration"]["chunk_shape"] == [16, 28, 30]
        blosc = sharding["configuration"]["codecs"][-1]
        assert blosc["name"] == "blosc"
        assert blosc["configuration"]["cname"] == cname
        assert level is None or blosc["configuration"]["clevel"] == level
    assert sorted(name for name, _ in open_maps(tmp_path / "maps").arrays()) == NAMES


def test_what_no_shard_has_written_is_no_class_and_no_response(tmp_path: Path) -> None:
    create_maps(tmp_path / "maps", MapShape(20, 2, 3, 16), {})
    maps = open_maps(tmp_path / "maps")
    assert np.array_equal(maps["dominant_class"][:], np.full((20, 2, 3), -1))
    assert not maps["dominant_response"][:].any()
    assert not maps["response_peak"][:].any()


@pytest.mark.parametrize("count", [16, 3])
def test_a_shard_without_any_response_leaves_its_files_too(tmp_path: Path, count: int) -> None:
    """All of its samples may have failed: its files are what commits and moves."""
    empty = np.zeros((count, 4, 4), np.float32)
    write_shard(tmp_path / "maps", MapShape(100, 4, 4, 16), np.full((count, 4, 4), -1, np.int16), empty)
    assert [file for file in shard_files(0) if not (tmp_path / "maps" / file).is_file()] == []
    maps = open_maps(tmp_path / "maps")
    assert np.array_equal(maps["dominant_class"][:], np.full((count, 4, 4), -1))
    assert np.array_equal(maps["dominant_response"][:], empty)
    assert np.array_equal(maps["response_peak"][:], np.zeros(count))


def test_a_shard_is_one_file_an_array(tmp_path: Path) -> None:
    shape = MapShape(1000, 5, 7, 48)
    write_shard(tmp_path / "maps", shape, *random_maps(48))
    files = [path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("c/**/*") if path.is_file()]
    assert sorted(files) == sorted(shard_files(0))
    assert shard_files(12) == ["dominant_class/c/12/0/0", "dominant_response/c/12/0/0", "response_peak/c/12"]


def test_responses_are_rounded_by_half_a_unit_of_float16(tmp_path: Path) -> None:
    """v = D / peak ≤ 1 has 11 significant bits: off by 2⁻¹¹·v at most, or by 2⁻²⁵ below the normal numbers of float16."""
    generator = np.random.default_rng(3)
    responses = (10.0 ** generator.uniform(-9, 0, (16, 30, 30)) * 10.0 ** generator.uniform(-6, 6, (16, 1, 1))).astype(np.float32)
    write_shard(tmp_path / "maps", MapShape(16, 30, 30, 16), np.zeros(responses.shape, np.int16), responses)
    maps = open_maps(tmp_path / "maps")
    stored, peak = maps["dominant_response"][:].astype(np.float64), maps["response_peak"][:].astype(np.float64)[:, None, None]
    np.testing.assert_array_equal(peak[:, 0, 0], responses.max((1, 2)))
    assert np.array_equal(stored.max((1, 2)), np.ones(16))
    share = responses.astype(np.float64) / peak
    division = 2.0**-24 * share  # the quotient is rounded to float32 first
    assert (np.abs(stored - share) <= np.maximum(2.0**-11 * share, 2.0**-25) + division).all()
    assert (stored != share).mean() > 0.9, "values that need rounding"
    assert np.abs(stored * peak - responses).max() <= (peak.max() * (2.0**-12 + 2.0**-24))


def test_a_sample_without_response_beside_others_is_zero_and_not_nan(tmp_path: Path) -> None:
    classes, responses = random_maps(3)
    classes[1], responses[1] = -1, 0
    write_shard(tmp_path / "maps", MapShape(3, 5, 7, 16), classes, responses)
    maps = open_maps(tmp_path / "maps")
    assert not maps["dominant_response"][1].any()
    assert maps["response_peak"][:].tolist() == [float(responses[0].max()), 0.0, float(responses[2].max())]


def test_maps_are_opened_to_read_only(tmp_path: Path) -> None:
    write_shard(tmp_path / "maps", MapShape(3, 5, 7, 16), *random_maps(3))
    maps = open_maps(tmp_path / "maps")
    with pytest.raises(ValueError, match="read"):
        maps["dominant_class"][0] = 5


def test_arrays_that_exist_are_never_overwritten(tmp_path: Path) -> None:
    classes, responses = random_maps(3)
    write_shard(tmp_path / "maps", MapShape(3, 5, 7, 16), classes, responses)
    with pytest.raises(Exception, match="exist"):
        create_maps(tmp_path / "maps", MapShape(3, 5, 7, 16), {})
    np.testing.assert_array_equal(open_maps(tmp_path / "maps")["dominant_class"][:], classes)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_a_shard_is_the_greatest_multiple_of_a_chunk_within_512_samples_and_32_megabytes(height: int, width: int) -> None:
    fitting = [samples for samples in range(16, 513, 16) if samples * height * width * (2 + 2) <= 32_000_000]
    assert shard_samples(height, width) == max(fitting, default=16)


@pytest.mark.parametrize(("side", "expected"), [(28, 512), (32, 512), (224, 144), (512, 16), (4000, 16)])
def test_shards_of_known_sizes(side: int, expected: int) -> None:
    assert shard_samples(side, side) == expected


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_pickled_maps_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zarr's older format lets an array say that its chunks are pickles."""
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    marker, array = tmp_path / "executed", tmp_path / "maps.zarr" / "dominant_class"
    array.mkdir(parents=True)
    (array.parent / ".zgroup").write_text('{"zarr_format": 2}')
    pickled = {"compressor": {"id": "pickle", "protocol": 5}, "filters": [{"id": "vlen-bytes"}], "dtype": "|O"}
    shape = {"zarr_format": 2, "shape": [2], "chunks": [2], "order": "C", "fill_value": None}
    (array / ".zarray").write_text(json.dumps(shape | pickled))
    (array / "0").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(zarr.errors.GroupNotFoundError):
        open_maps(array.parent)
    assert not marker.exists()
    with contextlib.suppress(Exception):  # what it makes of the bomb is not what it expected
        zarr.open_group(array.parent, mode="r")["dominant_class"][:]
    assert marker.exists(), "the bomb is one"
