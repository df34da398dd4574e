"""The mean evidence maps: sums of shards, read and joined."""

from pathlib import Path

import numpy as np
import pytest
from storage.evidence import CELLS, cell_pixels, mean_evidence, write_sums

from storage.tables import SCHEMAS


@pytest.mark.parametrize(("height", "width", "side"), [(28, 28, 1), (64, 3, 1), (65, 3, 2), (224, 224, 4), (10, 1000, 16)])
def test_no_side_has_more_than_the_most_cells(height: int, width: int, side: int) -> None:
    assert cell_pixels(height, width) == side
    assert -(-max(height, width) // side) <= CELLS


def test_means_of_shards_are_those_of_all_samples(tmp_path: Path) -> None:
    """Three shards, of which one has no labelled sample and one has not all classes; class 'b' has no sample."""
    first, second = tmp_path / "first", tmp_path / "second"
    nothing = tmp_path / "nothing"
    own = np.array([[[0.5, 0.25, 0.25]], [[0.0, 1.0, 0.0]]])
    write_sums(first, np.array([0, 2]), np.array([1, 2]), own, 1 - own)
    write_sums(nothing, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 1, 3)), np.zeros((0, 1, 3)))
    write_sums(second, np.array([0]), np.array([3]), own[:1] + 0.5, own[:1])
    table = mean_evidence([first, nothing, second], ["a", "b", "c"], 1, 3)
    assert table.schema == SCHEMAS["evidence"]
    assert table.to_pylist() == [
        {
            "class_index": 0,
            "class_name": "a",
            "evidence_count": 4,
            "cell_pixel_count": 1,
            "column_count": 3,
            "label_energy_frac_mean": [0.375, 0.25, 0.25],
            "other_energy_frac_mean": [0.25, 0.25, 0.25],
        },
        {
            "class_index": 1,
            "class_name": "b",
            "evidence_count": 0,
            "cell_pixel_count": 1,
            "column_count": 3,
            "label_energy_frac_mean": None,
            "other_energy_frac_mean": None,
        },
        {
            "class_index": 2,
            "class_name": "c",
            "evidence_count": 2,
            "cell_pixel_count": 1,
            "column_count": 3,
            "label_energy_frac_mean": [0, 0.5, 0],
            "other_energy_frac_mean": [0.5, 0, 0.5],
        },
    ]
