"""Batches: in order, ahead on a GPU, and halved where one does not fit into memory, with the same results."""

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

import flows.runtime.shard
from auditor import measure
from auditor.measurement import Measurement
from flows.runtime.batches import BatchSize, compute_batches, feed_device, prefetch
from flows.runtime.rows import response_rows, sample_rows
from flows.runtime.shard import measure_batches
from flows.runtime.worker import AuditWorker, Work
from storage.datasets import Samples
from storage.datasets.preprocessing import InputSpec
from storage.errors import InputError
from tests.flows.conftest import Digits

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …"


def full(*_: object) -> None:
    raise torch.OutOfMemoryError(FULL)


# The size.


@pytest.mark.parametrize(("asked", "sizes"), [(64, [32, 16, 8, 4, 2, 1]), (7, [3, 1]), (1, [])])
def test_a_size_is_halved_down_to_one_image_and_no_further(asked: int, sizes: list[int]) -> None:
    size, found = BatchSize(asked), []
    for _ in sizes:
        size.halve("full")
        found.append(size.samples)
    assert found == sizes
    with pytest.raises(InputError, match=rf"one image alone .*\(full\), after compute\.batch_samples = {asked} did not"):
        size.halve("full")


def test_work_is_tried_again_with_half_as_much_and_what_fitted_is_remembered() -> None:
    size, tried = BatchSize(20), []

    def work(samples: int) -> str:
        tried.append(samples)
        if samples > 5:
            full()
        return "done"

    assert size.fitting(work) == size.fitting(work) == "done"
    assert tried == [20, 10, 5, 5]


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    size = BatchSize(8)

    def work(samples: int) -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        size.fitting(work)
    assert size.samples == 8


# The batches of a shard.


def as_they_come(batches: list[np.ndarray]) -> Iterator[Tensor]:
    for batch in batches:
        yield torch.from_numpy(batch).float()


def lengths_that_fit(limit: int, samples: int, size: BatchSize) -> list[int]:
    """The lengths of the batches that were computed, in order, once each sample is known to have had its turn."""
    positions = np.arange(samples) * 3

    def work(batch: np.ndarray, images: Tensor) -> float:
        assert images.tolist() == batch.tolist()
        if len(batch) > limit:
            full()
        return float(images.sum())

    results = list(compute_batches(size, positions, as_they_come, work))
    assert np.concatenate([batch for batch, _ in results]).tolist() == positions.tolist()
    assert [made for _, made in results] == [batch.sum() for batch, _ in results]
    return [len(batch) for batch, _ in results]


def test_every_sample_has_its_turn_once_and_in_order() -> None:
    assert lengths_that_fit(99, 20, BatchSize(8)) == [8, 8, 4]
    assert lengths_that_fit(99, 8, BatchSize(8)) == [8]
    assert list(compute_batches(BatchSize(8), np.arange(0), as_they_come, full)) == []


def test_batches_are_halved_until_they_fit_and_stay_so() -> None:
    size = BatchSize(8)
    assert lengths_that_fit(3, 20, size) == [2] * 10
    assert size.samples == 2
    assert lengths_that_fit(3, 5, size) == [2, 2, 1]


def test_a_batch_that_fails_after_others_is_split_and_no_other_computed_again() -> None:
    """The memory of a GPU may fill up in between."""
    free, computed = [True] * 2 + [False], []

    def work(batch: np.ndarray, images: Tensor) -> None:
        if free and not free.pop(0):
            full()
        computed.append(batch.tolist())

    list(compute_batches(BatchSize(4), np.arange(12), as_they_come, work))
    assert computed == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10, 11]]


def test_images_that_do_not_fit_before_any_work_are_halved_too() -> None:
    size = BatchSize(8)

    def feed(batches: list[np.ndarray]) -> Iterator[Tensor]:
        for batch in batches:
            if len(batch) > 4:
                full()
            yield torch.zeros(len(batch))

    results = list(compute_batches(size, np.arange(9), feed, lambda batch, images: len(images)))
    assert [made for _, made in results] == [4, 4, 1]


def test_what_did_not_fit_is_gone_before_less_is_tried() -> None:
    """Else the second try would find the memory as full as the first."""
    held: list[weakref.ref[Tensor]] = []

    def feed(batches: list[np.ndarray]) -> Iterator[Tensor]:
        for batch in batches:
            gc.collect()
            assert all(reference() is None for reference in held)
            images = torch.zeros(len(batch))
            held.append(weakref.ref(images))
            yield images
            del images

    def work(batch: np.ndarray, images: Tensor) -> None:
        if len(batch) > 2:
            full()

    list(compute_batches(BatchSize(8), np.arange(2), feed, work))
    with pytest.raises(InputError):
        list(compute_batches(BatchSize(8), np.arange(8), feed, full))
    assert len(held) > 4


def test_an_image_that_does_not_fit_alone_names_the_key_and_the_way_out() -> None:
    with pytest.raises(InputError) as caught:
        list(compute_batches(BatchSize(8), np.arange(8), as_they_come, full))
    assert str(caught.value) == (
        "one image alone does not fit into the memory of the device (CUDA out of memory), after compute.batch_samples = 8 did "
        "not: use a device with more memory, method.precision = 'bfloat16', or fewer workers on it"
    )


# A worker's shard.


@pytest.fixture
def worker(digits_work: Work) -> AuditWorker:
    return AuditWorker(replace(digits_work, batch_samples=16))


