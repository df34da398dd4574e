"""Statistics over many enlarged maps against those of the maps themselves."""

import pytest
import torch

from auditor.enlarging.survey import survey
from auditor.kernels.enlargement import enlarge
from auditor.statistics.dominance import ClassCosine


@pytest.mark.parametrize(("positions", "size"), [((7, 7), (56, 56)), ((5, 3), (17, 50)), ((1, 4), (6, 9))])
def test_as_of_whole_maps(positions: tuple[int, int], size: tuple[int, int]) -> None:
    seeds = torch.randn(4, 30, *positions, generator=torch.Generator().manual_seed(0)).clamp(min=0)
    seeds[0, ::2] = 0
    seeds[1] = 0
    seeds[2, 1:] = 0
    names = torch.arange(30)
    found, maps, cosine = survey(seeds, names, size), enlarge(seeds, size).double(), ClassCosine()
    cosine.update(names, enlarge(seeds, size))
    torch.testing.assert_close(found.energy.double(), maps.sum((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.class_cosine, cosine.result(), rtol=0, atol=1e-5, equal_nan=True)
    assert found.class_cosine.isnan().tolist() == [False, True, True, False]
    torch.testing.assert_close(found.dominance.dominant_response.double(), maps.amax(1))
    assert found.is_finite.all()


def test_which_samples_are_finite() -> None:
    seeds = torch.ones(4, 3, 2, 2)
    seeds[1, 2, 0, 1] = torch.nan
    seeds[2, 0, 1, 1] = torch.inf
    seeds[3, 1] = 1e38
    assert survey(seeds, torch.arange(3), (8, 8)).is_finite.tolist() == [True, False, False, False]
