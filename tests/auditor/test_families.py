"""A dozen families of image classifiers, by every rule: against autograd's own graph, and written otherwise."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel
from auditor.operations.rule_table import BACKWARD_RULES, RULES
from tests.auditor import autograd_graph
from tests.auditor.families import CLASSES, FAMILIES, family
from tests.auditor.rewriting import deviation, noops, without_biases

Found = tuple[Tensor, Tensor]
shared_family = cache(family)
WITHOUT_PLACES = {"ConvNeXt", "MLP-Mixer", "ViT"}
"""Families whose class responses have one position, or one a token: nothing says where in the image these are."""
ANSWERED = [(name, rule) for name in FAMILIES for rule in (BACKWARD_RULES if name in WITHOUT_PLACES else RULES)]


def send_back(model: nn.Module, images: Tensor, rule: str) -> Found:
    """R(x|c) of all classes, (N, C, H, W), and z_L, (N, C, h, w)."""
    clear = Clear(model, rule, precision="float64")
    backprojection = clear.forward(images)
    found = torch.cat([responses for _, responses in backprojection.stream(torch.arange(CLASSES))], 1)
    return found.double(), backprojection.class_responses.double()


@cache
def sent_back(name: str, rule: str) -> Found:
    return send_back(*shared_family(name), rule)


@pytest.mark.parametrize(("name", "rule"), ANSWERED)
def test_class_responses_average_to_what_the_model_returns(name: str, rule: str) -> None:
    model, images = shared_family(name)
    found, scores = sent_back(name, rule)
    torch.testing.assert_close(scores.mean((2, 3)), model(images), atol=1e-6, rtol=1e-6)
    assert found.isfinite().all()
    assert (found.abs().amax((2, 3)) > 0).equal(scores.amax((2, 3)) > 0)


@pytest.mark.parametrize("rule", autograd_graph.RULES)
@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_those_of_the_graph_that_autograd_made(name: str, rule: str) -> None:
    model, images = shared_family(name)
    found, scores = sent_back(name, rule)
    leaf = images.clone().requires_grad_()
    expected = autograd_graph.responses(autograd_graph.class_maps(model, leaf, scores), leaf, list(range(CLASSES)), rule)
    assert deviation(found, expected) < 1e-5


@pytest.mark.parametrize(("name", "rule"), ANSWERED)
def test_operations_that_do_nothing_change_nothing(name: str, rule: str) -> None:
    """An image by itself, in another memory format, with a copy and an idle dropout behind every layer."""
    model, images = shared_family(name)
    alone = images[1:].contiguous(memory_format=torch.channels_last)
    with noops(model):
        found, _ = send_back(model, alone, rule)
    assert deviation(found, sent_back(name, rule)[0][1:]) < 1e-5


@pytest.mark.parametrize(("name", "rule"), ANSWERED)
def test_exported_program_has_the_maps_of_its_model(name: str, rule: str) -> None:
    _, images = shared_family(name)
    assert deviation(send_back(exported(name), images, rule)[0], sent_back(name, rule)[0]) < 1e-5  # type: ignore[arg-type]


@cache
def exported(name: str) -> torch.export.ExportedProgram:
    model, images = shared_family(name)
    return torch.export.export(model, (images,))


@pytest.mark.parametrize("name", sorted(WITHOUT_PLACES))
def test_class_responses_without_places_are_not_enlarged(name: str) -> None:
    with pytest.raises(UnsupportedModel, match="rule 'cam' enlarges the class responses"):
        send_back(*shared_family(name), "cam")


@pytest.mark.parametrize("name", FAMILIES)
def test_without_biases_relevance_is_neither_made_nor_lost(name: str) -> None:
    model, images = shared_family(name)
    found, scores = send_back(without_biases(model), images, "lrp_epsilon")
    entered = scores.clamp(min=0).sum((2, 3))
    torch.testing.assert_close(found.sum((2, 3)), entered, atol=0.0, rtol=0.05)


def test_reference_leaves_a_graph_that_it_does_not_know_as_it_was() -> None:
    """The sigmoid is hooked before the square root behind it is met: by that hook it would send back everything ever after."""
    images = torch.rand(1, 2, 4, 4, dtype=torch.float64).requires_grad_()
    scores = images.mean((2, 3)).sqrt().sigmoid()
    with pytest.raises(autograd_graph.NoReference, match="Sqrt"):
        autograd_graph.responses(scores, images, [0], "linear")
    found = autograd_graph.responses(scores, images, [0], "gradient")
    mean, score = images[0, 0].mean().detach(), scores[0, 0].detach()
    torch.testing.assert_close(found[0, 0], (score * score * (1 - score) / (2 * mean.sqrt()) / 16).expand(4, 4))
