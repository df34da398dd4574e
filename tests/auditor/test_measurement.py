"""`measure`: the statistics of a batch from its streamed responses, and which classes are described."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor import Clear, measure
from auditor.operations.rule_table import RULES
from auditor.statistics.dominance import ClassCosine, Dominance, dominance_margin
from auditor.statistics.map_statistics import SCORES, describe

CLASSES = 8


@pytest.fixture
def model() -> nn.Module:
    """Class responses of both signs for every class."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 7, 3, -1, 5, 2])


def all_responses(clear: Clear, images: Tensor) -> Tensor:
    """(N, K, H, W)"""
    return torch.cat([responses for _, responses in clear.responses(images)], 1)


@pytest.mark.parametrize("chunk", [1, 1200, 10**9])
def test_statistics_of_a_batch(
    model: nn.Module, images: Tensor, labels: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = all_responses(Clear(model), images)
    monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", chunk)
    measured, maps = measure(Clear(model), images, labels), Clear(model)(images)
    assert torch.equal(measured.maps.dominant_class, maps.dominant_class)
    assert torch.equal(measured.maps.dominant_response, maps.dominant_response)
    torch.testing.assert_close(measured.probability, model(images).detach().softmax(1))

    values, winner = responses.double().numpy(), maps.dominant_class.numpy()
    dominant = np.maximum(values.max(1), 0)
    np.testing.assert_allclose(measured.positive_area_frac, (dominant > 0).mean((1, 2)), rtol=1e-6)
    for label in range(CLASSES):
        np.testing.assert_allclose(measured.class_area_frac[:, label], (winner == label).mean((1, 2)), atol=1e-6)
        energy = (dominant * (winner == label)).sum((1, 2)) / dominant.sum((1, 2))
        np.testing.assert_allclose(measured.class_energy_frac[:, label], energy, atol=1e-6)

    one_shot, cosine = Dominance(), ClassCosine()
    one_shot.update(torch.arange(CLASSES), responses)
    cosine.update(torch.arange(CLASSES), responses)
    torch.testing.assert_close(measured.dominance_margin, dominance_margin(one_shot.result()))
    torch.testing.assert_close(measured.class_cosine, cosine.result(), rtol=0, atol=1e-6)

    assert measured.kept.tolist() == [list(range(CLASSES))] * 6
    for name in SCORES:
        expected = getattr(describe(responses), name)
        torch.testing.assert_close(getattr(measured.responses, name), expected, equal_nan=True)
        expected = getattr(describe(maps.dominant_response[:, None]), name)
        torch.testing.assert_close(getattr(measured.dominant, name), expected, equal_nan=True)


@pytest.mark.parametrize("classes", [None, [0, 2, 3, 4, 6, 7]])
def test_by_an_operator_all_is_said_as_without_one(
    model: nn.Module, images: Tensor, labels: Tensor, classes: list[int] | None
) -> None:
    images[4] = 0
    plain, folded = (Clear(model, "linear", classes=classes) for _ in range(2))
    folded.fold(images, memory=10**9)
    expected, measured = measure(plain, images, labels, keep=3), measure(folded, images, labels, keep=3)
    assert torch.equal(measured.kept, expected.kept)
    assert torch.equal(measured.maps.dominant_class, expected.maps.dominant_class)
    for name in ("class_area_frac", "class_energy_frac", "dominance_margin", "class_cosine", "left_out_frac"):
        torch.testing.assert_close(getattr(measured, name), getattr(expected, name), rtol=0, atol=1e-5, equal_nan=True)
    for name in SCORES:
        for described in ("dominant", "responses"):
            found, wanted = (getattr(getattr(every, described), name) for every in (measured, expected))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_kept_classes_are_those_with_most_energy_and_the_prediction_and_label(
    model: nn.Module, images: Tensor, labels: Tensor, keep: int
) -> None:
    every, some = measure(Clear(model), images, labels), measure(Clear(model), images, labels, keep)
    prediction = model(images).argmax(1)
    for sample in range(len(images)):
        energy = every.responses.energy[sample].tolist()
        wanted = [int(prediction[sample])] + [int(label) for label in labels[sample : sample + 1] if label >= 0]
        ranked = sorted(range(CLASSES), key=lambda label: (label not in wanted, -energy[label]))
        assert some.kept[sample].tolist() == sorted(ranked[:keep])
        for name in SCORES:
            expected = getattr(every.responses, name)[sample, some.kept[sample]]
            torch.testing.assert_close(getattr(some.responses, name)[sample], expected, equal_nan=True)
    assert (prediction != labels).any(), "the label must sometimes need keeping on its own"


def test_keeping_fewer_classes_changes_nothing_else(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    every, some = measure(Clear(model), images, labels), measure(Clear(model), images, labels, keep=2)
    for name in ("probability", "class_area_frac", "class_energy_frac", "dominance_margin", "class_cosine"):
        assert torch.equal(getattr(some, name), getattr(every, name)), name


def test_prediction_and_label_need_room(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One place cannot hold both: a promise that cannot be kept is an error, or both are kept."""
    try:
        kept = measure(Clear(model), images, labels, keep=1).kept
    except ValueError:
        return
    prediction = model(images).argmax(1)
    assert (kept == prediction[:, None]).any(1).all()
    assert ((kept == labels[:, None]).any(1) | (labels < 0)).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"classes": [1, 3, 6]}, lambda energy: [1, 3, 6]),
        ({"top_k": 3}, lambda energy: sorted(np.argsort(-energy)[:3])),
    ],
)
def test_only_competing_classes_are_described(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    options: dict[str, object],
    expected: Callable[[np.ndarray], list[int]],
) -> None:
    # What competes under top_k is decided by z_L: (N, C), here straight from the layers.
    strength = model[2](model[1](model[0](images))).detach().clamp(min=0).sum((2, 3)).numpy()
    measured = measure(Clear(model, **options), images, labels)
    assert measured.kept.tolist() == [list(expected(row)) for row in strength]
    every = measure(Clear(model), images, labels)
    torch.testing.assert_close(measured.responses.energy, every.responses.energy.gather(1, measured.kept))
    others = torch.ones_like(measured.class_area_frac, dtype=torch.bool).scatter(1, measured.kept, False)
    assert measured.class_area_frac[others].count_nonzero() == 0
    assert measured.class_area_frac.shape == (6, CLASSES)


def test_sample_that_no_class_speaks_for(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(-1)
    measured = measure(Clear(model), images, labels, keep=3)
    assert measured.maps.dominant_class.unique().tolist() == [-1]
    assert measured.positive_area_frac.tolist() == [0] * 6
    assert measured.class_area_frac.count_nonzero() == 0
    for undefined in (measured.class_energy_frac, measured.dominance_margin, measured.class_cosine):
        assert undefined.isnan().all()
    for description in (measured.dominant, measured.responses):
        assert description.energy.count_nonzero() == description.peak.count_nonzero() == 0
        assert description.sparseness.isnan().all()
        assert description.centroid_y.isnan().all()


@pytest.mark.parametrize(
    ("top_k", "classes", "expected"),
    [
        (None, None, 0),
        (3, None, 0),
        (2, None, 2 / 8),
        (1, None, 4 / 8),
        (1, [0, 2, 3], 2 / 6),
        (2, [1, 2], 0),
        (1, [1, 3], 2 / 4),
    ],
)
def test_share_of_positive_response_that_is_left_out_by_hand(
    top_k: int | None, classes: list[int] | None, expected: float
) -> None:
    """The model's scores are its image. Positive sums of the first sample: 4, 2, 0 and 2 of 8; of the second, none."""
    pointwise = nn.Conv2d(4, 4, 1, bias=False)
    with torch.no_grad():
        pointwise.weight.copy_(torch.eye(4)[:, :, None, None])
    images = torch.tensor([[[[1.0, 3]], [[-1, 2]], [[0, -5]], [[2, 0]]], [[[-1, -3]], [[-1, 0]], [[0, -5]], [[-2, -1]]]])
    clear = Clear(nn.Sequential(pointwise, nn.AdaptiveAvgPool2d(1), nn.Flatten()), classes=classes, top_k=top_k)
    found = measure(clear, images, torch.tensor([-1, -1])).left_out_frac
    assert found[0].item() == pytest.approx(expected, abs=1e-6)
    assert found[1].isnan()


def tensors_of(part: Any) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part]
    return [tensor for field in fields(part) for tensor in tensors_of(getattr(part, field.name))]


SPOILED = torch.tensor([False, True, False, True, True, False])


@pytest.fixture
def spoiled(images: Tensor) -> Tensor:
    """The images, of which some have scores that are not finite: NaN at one place, infinity, and too large in the end."""
    images[1, 0, 4, 4] = torch.nan
    images[3, 1, 2, 2] = -torch.inf
    images[4] *= 3e38
    return images


@pytest.mark.parametrize(
    ("rule", "precision", "top_k", "keep"),
    [(rule, "float32", None, 20) for rule in RULES] + [("gradient", "bfloat16", None, 3), ("linear", "float32", 4, 3)],
)
def test_samples_that_are_not_finite_are_known_and_spoil_no_other(
    model: nn.Module, spoiled: Tensor, labels: Tensor, rule: str, precision: str, top_k: int | None, keep: int
) -> None:
    clear = Clear(model, rule, precision=precision, top_k=top_k)
    measured, others = measure(clear, spoiled, labels, keep), measure(clear, spoiled[~SPOILED], labels[~SPOILED], keep)
    assert measured.has_finite_scores.tolist() == (~SPOILED).tolist()
    assert others.has_finite_scores.all()
    assert others.has_finite_maps.all()
    for actual, expected in zip(tensors_of(measured.of(~SPOILED)), tensors_of(others), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("verified_on", [slice(None), slice(3)])
def test_samples_that_are_not_finite_hinder_no_operator(
    model: nn.Module, images: Tensor, labels: Tensor, verified_on: slice
) -> None:
    """The first convolution of one image comes to more than float32 holds."""
    model[0].weight.data *= 1e5  # type: ignore[index, union-attr, operator]
    images[4] *= 1e35
    is_sound = torch.arange(6) != 4
    folded = Clear(model, "linear")
    assert folded.fold(images[verified_on], memory=10**9) < 1e-5
    measured, others = measure(folded, images, labels, 3), measure(Clear(model, "linear"), images[is_sound], labels[is_sound], 3)
    assert measured.has_finite_scores.tolist() == is_sound.tolist()
    assert torch.equal(measured.of(is_sound).maps.dominant_class, others.maps.dominant_class)
    torch.testing.assert_close(measured.class_cosine[is_sound], others.class_cosine)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("keep", [20, 2])
def test_maps_that_are_not_finite_are_known_where_scores_are(sign: int, keep: int) -> None:
    """The way back goes by 1e20 · 1e25, which float32 does not hold; for a negative image nothing goes back at all."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    model[0].weight.data.fill_(sign * 1e25)
    model[2].weight.data = torch.tensor([1e20, 1.0, 2.0])[:, None, None, None]
    images = torch.tensor([1e-25, -1e-25]).view(2, 1, 1, 1).expand(2, 1, 4, 4) * sign
    measured = measure(Clear(model, "gradient"), images, torch.tensor([0, 0]), keep)
    assert measured.has_finite_scores.all()
    assert measured.has_finite_maps.tolist() == [False, True]
