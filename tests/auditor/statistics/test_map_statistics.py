"""All scores of a map together: which part of a map they see, and that each reaches its own field."""

import numpy as np
import pytest
import scipy.stats
import torch

from auditor.statistics.map_statistics import SCORES, describe, join

RESPONSES = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def test_by_hand() -> None:
    """1 × 4 pixels 2, −9, 0, 6: what is negative is not described."""
    scores = {name: getattr(describe(torch.tensor([[[[2.0, -9, 0, 6]]]])), name).item() for name in SCORES}
    assert scores == pytest.approx(
        {
            "energy": 8,
            "peak": 6,
            # Pairs of 2, 0, 0, 6 differ by 2, 2, 4, 0, 6, 6, each twice: 40 / (2·4·8)
            "sparseness": 40 / 64,
            "complexity": -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)),
            "centroid_y": 0,
            "centroid_x": 6 * 3 / 8,
            # (2·2.25² + 6·0.75²) / 8 = 1.6875
            "spread": 1.6875**0.5,
            "half_energy_area_frac": 1 / 4,
        }
    )


def test_every_map_is_described_alone() -> None:
    """Against slow definitions, map by map."""
    description = describe(RESPONSES)
    for sample, label in np.ndindex(2, 3):
        values = RESPONSES[sample, label].double().clamp(min=0).numpy()
        total, flat = values.sum(), values.flatten()
        rows, columns = np.indices(values.shape)
        y, x = (rows * values).sum() / total, (columns * values).sum() / total
        strongest = np.sort(flat)[::-1].cumsum()
        expected = {
            "energy": total,
            "peak": values.max(),
            "sparseness": np.abs(flat[:, None] - flat).sum() / (2 * flat.size * total),
            "complexity": scipy.stats.entropy(flat),
            "centroid_y": y,
            "centroid_x": x,
            "spread": np.sqrt((values * ((rows - y) ** 2 + (columns - x) ** 2)).sum() / total),
            "half_energy_area_frac": (1 + (strongest < total / 2).sum()) / flat.size,
        }
        actual = {name: getattr(description, name)[sample, label].item() for name in SCORES}
        assert actual == pytest.approx(expected, rel=1e-5)


def test_shapes_and_types() -> None:
    for name in SCORES:
        score = getattr(describe(RESPONSES), name)
        assert (score.shape, score.dtype) == ((2, 3), torch.float32)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_map_without_positive_response(value: float) -> None:
    description = describe(torch.full((1, 1, 3, 3), value))
    assert (description.energy.item(), description.peak.item()) == (0, 0)
    assert all(getattr(description, name).isnan().all() for name in SCORES if name not in {"energy", "peak"})


def test_join_keeps_the_order_of_the_classes() -> None:
    whole = describe(RESPONSES)
    joined = join([describe(RESPONSES[:, :1]), describe(RESPONSES[:, 1:])])
    for name in SCORES:
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name), rtol=1e-6, atol=1e-7)


def test_responses_are_not_touched() -> None:
    before = RESPONSES.clone()
    describe(RESPONSES)
    assert torch.equal(RESPONSES, before)
