"""What of a model can be folded, and what cannot."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from auditor import CannotFold, Clear
from auditor.folding.plan import FoldPlan, plan_fold
from tests.auditor.folding.networks import ROOM, Mixer, Narrow, all_responses
from tests.auditor.networks import AveragePool, Residual, random_network


def test_basis_behind_a_widening_is_the_narrow_one() -> None:
    model, images = Narrow().eval(), torch.randn(3, 2, 5, 6)
    plain, folded = Clear(model, rule="linear"), Clear(model, rule="linear")
    plan = plan_fold(folded, images)
    assert plan.rows == 3 * 5 * 6, "three channels, not seven classes"
    folded.fold(images, ROOM)
    torch.testing.assert_close(all_responses(folded, images), all_responses(plain, images), rtol=1e-4, atol=1e-6)


def test_attention_at_the_end_leaves_nothing_to_fold() -> None:
    class Transformer(Mixer):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, self.channels(tokens))
            return self.last(nn.functional.layer_norm(mixed, (6,)).mean(1))  # type: ignore[no-any-return]

    with pytest.raises(CannotFold, match="operation 'layer_norm' depends on the input, and nothing lies between"):
        Clear(Transformer(), rule="linear").fold(torch.randn(2, 1, 8, 8), ROOM)


def test_plan_survives_json() -> None:
    model, images = random_network(Residual)
    plan = plan_fold(Clear(model, rule="linear"), images)
    read = json.loads(json.dumps(dataclasses.asdict(plan)))
    assert FoldPlan(**read | {"shape": tuple(read["shape"])}) == plan


@pytest.mark.parametrize(
    ("make", "memory", "message"),
    [
        (lambda model: Clear(model, rule="linear"), 10, "memory"),
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