def rows_of(worker: AuditWorker, chosen: np.ndarray) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """Both tables of some digits, and where their dominant classes are."""
    samples = worker.dataset.read(0, 40)
    pixels = np.stack([image for image in samples.images if image is not None])[:, None]
    found = list(measure_batches(worker, samples, pixels, chosen, {}))
    assert np.concatenate([batch for batch, _ in found]).tolist() == chosen.tolist()
    tables = [
        (sample_rows(samples, 0, batch, measured, pa.schema([])), response_rows(0, batch, measured)) for batch, measured in found
    ]
    maps = np.concatenate([measured.maps.dominant_class.numpy() for _, measured in found])
    return pa.concat_tables([one for one, _ in tables]), pa.concat_tables([two for _, two in tables]), maps


def test_a_shard_whose_batches_do_not_fit_has_the_same_rows(worker: AuditWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = np.array([position for position in range(40) if position not in (3, 17)])
    expected = rows_of(worker, chosen)
    measured_at_once = []

    def measure_few(clear: object, images: Tensor, *more: object) -> Measurement:
        if len(images) > 5:
            full()
        measured_at_once.append(len(images))
        return measure(clear, images, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(flows.runtime.shard, "measure", measure_few)
    actual = rows_of(worker, chosen)
    assert measured_at_once == [4] * 9 + [2]
    assert worker.batch_size.samples == 4
    for wanted, found in zip(expected[:2], actual[:2], strict=True):
        for name in wanted.column_names:
            first, second = wanted.column(name), found.column(name)
            if pa.types.is_floating(first.type):
                assert first.is_null().equals(second.is_null()), name
                np.testing.assert_allclose(second.drop_null(), first.drop_null(), rtol=2e-3, atol=1e-5, err_msg=name)
            else:
                assert first.equals(second), name
    # Sums of another order: a class may change where two classes are equally strong.
    assert (expected[2] != actual[2]).mean() < 1e-4


def test_first_images_are_those_that_can_be_read(worker: AuditWorker, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    read = worker.dataset.read

    def broken(start: int, stop: int) -> Samples:
        """Nothing of the first batch can be read, and of the second not all."""
        samples = read(start, stop)
        failed = [position for position in range(stop - start) if start + position < 18 or start + position == 20]
        images = [None if position in failed else image for position, image in enumerate(samples.images)]
        failures = dict.fromkeys(failed, "broken")
        return Samples(samples.ids, images, samples.labels, samples.hashes, failures)

    monkeypatch.setattr(worker.dataset, "read", broken)
    expected = digits.pixels[[18, 19, *range(21, 32)], None]
    np.testing.assert_array_equal(worker.first_pixels, expected)
    worker.batch_size.samples = 4
    np.testing.assert_array_equal(worker.on_first_images(lambda images: images.numpy()), expected[:4] / np.float32(255))


def test_no_first_images_where_none_can_be_read(worker: AuditWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    read = worker.dataset.read

    def broken(start: int, stop: int) -> Samples:
        samples = read(start, stop)
        return Samples(
            samples.ids, [None] * (stop - start), samples.labels, samples.hashes, dict.fromkeys(range(stop - start), "x")
        )

    monkeypatch.setattr(worker.dataset, "read", broken)
    assert len(worker.first_pixels) == 0


# Ahead.


def test_the_next_is_made_while_the_last_is_used() -> None:
    began = {number: threading.Event() for number in range(4)}

    def make(number: int) -> int:
        began[number].set()
        return number * number

    made = []
    for number, square in enumerate(prefetch(make, range(4))):
        if number + 1 in began:
            assert began[number + 1].wait(10)
        assert number + 2 not in began or not began[number + 2].is_set()
        made.append(square)
    assert made == [0, 1, 4, 9]
    assert list(prefetch(make, [])) == []


def test_an_error_of_what_is_made_ahead_comes_at_its_turn() -> None:
    def make(number: int) -> int:
        if number == 2:
            full()
        return number

    made = []
    with pytest.raises(torch.OutOfMemoryError):
        made.extend(prefetch(make, range(4)))
    assert made == [0, 1]


def test_images_of_a_cpu_are_those_that_the_model_takes() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (9, 3, 4, 5), dtype=np.uint8)
    spec = InputSpec(3, 4, 5, mean=(0.5, 0.25, 0.75), std=(0.25, 0.5, 1.0))
    batches = [np.array([0, 4]), np.array([8])]
    shifted = (pixels / 255 - np.array(spec.mean)[:, None, None]) / np.array(spec.std)[:, None, None]
    for batch, images in zip(batches, feed_device(pixels, spec, torch.device("cpu"), batches), strict=True):
        np.testing.assert_allclose(images.numpy(), shifted[batch], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_images_of_a_gpu_are_those_of_the_cpu() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (640, 3, 64, 64), dtype=np.uint8)
    spec = InputSpec(3, 64, 64, mean=(0.5, 0.25, 0.75), std=(0.25, 0.5, 1.0))
    batches = np.split(np.arange(640)[::-1], range(48, 640, 48))
    expected = feed_device(pixels, spec, torch.device("cpu"), batches)
    for images, wanted in zip(feed_device(pixels, spec, torch.device("cuda:0"), batches), expected, strict=True):
        busy = images.double().cos().sum()  # work in flight while the next batch is copied
        assert torch.equal(images.cpu(), wanted)
        assert torch.isfinite(busy)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_that_is_full_is_tried_with_less() -> None:
    free, _ = torch.cuda.mem_get_info()
    size = BatchSize(8)

    def work(samples: int) -> int:
        return torch.empty(samples * int(free) // 6, dtype=torch.uint8, device="cuda:0").numel()

    assert size.fitting(work) > 0
    assert size.samples == 4
