"""Rule `cam` on whole models: R(x|c) is max(z_c, 0), enlarged, however the forward pass was made."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel, measure, measure_conservation
from auditor.clear import competing_count
from auditor.enlarging.enlarged import Enlarged
from auditor.folding.plan import CannotFold
from auditor.statistics.dominance import ClassCosine, Dominance, dominance_margin
from auditor.statistics.map_statistics import SCORES, describe

CLASSES = 30


class Pooled(nn.Module):
    """Global average, then a linear layer: z_L has to be found."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Conv2d(2, 6, 3, 2), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, 2)
        self.head = nn.Linear(8, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.norm(self.first(images)))))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))

    @torch.no_grad()
    def class_responses(self, images: Tensor) -> Tensor:
        return F.conv2d(self.features(images), self.head.weight[:, :, None, None], self.head.bias)


@pytest.fixture
def model() -> Pooled:
    return Pooled().eval()


@pytest.fixture
def images() -> Tensor:
    """Whose z_L has 4 × 6 positions."""
    return torch.randn(5, 2, 20, 27, generator=torch.Generator().manual_seed(1))


def literal(model: Pooled, images: Tensor) -> Tensor:
    """(N, C, H, W)"""
    return F.interpolate(model.class_responses(images).clamp(min=0), size=images.shape[2:], mode="bilinear", align_corners=False)


def test_responses_are_the_positive_class_responses_enlarged(model: Pooled, images: Tensor) -> None:
    found = torch.cat([part for _, part in Clear(model, "cam").responses(images)], 1)
    torch.testing.assert_close(found, literal(model, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"classes": [1, 4, 7, 20]}, {"top_k": 3}, {"classes": [1, 4, 7, 20], "top_k": 2}], ids=str
)
def test_maps_are_those_of_the_responses(model: Pooled, images: Tensor, options: dict[str, Any]) -> None:
    clear, dominance = Clear(model, "cam", **options), Dominance()
    for classes, responses in clear.responses(images):
        dominance.update(classes, responses)
    found, expected = clear(images), dominance.result()
    assert torch.equal(found.dominant_class, expected.dominant_class)
    assert torch.equal(found.dominant_response, expected.dominant_response)
    torch.testing.assert_close(found.logits, model(images).detach())


@pytest.mark.parametrize("keep", [2, 5, 40])
def test_everything_is_measured_as_of_whole_maps(model: Pooled, images: Tensor, keep: int) -> None:
    measured, maps, cosine, dominance = (
        measure(Clear(model, "cam"), images, torch.arange(5), keep),
        literal(model, images),
        ClassCosine(),
        Dominance(),
    )
    cosine.update(torch.arange(CLASSES), maps)
    dominance.update(torch.arange(CLASSES), maps)
    torch.testing.assert_close(measured.class_cosine, cosine.result(), rtol=0, atol=1e-5)
    torch.testing.assert_close(measured.dominance_margin, dominance_margin(dominance.result()), rtol=0, atol=1e-5)
    assert (measured.maps.dominant_class == dominance.result().dominant_class).float().mean() > 0.999
    assert measured.left_out_frac.tolist() == [0] * 5
    assert measured.kept.shape == (5, min(keep, CLASSES))
    energy = maps.sum((2, 3))
    for sample, kept in enumerate(measured.kept.tolist()):
        wanted = [int(model(images)[sample].argmax()), sample]
        ranked = sorted(range(CLASSES), key=lambda label: (label not in wanted, -float(energy[sample, label])))
        assert kept == sorted(ranked[:keep])
    described = describe(maps.gather(1, measured.kept[:, :, None, None].expand(-1, -1, *maps.shape[2:])))
    for name in SCORES:
        torch.testing.assert_close(
            getattr(measured.responses, name), getattr(described, name), rtol=1e-4, atol=1e-4, equal_nan=True
        )


def test_the_first_batch_is_answered_like_all_others(model: Pooled, images: Tensor) -> None:
    """To the last bit: a run that is resumed in another process begins with another batch."""
    clear = Clear(model, "cam")
    first, second = clear.forward(images), clear.forward(images)
    assert isinstance(first, Enlarged)
    assert torch.equal(first.class_responses, second.class_responses)
    assert torch.equal(Clear(model, "cam").forward(images[2:]).class_responses, first.class_responses[2:])


