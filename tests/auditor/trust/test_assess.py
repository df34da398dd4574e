"""All measures of a batch: each is what its own function says, of the maps that it should be put to; faults of maps are seen."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditor import Clear
from auditor.trust.assess import CURVE, REGION, RULE, assess, with_others
from auditor.trust.explainers import by_rule, ink
from auditor.trust.fills import background
from auditor.trust.image_dependence import moved, movement
from auditor.trust.networks import scores_of
from auditor.trust.perturbation import perturb
from auditor.trust.similarity import pearson
from auditor.trust.verdict import judge, summary_of

ON_DEMAND = ("class_cosine_signed", "class_cosine_positive", "contrast", "leak")
LEARNT = ("random_logit_spearman", "last_random_spearman", "last_random_ssim", "all_random_spearman", "all_random_ssim")
CELLS = ("cell_sparseness", "cell_half_energy_area", "variance_within_cells")


def network(classes: int = 3, pooled: bool = True) -> nn.Module:
    """With places in z_L, or with none."""
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    if pooled:
        return nn.Sequential(*body, nn.Conv2d(8, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 4 * 4, classes)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand((12, 1, 16, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def found(images: Tensor) -> dict[str, dict[str, Tensor]]:
    return assess(Clear(network(), "gradient"), images, torch.full((12,), -1), 0)


def test_every_source_has_the_measures_that_it_can_have(found: dict[str, dict[str, Tensor]]) -> None:
    assert list(found) == [RULE, "cam", "ink", "edges", "random_pixels"]
    assert set(found[RULE]) - set(found["cam"]) == {*LEARNT, "class_gain"}
    assert set(found["cam"]) - set(found["ink"]) == set(ON_DEMAND)
    assert set(found["ink"]) == set(found["edges"]) == set(found["random_pixels"])
    for measured in found.values():
        for name, values in measured.items():
            assert values.shape == (12,), name
            assert values.dtype == torch.float32, name


def test_without_places_there_is_no_cam_and_no_cell(images: Tensor) -> None:
    found = assess(Clear(network(pooled=False), "gradient"), images, torch.full((12,), -1), 0)
    assert list(found) == [RULE, "ink", "edges", "random_pixels"]
    assert not set(CELLS) & set(found[RULE])
    # The network takes no larger image, and that is no error.
    assert found[RULE]["grid_pointing"].isnan().all()


def test_movement_is_that_of_the_predicted_class_by_the_stride(found: dict[str, dict[str, Tensor]], images: Tensor) -> None:
    clear = Clear(network(), "gradient")
    predicted = clear.model(images).argmax(1)[:, None]
    before, after = (by_rule(clear)(given, predicted)[:, 0] for given in (images, moved(images, 4)))
    expected = movement(before, after, 4)
    torch.testing.assert_close(found[RULE]["moved_along"], expected.along, equal_nan=True)
    torch.testing.assert_close(found[RULE]["moved_stayed"], expected.stayed, equal_nan=True)


def test_where_is_asked_of_the_dominant_response_and_the_label(images: Tensor) -> None:
    clear = Clear(network(), "gradient")
    labels = torch.arange(12) % 3
    labels[5] = -1
    wanted = labels.clone()
    wanted[5] = clear.model(images)[5].argmax()
    found = assess(clear, images, labels, 0)
    network_ = scores_of(clear, images)
    for source, maps in {RULE: clear(images).dominant_response, "ink": ink(images, labels[:, None])[:, 0]}.items():
        expected = perturb(network_, images, wanted, maps, background(images), CURVE)
        column = CURVE.index(REGION)
        torch.testing.assert_close(found[source]["kept_correct"], expected.kept_correct[:, column])
        torch.testing.assert_close(found[source]["removed_correct"], expected.removed_correct[:, column])


def test_the_gain_of_linear_convolutions_is_that_of_their_kernels() -> None:
    """One kernel a class, of ones and of twos: of a unit of response nine times 1, or of 2, arrive where nothing is cut off."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    weight: Any = model[0].weight
    weight.data[0], weight.data[1] = 1.0, 2.0
    images = torch.rand((5, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    found = assess(Clear(model, "linear"), images, torch.full((5,), -1), 0)
    torch.testing.assert_close(found[RULE]["class_gain"], torch.full((5,), 18.0))


def test_a_map_that_does_not_see_the_image_is_seen() -> None:
    """Class responses that are all but constant, sent back by `linear`: the kernels side by side, whatever the image."""
    model = nn.Sequential(nn.Conv2d(1, 2, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.manual_seed(0)
    layer: Any = model[0]
    layer.weight.data.normal_(std=1e-4)
    layer.bias.data.copy_(torch.tensor([5.0, 4.0]))
    images = torch.rand((8, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    found = assess(Clear(model, "linear"), images, torch.full((8,), -1), 0)
    assert (found[RULE]["image_correlation"] > 0.999).all()
    assert (found["random_pixels"]["image_correlation"].abs() < 0.2).all()
    assert (found[RULE]["moved_stayed"] > 0.999).all()
    summaries = {name: summary_of(values[~values.isnan()].numpy()) for name, values in found[RULE].items()}
    verdict = judge(summaries, {})
    assert (verdict.says_where, verdict.says_class) == (False, False)
    assert "stays where it was" in verdict.tests[0][2]


def test_correlation_with_others_is_the_mean_over_pairs() -> None:
    maps = torch.rand((4, 8, 8), generator=torch.Generator().manual_seed(0))
    expected = [torch.stack([pearson(maps[i : i + 1], maps[j : j + 1])[0] for j in range(4) if j != i]).mean() for i in range(4)]
    torch.testing.assert_close(with_others(maps, 1), torch.stack(expected))
    assert with_others(maps[:1], 1).isnan().all()


def test_an_image_is_measured_alike_in_any_batch(found: dict[str, dict[str, Tensor]], images: Tensor) -> None:
    """But for what compares it with the others, and the grids that it is part of."""
    alone = assess(Clear(network(), "gradient"), images[3:5], torch.full((2,), -1), 0)
    for source, measured in alone.items():
        for name, values in measured.items():
            if name not in ("image_correlation", "grid_pointing"):
                torch.testing.assert_close(
                    values, found[source][name][3:5], equal_nan=True, rtol=1e-4, atol=1e-5, msg=f"{source} {name}"
                )
