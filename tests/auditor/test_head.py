"""Where classes are decided: z_L, the logits that follow from it, and where a class enters the way back."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel
from auditor.head import Head

IMAGES = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(5))
CLASSES = 4


class Headed(nn.Module):
    """A convolution to five maps of 6 × 6, and a head over them."""

    def __init__(self, head: Callable[["Headed", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(2, 5, 3, padding=1)
        self.pointwise = nn.Conv2d(5, CLASSES, 1)
        self.wide = nn.Conv2d(5, CLASSES, 3, padding=1)
        self.whole = nn.Conv2d(5, CLASSES, 6)
        self.linear = nn.Linear(5, CLASSES)
        self.flat = nn.Linear(5 * 36, CLASSES)
        self.quarters = nn.Linear(5 * 4, CLASSES)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self, F.relu(self.body(images)))


def class_responses_by_loops(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer at every position, one number at a time."""
    responses = torch.zeros(len(maps), len(weight), *maps.shape[2:])
    for sample, label, y, x in torch.cartesian_prod(*(torch.arange(size) for size in responses.shape)).tolist():
        responses[sample, label, y, x] = (maps[sample, :, y, x] * weight[label]).sum() + bias[label]
    return responses


AVERAGED: dict[str, Callable[[Headed, Tensor], Tensor]] = {
    "mean, linear": lambda model, maps: model.linear(maps.mean((2, 3))),
    "mean of negative dimensions": lambda model, maps: model.linear(torch.mean(maps, dim=[-2, -1])),
    "mean by axis": lambda model, maps: model.linear(maps.mean(axis=(2, 3))),
    "mean keepdim, flatten": lambda model, maps: model.linear(maps.mean((2, 3), keepdim=True).flatten(1)),
    "adaptive, view": lambda model, maps: model.linear(F.adaptive_avg_pool2d(maps, 1).view(len(maps), -1)),
    "adaptive, squeeze": lambda model, maps: model.linear(F.adaptive_avg_pool2d(maps, (1, 1)).squeeze(3).squeeze(2)),
    "adaptive, slice": lambda model, maps: model.linear(F.adaptive_avg_pool2d(maps, 1)[:, :, 0, 0]),
    "avg_pool of all, dropout": lambda model, maps: model.linear(F.dropout(F.avg_pool2d(maps, 6).flatten(1), 0.5, False)),
    "one mean after the other": lambda model, maps: model.linear(maps.mean(3).mean(2)),
    "mean of flattened maps": lambda model, maps: model.linear(maps.flatten(2).mean(2)),
    "functional linear": lambda model, maps: F.linear(
        input=maps.mean((2, 3)), weight=model.linear.weight, bias=model.linear.bias
    ),
}


@pytest.mark.parametrize("spelling", AVERAGED)
def test_linear_behind_a_global_average_is_a_pointwise_convolution_before_it(spelling: str) -> None:
    model = Headed(AVERAGED[spelling])
    backprojection = Clear(model).forward(IMAGES)
    with torch.no_grad():
        maps = F.relu(model.body(IMAGES))
        expected = class_responses_by_loops(maps, model.linear.weight, model.linear.bias)
    torch.testing.assert_close(backprojection.class_responses, expected)
    torch.testing.assert_close(backprojection.logits, model(IMAGES).detach())


def test_linear_layer_without_bias() -> None:
    model = Headed(lambda model, maps: F.linear(maps.mean((2, 3)), model.linear.weight))
    with torch.no_grad():
        maps = F.relu(model.body(IMAGES))
        expected = class_responses_by_loops(maps, model.linear.weight, torch.zeros(CLASSES))
    torch.testing.assert_close(Clear(model).forward(IMAGES).class_responses, expected)


@pytest.mark.parametrize(
    "head",
    [
        lambda model, maps: model.pointwise(maps).mean((2, 3)),
        lambda model, maps: F.adaptive_avg_pool2d(model.pointwise(maps), 1).flatten(1),
        lambda model, maps: F.avg_pool2d(F.dropout(model.pointwise(maps), training=False), 6).squeeze(),
    ],
)
def test_pointwise_convolution_before_a_global_average(head: Callable[[Headed, Tensor], Tensor]) -> None:
    model = Headed(head)
    backprojection = Clear(model).forward(IMAGES)
    with torch.no_grad():
        maps = F.relu(model.body(IMAGES))
        expected = class_responses_by_loops(maps, model.pointwise.weight.flatten(1), model.pointwise.bias)
    torch.testing.assert_close(backprojection.class_responses, expected)
    torch.testing.assert_close(backprojection.logits, model(IMAGES).detach())


def test_class_responses_are_rectified_where_the_model_rectifies_them() -> None:
    model = Headed(lambda model, maps: F.relu(model.wide(maps)).mean((2, 3)))
    with torch.no_grad():
        expected = model.wide(F.relu(model.body(IMAGES))).clamp(min=0)
    backprojection = Clear(model).forward(IMAGES)
    torch.testing.assert_close(backprojection.class_responses, expected)
    torch.testing.assert_close(backprojection.logits, expected.mean((2, 3)))


