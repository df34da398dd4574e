"""Folded against plain: the operator must give what the network gives."""

import pytest
import torch
from torch import nn

from auditor import Clear
from auditor.folding.folded import Folded
from tests.auditor.folding.networks import ROOM, Gated, Mixer, Patches, StemPool, all_responses
from tests.auditor.networks import AveragePool, Concat, FlattenHead, OverlappingPool, PointwiseHead, Residual, random_network

CUTS = [
    (PointwiseHead, "max_pool2d"),
    (OverlappingPool, "max_pool2d"),
    (AveragePool, "image"),
    (FlattenHead, "image"),
    (Residual, "image"),
    (Concat, "cat"),
]


@pytest.mark.parametrize(("kind", "where"), CUTS)
@pytest.mark.parametrize("reduction", ["sum", "l2", "max"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_folded_is_plain(kind: type[nn.Module], where: str, reduction: str, top_k: int | None) -> None:
    model, images = random_network(kind, samples=4)
    plain, folded = (Clear(model, reduction=reduction, top_k=top_k, rule="linear") for _ in range(2))
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


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("top_k", [None, 5])
def test_operator_of_few_patterns_is_plain(precision: str, top_k: int | None) -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    plain, folded = (Clear(Patches().eval(), precision=precision, top_k=top_k, rule="linear") for _ in range(2))
    tolerance = 5e-2 if precision == "bfloat16" else 1e-5
    assert folded.fold(images, ROOM) <= tolerance
    operator = folded.operator
    assert operator is not None
    assert operator.patterns is not None
    assert operator.memory < 300 * 42 * 56 * 48 * folded.dtype.itemsize / 4
    others = torch.randn(7, 1, 56, 48, generator=torch.Generator().manual_seed(3))
    expected = all_responses(plain, others)
    assert (all_responses(folded, others) - expected).abs().max() <= tolerance * expected.abs().max()
    one, other = plain(others), folded(others)
    assert (one.dominant_response - other.dominant_response).abs().max() <= tolerance * expected.abs().max()
    assert (one.dominant_class == other.dominant_class).float().mean() > (0.8 if precision == "bfloat16" else 0.99)


@pytest.mark.parametrize(("kind", "where"), [(Mixer, "image"), (StemPool, "max_pool2d"), (Gated, "mul")])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_networks_of_today_are_folded(kind: type[nn.Module], where: str, precision: str) -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    model = kind().eval()
    plain, folded = Clear(model, precision=precision, rule="linear"), Clear(model, precision=precision, rule="linear")
    assert folded.fold(images, ROOM) < 1e-5
    assert folded.operator is not None
    assert folded.operator.plan.where == where
    others = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = all_responses(plain, others)
    assert (all_responses(folded, others) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", [OverlappingPool, AveragePool])
def test_chunks_do_not_change_a_bit_once_folded(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], size: int) -> None:
    model, images = random_network(kind, samples=3)
    clear = Clear(model, rule="linear")
    clear.fold(images, ROOM)
    whole = all_responses(clear, images)
    monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", size * images[:, 0].numel() + 1)
    assert torch.equal(all_responses(clear, images), whole)


@pytest.mark.parametrize("size", [1, 2, 70])
def test_chunks_do_not_change_a_bit_of_an_operator_of_patterns(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    images = torch.randn(3, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    clear = Clear(Patches().eval(), rule="linear")
    clear.fold(images, ROOM)
    whole = all_responses(clear, images)
    monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", size * images[:, 0].numel() + 1)
    assert torch.equal(all_responses(clear, images), whole)


def test_images_that_go_through_the_network_in_parts_have_the_maps_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = random_network(AveragePool, samples=7)
    clear = Clear(model, rule="linear")
    clear.fold(images, ROOM)
    whole = clear(images)
    monkeypatch.setattr("auditor.backward.trace.FORWARD_VALUES", 3 * images[0].numel())
    parts = clear(images)
    assert clear(images[:0]).dominant_class.shape == (0, *images.shape[2:])
    torch.testing.assert_close(parts.dominant_response, whole.dominant_response)
    torch.testing.assert_close(parts.logits, whole.logits)
    assert (parts.dominant_class == whole.dominant_class).float().mean() > 0.99


def test_operator_of_another_size_is_not_used() -> None:
    model, images = random_network(AveragePool)
    clear = Clear(model, rule="linear")
    clear.fold(images, ROOM)
    larger = torch.randn(2, 1, 12, 12)
    assert not isinstance(clear.forward(larger), Folded)
    torch.testing.assert_close(clear(larger).dominant_response, Clear(model, rule="linear")(larger).dominant_response)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", [Mixer, StemPool, Gated])
def test_folded_on_cuda_is_plain_on_the_cpu(kind: type[nn.Module]) -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    model = kind().eval()
    expected = all_responses(Clear(model, precision="float64", rule="linear"), images)
    folded = Clear(model.cuda(), precision="float64", rule="linear")
    assert folded.fold(images.cuda(), ROOM) < 1e-6
    torch.testing.assert_close(all_responses(folded, images.cuda()).cpu(), expected, rtol=1e-5, atol=1e-6)
