"""Folded against plain: the operator must give what the network gives."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from auditor import CannotFold, Clear
from auditor.folding import FoldPlan, assemble, fold_rows, plan_fold
from tests.auditor.networks import AveragePool, Concat, FlattenHead, OverlappingPool, PointwiseHead, Residual, random_network

CUTS = [
    (PointwiseHead, "max_pool2d"),
    (OverlappingPool, "max_pool2d"),
    (AveragePool, "image"),
    (FlattenHead, "image"),
    (Residual, "image"),
    (Concat, "cat"),
]
ROOM = 1 << 30


def all_responses(clear: Clear, images: Tensor) -> Tensor:
    return torch.cat([responses for _, responses in clear.responses(images)], 1)


class Narrow(nn.Module):
    """Three channels, widened by a 1 × 1 convolution for seven classes: the basis is sent back from the three."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU6(), nn.Conv2d(3, 9, 1), nn.BatchNorm2d(9), nn.ReLU6())
        self.last = nn.Linear(9, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "where"), CUTS)
@pytest.mark.parametrize("reduction", ["sum", "l2", "max"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_folded_is_plain(kind: type[nn.Module], where: str, reduction: str, top_k: int | None) -> None:
    model, images = random_network(kind, samples=4)
    plain, folded = (Clear(model, reduction=reduction, top_k=top_k) for _ in range(2))
    assert folded.fold(images, ROOM) < 1e-5
    assert folded.operator is not None
    assert folded.operator.plan.where == where
    expected, actual = all_responses(plain, images), all_responses(folded, images)
    assert expected.any()
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    # The classes compete in another way once folded; where two are as good as equal, either may win.
    clear = (plain(images).dominant_response - folded(images).dominant_response).abs().max()
    assert clear <= 1e-5 * expected.abs().max()
    assert (plain(images).dominant_class == folded(images).dominant_class).float().mean() > 0.99


def test_basis_behind_a_widening_is_the_narrow_one() -> None:
    model, images = Narrow().eval(), torch.randn(3, 2, 5, 6)
    plain, folded = Clear(model), Clear(model)
    plan = plan_fold(folded, images)
    assert plan.rows == 3 * 5 * 6, "three channels, not seven classes"
    folded.fold(images, ROOM)
    torch.testing.assert_close(all_responses(folded, images), all_responses(plain, images), rtol=1e-4, atol=1e-6)


def test_rows_in_ranges_are_the_rows_at_once() -> None:
    model, images = random_network(AveragePool)
    clear = Clear(model)
    plan = plan_fold(clear, images)
    at_once = fold_rows(clear, images, plan, 0, plan.rows)
    in_parts = [fold_rows(clear, images, plan, start, min(start + 7, plan.rows)) for start in range(0, plan.rows, 7)]
    torch.testing.assert_close(torch.cat(in_parts), at_once)
    assert clear.use(assemble(clear, images, plan, in_parts), images) < 1e-5


def test_plan_survives_json() -> None:
    model, images = random_network(Residual)
    plan = plan_fold(Clear(model), images)
    read = json.loads(json.dumps(dataclasses.asdict(plan)))
    assert FoldPlan(**read | {"shape": tuple(read["shape"])}) == plan


def test_operator_of_another_model_is_refused() -> None:
    model, images = random_network(AveragePool)
    other, _ = random_network(AveragePool, seed=99)
    clear, foreign = Clear(model), Clear(other)
    foreign.fold(images, ROOM)
    assert foreign.operator is not None
    with pytest.raises(CannotFold, match="deviate"):
        clear.use(foreign.operator, images)
    assert clear.operator is None


def test_operator_of_another_size_is_not_used() -> None:
    model, images = random_network(AveragePool)
    clear = Clear(model)
    clear.fold(images, ROOM)
    larger = torch.randn(2, 1, 12, 12)
    assert clear.forward(larger).operator is None
    torch.testing.assert_close(clear(larger).dominant_response, Clear(model)(larger).dominant_response)


@pytest.mark.parametrize(
    ("make", "memory", "message"),
    [
        (lambda model: Clear(model), 10, "memory"),
        (lambda model: Clear(model, "guided"), ROOM, "guided"),
        (lambda model: Clear(model, "deconv"), ROOM, "deconv"),
    ],
)
def test_what_cannot_be_folded_goes_the_plain_way(make: Callable[[nn.Module], Clear], memory: int, message: str) -> None:
    model, images = random_network(AveragePool)
    clear = make(model)
    before = clear(images)
    with pytest.raises(CannotFold, match=message):
        clear.fold(images, memory)
    assert torch.equal(clear(images).dominant_response, before.dominant_response)


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
    clear = Clear(Branching())
    plan = plan_fold(clear, images)
    operator = assemble(clear, images, plan, [fold_rows(clear, images, plan, 0, plan.rows)])
    with pytest.raises(CannotFold, match="deviate"):
        clear.use(operator, -images)
