"""An operator and its tensors."""

import torch

from auditor import Clear
from auditor.folding.operator import restore_operator
from tests.auditor.folding.networks import ROOM, Patches


def test_operator_is_restored_from_its_tensors() -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    clear, again = Clear(Patches().eval(), rule="linear"), Clear(Patches().eval(), rule="linear")
    clear.fold(images, ROOM)
    assert clear.operator is not None
    restored = restore_operator(clear.operator.plan, clear.operator.tensors())
    assert again.use(restored, images) < 1e-5
    maps, others = clear(images), again(images)
    assert torch.equal(maps.dominant_class, others.dominant_class)
    assert torch.equal(maps.dominant_response, others.dominant_response)
