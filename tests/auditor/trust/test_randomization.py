"""Weights shuffled in their order of use, in modules and exported programs; maps of networks that are known."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import Clear
from auditor.trust.explainers import by_rule
from auditor.trust.randomization import cascade, layers, likeness, other_class, randomized
from tests.auditor.networks import PointwiseHead, random_network


class OutOfOrder(nn.Module):
    """Its modules are written in another order than they are used, one of them twice and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.never, self.middle = nn.Linear(4, 3), nn.Linear(4, 4), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.middle(F.relu(self.middle(F.relu(self.norm(self.first(images))))))
        return self.last(maps.mean((2, 3)))  # type: ignore[no-any-return]


def test_layers_come_as_they_are_used() -> None:
    torch.manual_seed(0)
    clear = Clear(OutOfOrder().eval())
    found = layers(clear, torch.randn(2, 2, 6, 6))
    assert [name.split(".")[0] for name in found] == ["first", "first", "middle", "last"]
    assert found[2:] == ["middle.weight", "last.weight"]


def test_layers_of_an_exported_program() -> None:
    model, images = random_network(PointwiseHead)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clear = Clear(torch.export.export(model, (images,)))
        names = layers(clear, images)
        changed = randomized(clear, names[-1:], 0)
    assert names == ["first.weight", "second.weight", "last.weight"]
    assert not torch.equal(changed.forward(images).logits, clear.forward(images).logits)


def test_cascade() -> None:
    assert list(cascade(["a", "b", "c"])) == [["c"], ["b", "c"], ["a", "b", "c"]]


def test_a_shuffled_weight_keeps_its_entries_and_the_others_stay(clear: Clear, images: Tensor) -> None:
    before = {name: weight.clone() for name, weight in clear.model.named_parameters()}
    changed = randomized(clear, ["second.weight"], 0)
    after = dict(changed.model.named_parameters())
    for name, weight in before.items():
        assert torch.equal(dict(clear.model.named_parameters())[name], weight), "the explained network is as it was"
        assert torch.equal(after[name], weight) == (name != "second.weight")
    assert torch.equal(after["second.weight"].flatten().sort().values, before["second.weight"].flatten().sort().values)


def test_shuffled_alike_whichever_others_are_and_by_seed(clear: Clear) -> None:
    alone = dict(randomized(clear, ["last.weight"], 1).model.named_parameters())["last.weight"]
    others = dict(randomized(clear, ["first.weight", "last.weight"], 1).model.named_parameters())["last.weight"]
    seeded = dict(randomized(clear, ["last.weight"], 2).model.named_parameters())["last.weight"]
    assert torch.equal(alone, others)
    assert not torch.equal(alone, seeded)


def test_equal_weights_are_shuffled_differently() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[2].load_state_dict(model[1].state_dict())
    changed = randomized(Clear(model), ["1.weight", "2.weight"], 0)
    after = dict(changed.model.named_parameters())
    assert not torch.equal(after["1.weight"], after["2.weight"])


def test_a_folded_explanation_is_randomised_without_its_operator() -> None:
    model, images = random_network(PointwiseHead)
    clear = Clear(model, "linear")
    clear.fold(images, 10**9)
    changed = randomized(clear, ["first.weight"], 0)
    assert clear.operator is not None
    assert changed.operator is None
    classes = torch.zeros(2, 1, dtype=torch.long) + clear.forward(images).logits.argmax(1)[:, None]
    assert not torch.allclose(by_rule(changed)(images, classes), by_rule(clear)(images, classes))


def test_a_named_head_is_randomised(images: Tensor, network: tuple[nn.Module, Tensor]) -> None:
    clear = Clear(network[0], head="last")
    logits = clear.forward(images).logits
    assert not torch.equal(randomized(clear, ["last.weight"], 0).forward(images).logits, logits)
    assert torch.equal(clear.forward(images).logits, logits)


def test_likeness_of_positive_parts() -> None:
    """The same positive parts under other negative ones; opposite ranks; and maps that are empty."""
    before = torch.tensor([[1.0, 2, -1, -2], [1, 2, 3, 4], [1, 2, 3, 4], [-1, -2, 0, 0]])[:, None]
    after = torch.tensor([[1.0, 2, -9, -3], [4, 3, 2, 1], [0, 0, 0, 0], [1, 2, 3, 4]])[:, None]
    found = likeness(before, after)
    assert found.spearman[:2].tolist() == pytest.approx([1, -1])
    assert found.structural[0].item() == pytest.approx(1)
    assert found.structural[1] < 0.5
    assert found.spearman.isnan().tolist() == found.structural.isnan().tolist() == [False, False, True, True]


def test_other_class_is_another_one_and_any() -> None:
    images = torch.randn(400, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(400) % 5
    found = other_class(images, classes, 5, 0)
    assert (found != classes).all()
    counts = torch.bincount((found - classes) % 5, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] - 100).abs().max() < 40
    assert torch.equal(other_class(images[7:9], classes[7:9], 5, 0), found[7:9])
    assert other_class(images, classes % 2, 2, 0).tolist() == (1 - classes % 2).tolist()


@pytest.mark.parametrize("rule", ["cam", "gradient", "linear", "lrp_zplus"])
def test_a_shuffled_network_is_explained_by_its_own_weights(clear: Clear, images: Tensor, rule: str) -> None:
    """Whatever was found out before of the network as it was, and of others of its kind."""
    known = clear.changed(rule=rule)
    known(images)
    names = layers(known, images)
    randomized(known, names[-1:], 0)(images)
    changed = randomized(known, names, 0)
    found, expected = changed(images), Clear(changed.model, rule)(images)
    assert changed.method.rule == rule
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.dominant_response, expected.dominant_response)
    assert not torch.equal(found.dominant_response, known(images).dominant_response)