@pytest.mark.parametrize(
    "head",
    [
        lambda model, maps: model.flat(maps.flatten(1)),
        lambda model, maps: model.whole(maps).flatten(1),
        lambda model, maps: model.quarters(F.adaptive_max_pool2d(maps, 2).flatten(1)),
        lambda model, maps: model.linear(F.adaptive_max_pool2d(maps, 1).flatten(1)),
    ],
)
def test_classes_decided_by_one_vector_have_responses_of_one_pixel(head: Callable[[Headed, Tensor], Tensor]) -> None:
    model = Headed(head)
    backprojection = Clear(model).forward(IMAGES)
    expected = model(IMAGES).detach()
    torch.testing.assert_close(backprojection.class_responses, expected[:, :, None, None])
    torch.testing.assert_close(backprojection.logits, expected)


@pytest.mark.parametrize(
    "end", [lambda scores: scores.softmax(1), lambda scores: F.log_softmax(scores, dim=1), nn.Softmax(dim=-1)]
)
def test_what_follows_the_scores_changes_nothing(end: Callable[[Tensor], Tensor]) -> None:
    def plain(model: Headed, maps: Tensor) -> Tensor:
        return model.linear(maps.mean((2, 3)))

    ended = Clear(Headed(lambda model, maps: end(plain(model, maps))))(IMAGES)
    expected = Clear(Headed(plain))(IMAGES)
    assert torch.equal(ended.logits, expected.logits)
    assert torch.equal(ended.dominant_response, expected.dominant_response)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(lambda model, maps: model.linear(maps.mean((2, 3)))[:, [3, 1, 0, 2]], id="classes reordered"),
        pytest.param(lambda model, maps: model.linear(maps.mean((2, 3)))[:, 1:], id="a class cut off"),
        pytest.param(lambda model, maps: model.linear(F.avg_pool2d(maps, 4).flatten(1)), id="average of a corner"),
        pytest.param(lambda model, maps: model.linear(maps.mean((2, 3))) / 2.5, id="temperature"),
        pytest.param(
            lambda model, maps: model.linear(F.dropout(maps.mean((2, 3)), training=True)), id="dropout in training mode"
        ),
    ],
)
def test_scores_are_those_of_the_model_or_the_head_is_not_known(head: Callable[[Headed, Tensor], Tensor]) -> None:
    model = Headed(head)
    try:
        logits = Clear(model)(IMAGES).logits
    except UnsupportedModel:
        return
    torch.testing.assert_close(logits, model(IMAGES).detach())


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (lambda model, maps: maps.mean((2, 3)).flip(1), "flip"),
        (lambda model, maps: model.linear(maps.sum((2, 3))).tanh(), "tanh"),
        (lambda model, maps: torch.zeros(len(maps), 3), "nothing that depends on the input"),
        (lambda model, maps: model.linear(maps.mean((2, 3))).detach(), "(detach|nothing that depends on the input)"),
    ],
)
def test_no_head_says_what_was_looked_for_and_found(head: Callable[[Headed, Tensor], Tensor], found: str) -> None:
    looked_for = "convolution → global average, .*, global average → linear, flatten → linear, tokens → linear"
    with pytest.raises(UnsupportedModel, match=rf"looked for {looked_for}, found '?[a-z]*{found}"):
        Clear(Headed(head))(IMAGES)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda model, maps: (model.linear(maps.mean((2, 3))), maps), "returns tuple"),
        (lambda model, maps: {"logits": model.linear(maps.mean((2, 3)))}, "returns dict"),
        (lambda model, maps: model.linear(maps.mean((2, 3)))[:, 0], r"shape \(3,\)"),
    ],
)
def test_output_that_is_not_scores(head: Callable[[Headed, Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        Clear(Headed(head))(IMAGES)


def test_enter_by_hand() -> None:
    """Two samples send back classes 2 and 0 over 1 × 2 positions."""
    seeds, classes = torch.tensor([[[1.0, 2]], [[3, 0]]]), torch.tensor([2, 0])
    responses = torch.zeros(2, 3, 1, 2)
    whole = Head(responses, responses, None).enter(seeds, classes)
    assert whole[:, :, 0].tolist() == [[[0, 0], [0, 0], [1, 2]], [[3, 0], [0, 0], [0, 0]]]

    weight = torch.tensor([[1.0, -1], [5, 5], [2, 10]])
    maps = Head(responses, torch.zeros(2, 2, 1, 2), weight).enter(seeds, classes)
    assert maps[:, :, 0].tolist() == [[[2, 4], [10, 20]], [[3, 0], [-3, 0]]]

    vectors = Head(torch.zeros(2, 3, 1, 1), torch.zeros(2, 2), weight).enter(torch.tensor([[[2.0]], [[3]]]), classes)
    assert vectors.tolist() == [[4, 20], [3, -3]]
