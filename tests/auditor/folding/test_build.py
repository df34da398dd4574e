"""Rows and what is made of them."""

import pytest
import torch

from auditor import CannotFold, Clear
from auditor.folding.build import assemble, fold_rows
from auditor.folding.plan import plan_fold
from tests.auditor.folding.networks import ROOM, Narrow, Patches
from tests.auditor.networks import AveragePool, random_network


def test_where_patterns_lose_too_much_the_operator_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr("auditor.folding.build.LOST", 1e4)
    clear = Clear(Patches().eval(), rule="linear")
    assert clear.fold(images, ROOM) < 1e-5
    assert clear.operator is not None
    assert clear.operator.patterns is None


def test_rows_in_ranges_are_the_rows_at_once() -> None:
    model, images = random_network(AveragePool)
    clear = Clear(model, rule="linear")
    plan = plan_fold(clear, images)
    at_once = fold_rows(clear, images, plan, 0, plan.rows)
    in_parts = [fold_rows(clear, images, plan, start, min(start + 7, plan.rows)) for start in range(0, plan.rows, 7)]
    torch.testing.assert_close(torch.cat(in_parts), at_once)
    assert clear.use(assemble(clear, images, plan, in_parts), images) < 1e-5


def test_an_operator_may_take_what_is_allowed_whatever_its_classes_would() -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    clear = Clear(Patches().eval(), rule="linear")
    rows = plan_fold(clear, images).memory
    assert rows == 6 * 42 * 56 * 48 * 4, "six channels decide 300 classes at each of 6 × 7 positions"
    with pytest.raises(CannotFold, match=r"building the operator takes 0\.0 GB of memory"):
        clear.fold(images, rows - 1)
    assert clear.fold(images, 2 * rows) < 1e-5
    model, few = Narrow().eval(), torch.randn(3, 2, 5, 6)
    with pytest.raises(CannotFold, match=r"the operator takes 0\.0 GB of memory"):
        Clear(model, rule="linear").fold(few, 3 * 30 * 30 * 4)
    Clear(model, rule="linear").fold(few, 7 * 30 * 30 * 4)
