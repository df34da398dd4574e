"""The images of a seeded sample: which they are, and what is left out of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from flows.runtime.sampling import draw, read_drawn, units_of
from flows.runtime.worker import AuditWorker, Work
from storage.datasets.folder import FolderSpec
from tests.flows.conftest import Digits
from tests.reports.stores import SMALL, make_plan

PLAN = make_plan(SMALL).model_copy(update={"sample_count": 100})


def test_a_sample_has_each_image_once_and_follows_from_the_seed() -> None:
    drawn = draw(100, 30, 0)
    assert len(np.unique(drawn)) == 30
    assert np.array_equal(drawn, draw(100, 30, 0))
    assert not np.array_equal(drawn, draw(100, 30, 1))
    assert np.array_equal(draw(100, 30, 0), draw(100, 50, 0)[:30]), "a larger sample has the images of a smaller one"
    assert sorted(draw(100, 1000, 0)) == list(range(100))


def test_units_divide_the_sample() -> None:
    assert [(unit.start, unit.stop) for unit in units_of(PLAN, 30, 12)] == [(0, 12), (12, 24), (24, 30)]
    assert [(unit.start, unit.stop) for unit in units_of(PLAN, 1000, 64)] == [(0, 64), (64, 100)]


def test_images_come_as_the_model_takes_them(digits_work: Work, digits: Digits) -> None:
    indices = np.array([200, 3, 299])
    drawn = read_drawn(AuditWorker(digits_work), indices)
    assert np.array_equal(drawn.pixels[:, 0], digits.pixels[indices])
    assert drawn.labels.tolist() == digits.labels[indices].tolist()
    assert (drawn.indices.tolist(), drawn.failed) == ([200, 3, 299], 0)


def test_what_cannot_be_read_is_left_out(digits_work: Work, digits: Digits, tmp_path: Path) -> None:
    for index in range(10):
        (tmp_path / str(index)).mkdir()
        Image.fromarray(digits.pixels[index]).save(tmp_path / str(index) / "a.png")
    (tmp_path / "4" / "a.png").write_bytes(b"")
    worker = AuditWorker(replace(digits_work, dataset=FolderSpec("folder", str(tmp_path))))
    drawn = read_drawn(worker, np.array([9, 4, 0]))
    assert (drawn.indices.tolist(), drawn.labels.tolist(), drawn.failed) == ([9, 0], [9, 0], 1)
    assert np.array_equal(drawn.pixels[:, 0], digits.pixels[[9, 0]])
    nothing = read_drawn(worker, np.array([4]))
    assert (len(nothing.indices), nothing.failed) == (0, 1)
