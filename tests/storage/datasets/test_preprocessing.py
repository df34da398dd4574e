import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from storage.datasets.folder import FolderSpec
from storage.datasets.formats import open_dataset
from storage.datasets.manifest import ManifestSpec
from storage.datasets.preprocessing import IMAGES_HELD, InputSpec, normalize, prepare, read_prepared


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def triangle_weights(size: int, start: float, length: float, target: int) -> np.ndarray:
    """(target, size): antialiased bilinear scaling of [start, start + length) of `size` samples, by definition."""
    scale = length / target
    reach = max(scale, 1.0)
    centres = start + (np.arange(target) + 0.5) * scale
    distances = np.abs(np.arange(size) + 0.5 - centres[:, np.newaxis]) / reach
    weights: np.ndarray = np.clip(1 - distances, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    target=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    resize=st.sampled_from(["crop", "stretch"]),
    colour=st.booleans(),
)
def test_scaling_equals_its_definition(size: tuple[int, int], target: tuple[int, int], resize: str, colour: bool) -> None:
    image = noise(*size, *([3] if colour else []))
    kept = np.array(size, dtype=float)
    if resize == "crop":  # the part of the image with the target's proportions
        kept = np.array(target) * min(size[0] / target[0], size[1] / target[1])
    starts = (np.array(size) - kept) / 2
    rows, columns = (triangle_weights(size[axis], starts[axis], kept[axis], target[axis]) for axis in (0, 1))
    layers = image.reshape(*size, -1).astype(float)
    expected = np.einsum("ih,hwc,jw->cij", rows, layers, columns)
    spec = InputSpec(3 if colour else 1, *target, resize=resize)  # type: ignore[arg-type]
    pixels, failures = prepare([image], spec)
    assert failures == {}
    assert pixels.shape == (1, 3 if colour else 1, *target)
    assert np.abs(pixels[0] - expected).max() <= 1.01  # two passes, each rounded to 8 bits


@settings(max_examples=40, deadline=None)
@given(shapes=st.lists(st.sampled_from([(4, 5), (4, 5, 3), (8, 10), (5, 4), None]), max_size=6), grey=st.booleans())
def test_a_batch_is_its_images_one_by_one(shapes: list[tuple[int, ...] | None], grey: bool) -> None:
    spec = InputSpec(1 if grey else 3, 4, 5, resize="none")
    images = [None if shape is None else noise(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    pixels, failures = prepare(images, spec)
    assert pixels.shape == (len(images), spec.channels, 4, 5)
    for position, image in enumerate(images):
        if image is None or image.shape[:2] != (4, 5):
            assert not pixels[position].any()
            assert failures.pop(position)
        else:
            assert np.array_equal(pixels[position], prepare([image], spec)[0][0])
    assert failures == {}


def test_images_that_fit_are_not_touched() -> None:
    grey, colour = noise(6, 4, 5), noise(6, 4, 5, 3)
    assert np.array_equal(prepare(list(grey), InputSpec(1, 4, 5))[0][:, 0], grey)
    assert np.array_equal(prepare(list(colour), InputSpec(3, 4, 5))[0], np.moveaxis(colour, 3, 1))
    assert prepare(list(colour), InputSpec(3, 4, 5))[0].flags.c_contiguous


def test_ten_thousand_digits_take_milliseconds() -> None:
    images = list(noise(10_000, 28, 28))

    def seconds() -> float:
        start = time.perf_counter()
        prepare(images, InputSpec(1, 28, 28))
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.1


def test_grey_is_repeated_and_colour_is_weighted() -> None:
    grey = np.array([[7, 250]], dtype=np.uint8)
    assert prepare([grey], InputSpec(3, 1, 2))[0].tolist() == [[[[7, 250]]] * 3]
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], dtype=np.uint8)
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B
    assert prepare([colour], InputSpec(1, 1, 4))[0].tolist() == [[[[76, 150, 29, 90]]]]


def test_a_crop_keeps_the_centre_and_the_proportions() -> None:
    image = np.array([[10, 20, 30, 40, 50]] * 3, dtype=np.uint8)
    assert prepare([image], InputSpec(1, 3, 3))[0].tolist() == [[[[20, 30, 40]] * 3]]
    assert prepare([image], InputSpec(1, 3, 1))[0].tolist() == [[[[30]] * 3]]


def test_an_extreme_shape_needs_no_more_memory_than_its_target() -> None:
    line = np.full((1, 2_000_000), 9, dtype=np.uint8)
    assert prepare([line], InputSpec(1, 224, 224))[0].min() == 9


