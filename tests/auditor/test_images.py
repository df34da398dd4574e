"""What `Clear` is given: taken as it is meant, or one sentence."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel, measure
from auditor.images import as_batch
from tests.auditor.networks import FlattenHead, OverlappingPool, PointwiseHead, random_network

MODEL, IMAGES = random_network(PointwiseHead, samples=3)


@pytest.mark.parametrize(
    "given",
    [
        IMAGES.numpy(),
        IMAGES.double().numpy(),
        IMAGES.numpy()[::-1][::-1],
        np.asfortranarray(IMAGES.numpy()),
        IMAGES.numpy().astype(">f4"),
        list(IMAGES),
        tuple(IMAGES.numpy()),
        IMAGES.double(),
    ],
    ids=["array", "float64", "turned", "columns first", "big endian", "list", "tuple of arrays", "float64 tensor"],
)
def test_batches_that_are_no_tensor_of_float32_give_the_same_maps(given: Any) -> None:
    expected = Clear(MODEL)(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = Clear(MODEL)(given)
        measured = measure(Clear(MODEL), given, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(maps.dominant_response, expected.dominant_response)
    assert torch.equal(measured.maps.dominant_class, expected.dominant_class)


def test_an_array_that_may_not_be_written_to_is_taken() -> None:
    array = IMAGES.numpy().copy()
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(as_batch(array, None), IMAGES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (IMAGES[0], r"images have shape \(3, 8, 8\): a batch \(N, ch, H, W\) is needed; of one image, images\[None\] is one"),
        (IMAGES[None], r"images have shape \(1, .*\): volumes and videos are not audited, a batch"),
        (IMAGES[0].numpy(), r"images\[None\]"),
        (IMAGES[0, 0], r"images have shape \(8, 8\): a batch"),
        ([IMAGES], r"images have shape \(1, 3, 3, 8, 8\): volumes"),
        (IMAGES[..., :0], r"images have shape \(3, 3, 8, 0\): there is nothing to explain"),
        ([], "empty list"),
        ([IMAGES[0], IMAGES[1, :, :4]], r"different shapes \(\(3, 4, 8\), \(3, 8, 8\)\): resize"),
        ([IMAGES[0], IMAGES[1].double()], "different types"),
        (
            IMAGES.to(torch.uint8),
            "images are of uint8: floating numbers are needed, scaled and normalised as the model was trained",
        ),
        (IMAGES.numpy().astype(np.uint8), "of uint8"),
        (IMAGES.long(), "of int64"),
        (IMAGES > 0, "of bool"),
        (IMAGES.numpy().astype(complex), "array of complex128"),
        (IMAGES.numpy().astype(object), "array of object"),
        ("images", "images are str"),
        (None, "images are NoneType"),
        (IMAGES.to("meta"), "images are on meta and the model on cpu: move one"),
    ],
)
def test_what_is_no_batch_is_said_in_one_sentence(given: Any, message: str) -> None:
    for explain in (Clear(MODEL), Clear(MODEL).forward, lambda images: measure(Clear(MODEL), images, torch.zeros(3))):
        with pytest.raises(ValueError, match=message):
            explain(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            torch.zeros(2, 4, 8, 8),
            r"does not take float32 images of shape \(2, 4, 8, 8\) \(RuntimeError: .*channels.*\): correct channels",
        ),
        (torch.zeros(2, 3, 2, 2), r"does not take float32 images of shape \(2, 3, 2, 2\)"),
    ],
)
def test_images_that_the_model_does_not_take(given: Tensor, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message) as error:
        Clear(MODEL)(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [PointwiseHead, OverlappingPool, FlattenHead])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("rule", ["linear", "gradient"])
def test_an_image_that_is_not_finite_spoils_no_other(kind: type[nn.Module], value: float, rule: str) -> None:
    model, images = random_network(kind, samples=3)
    images[1, 0, 3, 3] = value
    maps, expected = Clear(model, rule)(images), Clear(model, rule)(images[[0, 2]])
    assert not maps.logits[1].isfinite().all()
    torch.testing.assert_close(maps.dominant_response[[0, 2]], expected.dominant_response)
    assert torch.equal(maps.dominant_class[[0, 2]], expected.dominant_class)


class Sixteen(nn.Module):
    """A number of samples is written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 2, 3), nn.Linear(2 * 36, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images).reshape(16, -1))


def test_a_batch_size_in_the_model_is_named() -> None:
    torch.manual_seed(0)
    model = Sixteen()
    with pytest.raises(UnsupportedModel, match="but a batch of 16: a batch size is written into it"):
        Clear(model)(IMAGES[:1])
    assert len(Clear(model)(torch.randn(16, 3, 8, 8)).logits) == 16


def test_an_exception_that_the_model_has_only_when_it_is_watched_comes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("auditor.backward.trace.find_head", failing)
    with pytest.raises(KeyError, match="ours"):
        Clear(MODEL)(IMAGES)


class Greedy(nn.Module):
    """Takes more memory than any machine has, in its forward pass or where it is given one image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images).mean((2, 3)) + torch.zeros(1 << 50).sum()


def test_memory_that_is_used_up_is_no_fault_of_the_images() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="can't allocate memory"):
        Clear(Greedy())(torch.rand(2, 3, 4, 4))