def test_images_of_another_shape_are_seen_by_themselves(model: Pooled, images: Tensor) -> None:
    clear = Clear(model, "cam")
    for size in ((20, 27), (33, 30), (20, 27)):
        other = F.interpolate(images, size)
        found = torch.cat([part for _, part in clear.responses(other)], 1)
        torch.testing.assert_close(found, literal(model, other), rtol=0, atol=1e-5)


class Branching(Pooled):
    """Goes another way through images that are bright."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        if images.mean() > 1:
            features = features.sigmoid()
        return self.head(features.mean((2, 3)))


def test_another_way_through_the_model_is_seen_by_itself(images: Tensor) -> None:
    model = Branching().eval()
    clear = Clear(model, "cam")
    assert isinstance(clear.forward(images), Enlarged)
    bright = images + 5
    expected = F.conv2d(model.features(bright).sigmoid(), model.head.weight[:, :, None, None], model.head.bias).detach()
    torch.testing.assert_close(clear.forward(bright).class_responses, expected, rtol=0, atol=1e-5)
    found = torch.cat([part for _, part in clear.responses(bright)], 1)
    torch.testing.assert_close(found, F.interpolate(expected.clamp(min=0), (20, 27), mode="bilinear"), rtol=0, atol=1e-5)


def test_a_sample_that_is_not_finite_spoils_no_other(model: Pooled, images: Tensor) -> None:
    expected = measure(Clear(model, "cam"), images[1:], torch.arange(4), keep=3)
    images[0, 1, 5, 5] = torch.nan
    clear = Clear(model, "cam")
    for _ in range(2):
        measured = measure(clear, images, torch.arange(5) - 1, keep=3)
        assert measured.has_finite_scores.tolist() == [False, True, True, True, True]
        torch.testing.assert_close(measured.maps.dominant_response[1:], expected.maps.dominant_response, rtol=0, atol=1e-5)
        torch.testing.assert_close(measured.class_cosine[1:], expected.class_cosine, rtol=0, atol=1e-5)
        clear(images[1:])


class Tokens(nn.Module):
    """Patches as tokens, whose mean decides."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mixed, self.head = nn.Conv2d(2, 6, 4, 4), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mixed(self.patches(images).flatten(2).transpose(1, 2)).relu().mean(1))


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2 * 16 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


class TwoOfTokens(nn.Module):
    """The mean of two models of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Tokens(), Tokens()

    def forward(self, images: Tensor) -> Tensor:
        return (self.first(images) + self.second(images)) / 2


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Flattened, "have one position: use"), (Tokens, "of tokens, whose places in it are not known"), (TwoOfTokens, "of tokens")],
)
def test_class_responses_without_places_are_refused(kind: type[nn.Module], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"rule 'cam' enlarges the class responses.*{said}.*gradient"):
        Clear(kind(), "cam")(torch.randn(2, 2, 16, 16))


@pytest.mark.parametrize("reduction", ["l2", "max"])
def test_a_reduction_that_can_do_nothing_is_refused(model: Pooled, reduction: str) -> None:
    with pytest.raises(ValueError, match=f"reduction '{reduction}'.*rule 'cam' sends nothing"):
        Clear(model, "cam", reduction=reduction)


def test_all_of_many_classes_compete() -> None:
    assert competing_count(1000, "cam") == 1000
    assert competing_count(1000, "cam", 7) == 7


def test_there_is_nothing_to_fold_and_nothing_to_conserve(model: Pooled, images: Tensor) -> None:
    clear = Clear(model, "cam")
    with pytest.raises(CannotFold, match="rule 'cam' sends nothing back"):
        clear.fold(images, 10**9)
    assert measure_conservation(clear, images) is None


def test_no_images(model: Pooled, images: Tensor) -> None:
    clear = Clear(model, "cam")
    for _ in range(2):
        assert clear(images[:0]).dominant_class.shape == (0, 20, 27)
        clear(images)


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_in_other_arithmetic(model: Pooled, images: Tensor, precision: str) -> None:
    found = Clear(model, "cam", precision=precision)(images)
    expected = literal(model, images).amax(1)
    torch.testing.assert_close(found.dominant_response, expected, rtol=0, atol=2e-2 * float(expected.max()))