def test_another_size_is_a_failure_where_nothing_may_be_resized() -> None:
    pixels, failures = prepare([noise(2, 2), noise(2, 3), None], InputSpec(1, 2, 2, resize="none"))
    assert failures == {
        1: "2×3 pixels where the model takes 2×2; set resize to crop or stretch",
        2: "the image was not read",
    }
    assert np.array_equal(pixels[0, 0], noise(2, 2))
    assert not pixels[1:].any()


def test_no_images_are_no_rows() -> None:
    pixels, failures = prepare([], InputSpec(3, 4, 5))
    assert pixels.shape == (0, 3, 4, 5)
    assert pixels.dtype == np.uint8
    assert failures == {}


def test_normalize_by_hand() -> None:
    pixels = np.array([0, 51, 255], dtype=np.uint8).reshape(1, 3, 1, 1)
    plain = normalize(pixels, InputSpec(3, 1, 1))
    assert plain.dtype == np.float32
    assert plain.ravel().tolist() == pytest.approx([0, 0.2, 1])
    scaled = normalize(pixels, InputSpec(3, 1, 1, mean=(0.5, 0.1, 0.0), std=(0.25, 0.5, 2.0)))
    assert scaled.ravel().tolist() == pytest.approx([-2, 0.2, 0.5])
    assert pixels.ravel().tolist() == [0, 51, 255]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputSpec(channels=4, height=2, width=2), "channels\n  Input should be 1 or 3"),
        (lambda: InputSpec(channels=1, height=0, width=2), "height\n  Input should be greater than 0"),
        (
            lambda: InputSpec(1, 2, 2, resize="fit"),  # type: ignore[arg-type]
            "resize\n  Input should be 'crop', 'stretch' or 'none'",
        ),
        (lambda: InputSpec(3, 2, 2, (0.5,), (0.5,)), "1 values of mean and 1 of std for 3 channels"),
        (lambda: InputSpec(1, 2, 2, (0.5,)), "1 values of mean and 0 of std"),
        (lambda: InputSpec(1, 2, 2, (0.5,), (0.0,)), "std above 0"),
        (lambda: InputSpec(1, 2, 2, (float("nan"),), (1.0,)), "finite"),
    ],
)
def test_a_wrong_input_is_named(make: Callable[[], InputSpec], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()


@pytest.mark.parametrize(("start", "stop"), [(0, 40), (3, 35), (16, 32), (39, 40)])
def test_samples_read_a_few_at_a_time_are_those_read_at_once(tmp_path: Path, start: int, stop: int) -> None:
    rows = ["path,label,site"]
    for index in range(40):
        Image.fromarray(noise(9 + index % 3, 11, 3, seed=index)).save(tmp_path / f"{index:02d}.png")
        rows.append(f"{index:02d}.png,{index % 2},{index}")
    for index in (5, 17, 39):
        (tmp_path / f"{index:02d}.png").write_bytes(b"")
    (tmp_path / "all.csv").write_text("\n".join(rows))
    dataset = open_dataset(ManifestSpec("manifest", str(tmp_path / "all.csv")))
    spec = InputSpec(3, 10, 11, resize="none")
    whole = dataset.read(start, stop)
    pixels, unprepared = prepare(whole.images, spec)
    expected = {place: ("prepare", reason) for place, reason in unprepared.items()}
    expected |= {place: ("read", reason) for place, reason in whole.failures.items()}
    samples, found, failures = read_prepared(dataset, spec, start, stop)
    assert failures == expected
    assert {stage for stage, _ in failures.values()} == ({"read"} if start == 39 else {"read", "prepare"})
    np.testing.assert_array_equal(found, pixels)
    assert (samples.ids, samples.hashes, samples.failures) == (whole.ids, whole.hashes, whole.failures)
    assert samples.labels.tolist() == whole.labels.tolist()
    assert samples.meta is not None
    assert samples.meta.equals(whole.meta)
    assert samples.images == [None] * (stop - start)


def test_few_whole_images_are_held_at_a_time(tmp_path: Path) -> None:
    for index in range(64):
        path = tmp_path / f"cat/{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (1000, 1000)).save(path)
    dataset = open_dataset(FolderSpec("folder", str(tmp_path)))
    tracemalloc.start()
    read_prepared(dataset, InputSpec(1, 8, 8), 0, 64)
    assert tracemalloc.get_traced_memory()[1] < 3 * IMAGES_HELD * 1_000_000 < 64_000_000
    tracemalloc.stop()
