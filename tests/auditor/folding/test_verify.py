"""Only operators that give what the network gives are used."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from auditor import CannotFold, Clear
from auditor.folding.build import assemble, fold_rows
from auditor.folding.plan import plan_fold
from tests.auditor.folding.networks import ROOM, Unbiased
from tests.auditor.networks import AveragePool, Residual, random_network


def test_every_image_verifies_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes through the network at a time; those without response, and only those, have no say."""
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("auditor.backward.trace.FORWARD_VALUES", 1)
    clear = Clear(Unbiased().eval(), rule="linear")
    plan = plan_fold(clear, images)
    operator = assemble(clear, images, plan, [fold_rows(clear, images, plan, 0, plan.rows)])
    blank = torch.zeros_like(images[:1])
    with_blank = torch.cat([blank, images, blank])
    assert clear.use(operator, with_blank) == clear.use(operator, images) <= 1e-5
    assert clear.operator is not None
    assert clear.operator.shortcut is not None
    with pytest.raises(CannotFold, match="no class has positive response"):
        clear.use(operator, blank)

    off = dataclasses.replace(operator, tensor=1.01 * operator.tensor)
    with pytest.raises(CannotFold, match=r"deviate from plain ones by 1\.0e-02"):
        clear.use(off, torch.cat([blank, images[3:]]))


def test_bfloat16_operator_is_verified_to_its_own_tolerance() -> None:
    model, images = random_network(Residual, samples=4)
    clear = Clear(model, precision="bfloat16", rule="linear")
    assert 1e-5 < clear.fold(images, ROOM) <= 5e-2
    assert clear.operator is not None
    assert clear.operator.tensor.dtype == torch.bfloat16


def test_operator_of_another_model_is_refused() -> None:
    model, images = random_network(AveragePool)
    other, _ = random_network(AveragePool, seed=99)
    clear, foreign = Clear(model, rule="linear"), Clear(other, rule="linear")
    foreign.fold(images, ROOM)
    assert foreign.operator is not None
    with pytest.raises(CannotFold, match="deviate"):
        clear.use(foreign.operator, images)
    assert clear.operator is None


def test_branch_that_python_takes_is_found_out() -> None:
    """The tape does not see it; the check on real images does."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            scale = 2.0 if images.detach()[0, 0, 0, 0].item() > 0 else 0.5
            return self.last(torch.relu(self.first(images) * scale).mean((2, 3)))  # type: ignore[no-any-return]

    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)).abs()
    clear = Clear(Branching(), rule="linear")
    plan = plan_fold(clear, images)
    operator = assemble(clear, images, plan, [fold_rows(clear, images, plan, 0, plan.rows)])
    with pytest.raises(CannotFold, match="deviate"):
        clear.use(operator, -images)
