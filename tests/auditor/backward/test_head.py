"""Where classes are decided: z_L, the logits that follow from it, and where a class enters the way back."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel
from auditor.backward.head import Head

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

    def head_of(self, maps: Tensor) -> Tensor:
        return self.head(self, maps)

    def forward(self, images: Tensor) -> Tensor:
        return self.head_of(F.relu(self.body(images)))


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


def channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)


def by_pointwise(model: Headed, pooled: Tensor) -> Tensor:
    """The linear layer as a 1 × 1 convolution of averaged maps (N, K, 1, 1)."""
    return F.conv2d(pooled, model.linear.weight[:, :, None, None], model.linear.bias)


AVERAGED |= {
    "a 1 × 1 convolution behind": lambda model, maps: by_pointwise(model, F.adaptive_avg_pool2d(maps, 1)).flatten(1),
    "the same, left as it is": lambda model, maps: by_pointwise(model, maps.mean((2, 3), keepdim=True)),
    "channels last": lambda model, maps: model.linear(channels_last(maps).mean((1, 2))),
    "channels last and back": lambda model, maps: model.linear(
        F.adaptive_avg_pool2d(channels_last(maps).contiguous().permute(0, 3, 1, 2), 1).flatten(1)
    ),
    "mean of tokens": lambda model, maps: model.linear(maps.flatten(2).transpose(1, 2).mean(1)),
    "adaptive over tokens": lambda model, maps: model.linear(F.adaptive_avg_pool1d(maps.flatten(2), 1).flatten(1)),
    "reshape, mean": lambda model, maps: model.linear(maps.reshape(len(maps), 5, 36).mean(-1)),
    "the last axis twice": lambda model, maps: model.linear(maps.mean(-1).mean(-1)),
    "a sum, divided": lambda model, maps: model.linear(maps.sum((2, 3)) / 36),
    "sums, divided by": lambda model, maps: model.linear(maps.sum(-1).div(6).sum(-1).div(6)),
    "einsum, divided": lambda model, maps: model.linear(torch.einsum("nchw->nc", maps) / 36),
    "product with ones": lambda model, maps: model.linear((maps.flatten(2) @ torch.ones(36, 1) / 36).squeeze(2)),
    "addmm": lambda model, maps: torch.addmm(model.linear.bias, maps.mean((2, 3)), model.linear.weight.t()),
    "product, sum": lambda model, maps: maps.mean((2, 3)) @ model.linear.weight.t() + model.linear.bias,
    "einsum as the layer": lambda model, maps: (
        torch.einsum("nk,ck->nc", maps.mean((2, 3)), model.linear.weight) + model.linear.bias
    ),
    "a linear layer at each position": lambda model, maps: model.linear(channels_last(maps)).mean((1, 2)),
    "maps scaled in place": lambda model, maps: (
        F.linear(maps.mul(1.0).mul_(2).mean((2, 3)), model.linear.weight / 2) + model.linear.bias
    ),
    "a sum, divided in place": lambda model, maps: model.linear(maps.sum((2, 3)).div_(36)),
    "scaled in place and back": lambda model, maps: (
        model.linear(maps.mean((2, 3)).mul_(4)).sub_(model.linear.bias).div_(4).add_(model.linear.bias)
    ),
    "half of it twice": lambda model, maps: sum(0.5 * model.linear(maps.mean((2, 3))) for _ in range(2)),
    "softmax behind, in percent": lambda model, maps: 100 * model.linear(maps.mean((2, 3))).softmax(1),
}


@pytest.mark.parametrize("spelling", AVERAGED)
def test_linear_behind_a_global_average_is_a_pointwise_convolution_before_it(spelling: str) -> None:
    model = Headed(AVERAGED[spelling])
    backprojection = Clear(model).forward(IMAGES)
    with torch.no_grad():
        maps = F.relu(model.body(IMAGES))
        expected = class_responses_by_loops(maps, model.linear.weight, model.linear.bias)
    torch.testing.assert_close(backprojection.class_responses, expected)
    torch.testing.assert_close(backprojection.logits, expected.mean((2, 3)))


@pytest.mark.parametrize("spelling", AVERAGED)
@pytest.mark.parametrize("rule", ["gradient", "lrp_epsilon"])
def test_maps_are_the_same_however_the_network_is_written(spelling: str, rule: str) -> None:
    expected = Clear(Headed(AVERAGED["mean, linear"]), rule)(IMAGES)
    maps = Clear(Headed(AVERAGED[spelling]), rule)(IMAGES)
    assert len(maps.dominant_class.unique()) > 2
    torch.testing.assert_close(maps.dominant_response, expected.dominant_response, rtol=1e-4, atol=1e-5)
    assert (maps.dominant_class == expected.dominant_class).float().mean() > 0.98


def heads_of(model: Headed, maps: Tensor) -> list[Tensor]:
    """(N, C) each, of two layers."""
    return [model.linear(maps.mean((2, 3))), F.linear(maps.mean((2, 3)), model.linear.weight.flip(1))]


MEMBERS: dict[str, Callable[[Headed, Tensor], Tensor]] = {
    "stacked before": lambda model, maps: torch.stack(heads_of(model, maps), 0).mean(0),
    "stacked between": lambda model, maps: torch.stack(heads_of(model, maps), 1).mean(1),
    "stacked behind": lambda model, maps: torch.stack(heads_of(model, maps), -1).mean(-1),
    "of one layer, viewed": lambda model, maps: torch.cat(heads_of(model, maps), 1).view(len(maps), 2, -1).mean(1),
    "scaled, summed": lambda model, maps: (torch.stack(heads_of(model, maps), 1) * 0.5).sum(1),
}


@pytest.mark.parametrize("spelling", MEMBERS)
@pytest.mark.parametrize("rule", ["gradient", "lrp_zplus"])
def test_members_of_an_ensemble_are_no_positions(spelling: str, rule: str) -> None:
    expected = Clear(Headed(lambda model, maps: sum(heads_of(model, maps)) / 2), rule).forward(IMAGES)
    found = Clear(Headed(MEMBERS[spelling]), rule).forward(IMAGES)
    assert found.head.positions == 36
    torch.testing.assert_close(found.class_responses, expected.class_responses)


BESIDE: dict[str, Callable[[Headed, Tensor], Tensor]] = {
    "a token before": lambda model, maps: torch.cat([torch.full((len(maps), 5, 1), 3.0), maps.flatten(2)], 2),
    "a border": lambda model, maps: F.pad(maps, (1, 1, 0, 2), value=0.7).flatten(2),
    "added everywhere": lambda model, maps: (maps + torch.linspace(0, 1, 36).view(6, 6)).flatten(2),
}
"""Constants among, or at, the positions of which the average is taken."""


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("rule", ["gradient", "linear", "lrp_epsilon"])
def test_a_constant_in_the_average_is_in_the_class_responses(beside: str, rule: str) -> None:
    model = Headed(lambda model, maps: model.linear(BESIDE[beside](model, maps).mean(2)))
    backprojection = Clear(model, rule).forward(IMAGES)
    torch.testing.assert_close(backprojection.logits, model(IMAGES).detach())
    assert backprojection.head.positions == BESIDE[beside](model, IMAGES.new_zeros(1, 5, 6, 6)).shape[2]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    "spelling",
    ["a 1 × 1 convolution behind", "channels last", "adaptive over tokens", "einsum, divided", "softmax behind, in percent"],
)
def test_maps_of_an_exported_program_are_the_same(spelling: str, decomposed: bool) -> None:
    model = Headed(AVERAGED[spelling]).eval()
    program = torch.export.export(model, (IMAGES,))
    found = Clear(program.run_decompositions() if decomposed else program).forward(IMAGES)
    torch.testing.assert_close(found.class_responses, Clear(model).forward(IMAGES).class_responses)


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.03)])
@pytest.mark.parametrize("spelling", ["mean, linear", "a sum, divided", "channels last", "half of it twice", "product, sum"])
def test_positions_do_not_depend_on_the_precision(spelling: str, precision: str, tolerance: float) -> None:
    expected = Clear(Headed(AVERAGED[spelling])).forward(IMAGES).class_responses
    found = Clear(Headed(AVERAGED[spelling]), precision=precision).forward(IMAGES).class_responses
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_a_prior_of_more_precision_than_the_network_leaves_its_positions() -> None:
    model = Headed(lambda model, maps: model.linear(maps.mean((2, 3))) + torch.tensor([0.1, 0.3, -0.2, 0.7]))
    assert Clear(model, precision="bfloat16").forward(IMAGES).class_responses.shape == (3, CLASSES, 6, 6)


class Affine(Headed):
    """Behind the average: a norm with a history, a second layer, a second body."""

    def __init__(self, head: Callable[["Affine", Tensor], Tensor]) -> None:
        super().__init__(head)  # type: ignore[arg-type]
        self.norm, self.second, self.other = nn.BatchNorm1d(5), nn.Linear(5, CLASSES), nn.Conv2d(2, 5, 3, padding=1)
        with torch.no_grad():
            for values in (self.norm.running_mean, self.norm.weight, self.norm.bias):
                values.normal_()


AFFINE: dict[str, Callable[[Affine, Tensor], Tensor]] = {
    "temperature": lambda model, maps: model.linear(maps.mean((2, 3))) / 2.5,
    "temperature in place": lambda model, maps: model.linear(maps.mean((2, 3))).div_(2.5),
    "prior": lambda model, maps: model.linear(maps.mean((2, 3))) + torch.tensor([0.5, -1, 2, 0]),
    "norm, linear": lambda model, maps: model.linear(model.norm(maps.mean((2, 3)))),
    "two layers": lambda model, maps: F.linear(model.linear(maps.mean((2, 3))), torch.eye(CLASSES).roll(1, 0) - 0.2),
    "not divided": lambda model, maps: model.linear(maps.sum((2, 3))),
    "mean of two layers": lambda model, maps: (lambda v: (model.linear(v) + model.second(v)) / 2)(maps.mean((2, 3))),
    "mean of a stack": lambda model, maps: torch.stack([model.linear(maps.mean((2, 3))), model.second(maps.mean((2, 3)))]).mean(
        0
    ),
    "classes in another order": lambda model, maps: model.linear(maps.mean((2, 3)))[:, [3, 1, 0, 2]],
    "a class cut off": lambda model, maps: model.linear(maps.mean((2, 3)))[:, 1:],
    "classes chosen": lambda model, maps: model.linear(maps.mean((2, 3))).index_select(1, torch.tensor([2, 0])),
    "turned over": lambda model, maps: model.linear(maps.mean((2, 3))).flip(1),
    "no layer, turned over": lambda model, maps: maps.mean((2, 3)).flip(1),
    "less their mean": lambda model, maps: (lambda z: z - z.mean(1, keepdim=True))(model.linear(maps.mean((2, 3)))),
    "a number of samples in a constant": lambda model, maps: torch.cat(
        [maps.new_zeros(len(maps), 1), model.linear(maps.mean((2, 3)))], 1
    ),
    "a number of samples in a shape": lambda model, maps: (
        model.linear(maps.mean((2, 3))).view(len(maps), 2, 2).flip(1).reshape(len(maps), -1) / 2
    ),
    "pooled, with temperature": lambda model, maps: model.wide(maps).mean((2, 3)) / 4,
}


@pytest.mark.parametrize("ending", AFFINE)
@pytest.mark.parametrize("rule", ["linear", "lrp_zplus"])
def test_a_position_has_the_scores_that_the_model_had_if_every_position_were_like_it(ending: str, rule: str) -> None:
    """The definition, literally: what stands behind the average is asked of maps that are one position's everywhere."""
    model = Affine(AFFINE[ending]).eval()
    backprojection = Clear(model, rule).forward(IMAGES)
    responses = backprojection.class_responses
    with torch.no_grad():
        maps = F.relu(model.body(IMAGES))
        maps, head = (model.wide(maps), lambda maps: maps.mean((2, 3)) / 4) if "pooled" in ending else (maps, model.head_of)
        for y, x in torch.cartesian_prod(torch.arange(6), torch.arange(6)).tolist():
            torch.testing.assert_close(responses[:, :, y, x], head(maps[:, :, y, x, None, None].expand_as(maps)))
    torch.testing.assert_close(backprojection.logits, model(IMAGES).detach())


@pytest.mark.parametrize("ending", AFFINE)
def test_under_gradient_autograd_sends_the_same_back(ending: str) -> None:
    """Of one position alone, with the seed of the class: autograd, from z_L as the model itself would make it there."""
    model = Affine(AFFINE[ending]).eval()
    backprojection = Clear(model, "gradient").forward(IMAGES)
    images = IMAGES.clone().requires_grad_()
    maps = F.relu(model.body(images))
    maps, head = (model.wide(maps), lambda maps: maps.mean((2, 3)) / 4) if "pooled" in ending else (maps, model.head_of)
    places = torch.cartesian_prod(torch.arange(6), torch.arange(6)).tolist()
    scores = torch.stack([head(maps[:, :, y, x, None, None].expand_as(maps)) for y, x in places], 2)
    for label in range(scores.shape[1]):
        seeds = scores[:, label].detach().clamp(min=0)
        (expected,) = torch.autograd.grad(scores[:, label], images, seeds, retain_graph=True)
        torch.testing.assert_close(backprojection.send_back(torch.full((3,), label)), expected.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ending", ["temperature", "norm, linear", "classes chosen", "mean of two layers"])
def test_what_is_folded_is_the_same(ending: str) -> None:
    model = Affine(AFFINE[ending]).eval()
    model.head, head = (lambda model, maps: head(model, model.body(maps[:, :2]))), model.head  # linear all the way
    clear, expected = Clear(model, "linear"), Clear(model, "linear")(IMAGES)
    assert clear.fold(IMAGES, 1 << 30) < 1e-5
    maps = clear(IMAGES)
    torch.testing.assert_close(maps.dominant_response, expected.dominant_response, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps.logits, expected.logits)


class Ensemble(Affine):
    """Two networks whose scores are averaged, the second's maps of another size where it is `cropped`."""

    def __init__(self, cropped: bool) -> None:
        super().__init__(lambda model, maps: maps)
        self.cropped = cropped

    def second_maps(self, images: Tensor) -> Tensor:
        return F.leaky_relu(self.other(images[..., :4] if self.cropped else images))

    def forward(self, images: Tensor) -> Tensor:
        first = self.linear(F.relu(self.body(images)).mean((2, 3)))
        return 0.5 * (first + self.second(self.second_maps(images).mean((2, 3))))


def test_an_ensembles_class_responses_are_averaged_where_their_positions_agree() -> None:
    model = Ensemble(cropped=False).eval()
    backprojection = Clear(model, "gradient").forward(IMAGES)
    with torch.no_grad():
        first = class_responses_by_loops(F.relu(model.body(IMAGES)), model.linear.weight, model.linear.bias)
        second = class_responses_by_loops(model.second_maps(IMAGES), model.second.weight, model.second.bias)
    torch.testing.assert_close(backprojection.class_responses, (first + second) / 2)
    assert backprojection.notes() == []


def turned_over_batch(model: Headed, maps: Tensor) -> Tensor:
    scores = model.linear(maps.mean((2, 3)))
    return scores + scores.flip(0)


def written_into(model: Headed, maps: Tensor) -> Tensor:
    scores = model.linear(maps.mean((2, 3)))
    scores[:, 1].mul_(3)
    return scores


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    ("model", "before"),
    [
        pytest.param(lambda: Ensemble(cropped=True), 24, id="ensemble of two sizes"),
        pytest.param(lambda: Headed(turned_over_batch), 36, id="samples that are mixed"),
        pytest.param(lambda: Headed(written_into), 36, id="written into a view of the scores"),
        pytest.param(
            lambda: Headed(lambda model, maps: model.linear(maps.mean((2, 3)) / maps.std())), 36, id="divided by a response"
        ),
        pytest.param(
            lambda: Headed(lambda model, maps: model.linear(F.layer_norm(maps.mean((2, 3)), (5,)))), 36, id="layer norm"
        ),
        pytest.param(lambda: Headed(lambda model, maps: model.flat(maps.flatten(1))), 36, id="flatten"),
        pytest.param(
            lambda: Headed(lambda model, maps: model.linear(F.relu(model.body(maps[:, :2])).amax((2, 3)))), 36, id="maximum"
        ),
        pytest.param(lambda: Headed(lambda model, maps: model.linear(F.avg_pool2d(maps, 4).flatten(1))), 36, id="a corner"),
        pytest.param(lambda: Headed(lambda model, maps: model.linear(maps.flatten(2).transpose(1, 2))[:, 0]), 36, id="one token"),
        pytest.param(
            lambda: Headed(lambda model, maps: model.linear(torch.cat([maps, maps.flip(3)]).mean((2, 3))).view(2, -1, 4).mean(0)),
            36,
            id="test-time augmentation",
        ),
    ],
)
def test_scores_that_are_no_average_over_positions_have_one_and_it_is_said(
    model: Callable[[], nn.Module], before: int, samples: int
) -> None:
    network, images = model().eval(), IMAGES[:samples]
    backprojection = Clear(network, "gradient").forward(images)
    expected = network(images).detach()
    torch.testing.assert_close(backprojection.class_responses, expected[:, :, None, None])
    (note,) = backprojection.notes()
    assert f"z_L has one position, and the features before it {before}:" in note
    given = images.clone().requires_grad_()
    seeds = expected.clamp(min=0) * F.one_hot(torch.full((samples,), 2), CLASSES)
    (slopes,) = torch.autograd.grad(network(given), given, seeds)
    torch.testing.assert_close(backprojection.send_back(torch.full((samples,), 2)), slopes.sum(1), rtol=1e-4, atol=1e-5)


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


def test_a_pointwise_convolution_that_moves_places_goes_back_to_where_they_came_from() -> None:
    """Stride and padding that leave the size as it was: 6 × 6 places, read from every second of the padded ones."""
    model = Headed(lambda model, maps: F.conv2d(maps, model.pointwise.weight, None, stride=2, padding=3).mean((2, 3)))
    images = IMAGES.clone().requires_grad_()
    responses = F.conv2d(model.body(images), model.pointwise.weight, None, stride=2, padding=3)
    backprojection = Clear(model, "linear").forward(IMAGES)
    assert responses.shape == backprojection.class_responses.shape
    for label in range(CLASSES):
        (expected,) = torch.autograd.grad(responses[:, label], images, backprojection.seeds[:, label], retain_graph=True)
        torch.testing.assert_close(backprojection.send_back(torch.full((3,), label)), expected.sum(1))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_pointwise_convolution_of_a_decomposed_program_is_entered_before() -> None:
    """Where its operations are the fewest, `convolution` takes its groups as the last of nine arguments."""
    model = Headed(lambda model, maps: model.pointwise(maps).mean((2, 3))).eval()
    program = torch.export.export(model, (IMAGES,)).run_decompositions()
    found, expected = Clear(program).forward(IMAGES), Clear(model).forward(IMAGES)
    assert found.head.weight is not None
    labels = torch.tensor([0, 1, 2])
    torch.testing.assert_close(found.send_back(labels), expected.send_back(labels))


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


def test_dropout_in_training_mode_is_an_error() -> None:
    model = Headed(lambda model, maps: model.linear(F.dropout(maps.mean((2, 3)), training=True)))
    with pytest.raises(UnsupportedModel, match="training mode"):
        Clear(model)(IMAGES)


def test_scores_that_a_rule_cannot_send_back_say_which_rules_can() -> None:
    model = Headed(lambda model, maps: model.pointwise(maps).flatten(2).quantile(0.9, 2))
    with pytest.raises(UnsupportedModel, match=r"operation 'quantile' is not known: .* rules that would work: gradient"):
        Clear(model, "linear")(IMAGES)
    assert Clear(model, "gradient").forward(IMAGES).notes()


class Tokens(nn.Module):
    """A class token and patches of 3 × 3; a layer that mixes tokens and one that mixes channels; linear."""

    def __init__(self, pooled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(2, 5, 3, stride=3)
        self.class_token = nn.Parameter(torch.randn(1, 1, 5))
        self.tokens, self.channels, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.pooled = pooled

    def before_pooling(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1)
        mixed = F.gelu(self.tokens(tokens.transpose(1, 2)).transpose(1, 2))
        return F.relu(self.channels(mixed)) + tokens

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.pooled(self.before_pooling(images)))


@pytest.mark.parametrize(
    "pooled",
    [lambda tokens: tokens[:, 0], lambda tokens: tokens.select(1, 0), lambda tokens: tokens[:, :1].squeeze(1)],
)
def test_class_token_has_one_response_a_class(pooled: Callable[[Tensor], Tensor]) -> None:
    model = Tokens(pooled)
    backprojection = Clear(model).forward(IMAGES)
    torch.testing.assert_close(backprojection.class_responses, model(IMAGES).detach()[:, :, None, None])
    assert backprojection.head.root.shape == (3, 5), "it enters at the token, before the linear layer"


@pytest.mark.parametrize("pooled", [lambda tokens: tokens.mean(1), lambda tokens: torch.mean(tokens, dim=-2)])
def test_mean_of_tokens_has_a_response_a_token(pooled: Callable[[Tensor], Tensor]) -> None:
    model = Tokens(pooled)
    backprojection = Clear(model).forward(IMAGES)
    with torch.no_grad():
        tokens = model.before_pooling(IMAGES)
    expected = class_responses_by_loops(tokens.transpose(1, 2)[..., None], model.last.weight, model.last.bias)
    torch.testing.assert_close(backprojection.class_responses, expected)
    torch.testing.assert_close(backprojection.logits, model(IMAGES).detach())


@pytest.mark.parametrize("pooled", [lambda tokens: tokens[:, 0], lambda tokens: tokens.mean(1)])
def test_tokens_go_back_as_autograd_sends_their_seeds(pooled: Callable[[Tensor], Tensor]) -> None:
    """Under `gradient` there is nothing to differ: one positive number a class token or token, differentiated by torch."""
    model = Tokens(pooled)
    backprojection = Clear(model, "gradient").forward(IMAGES)
    images = IMAGES.clone().requires_grad_()
    tokens = model.before_pooling(images)
    scores = model.last(tokens[:, :1] if backprojection.class_responses.shape[2] == 1 else tokens)
    for label in range(CLASSES):
        seed = scores[..., label].detach().clamp(min=0)
        (expected,) = torch.autograd.grad(scores[..., label], images, seed, retain_graph=True)
        actual = backprojection.send_back(torch.full((3,), label))
        torch.testing.assert_close(actual, expected.sum(1), rtol=1e-4, atol=1e-6)


class Unfound(nn.Module):
    """A head that is not found by itself: behind its average stands a function that keeps the order of the classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU())
        self.scores = nn.Conv2d(5, CLASSES, 1)
        self.unused = nn.Linear(5, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return torch.sinh(self.scores(self.body(images)).mean((2, 3)))


class Found(Unfound):
    def forward(self, images: Tensor) -> Tensor:
        return self.scores(self.body(images)).mean((2, 3))


@pytest.mark.parametrize("rule", ["linear", "guided", "lrp_epsilon"])
def test_named_head_is_the_one_that_would_be_found(rule: str) -> None:
    named, found = Clear(Unfound(), rule, head="scores"), Clear(Found(), rule)
    for _ in range(2):
        torch.testing.assert_close(named(IMAGES).dominant_response, found(IMAGES).dominant_response, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strict", [True, False])
def test_named_head_is_a_node_of_an_exported_program(strict: bool) -> None:
    program = torch.export.export(Unfound().eval(), (IMAGES,), strict=strict)
    node = [node.name for node in program.graph.nodes if node.op == "call_function" and "conv2d" in node.name][-1]
    torch.testing.assert_close(Clear(program, head=node)(IMAGES).dominant_response, Clear(Found())(IMAGES).dominant_response)


@pytest.mark.parametrize("module", ["tokens", "vectors"])
def test_named_head_of_tokens_and_vectors(module: str) -> None:
    pooled: Callable[[Tensor], Tensor] = (lambda tokens: tokens.mean(1)) if module == "tokens" else (lambda tokens: tokens[:, 0])

    class Ended(Tokens):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.before_pooling(images)
            return 2 * (self.last(tokens).mean(1) if module == "tokens" else self.last(tokens[:, 0]))

    named, found = Clear(Ended(pooled), head="last"), Clear(Tokens(pooled))
    torch.testing.assert_close(named(IMAGES).dominant_response, found(IMAGES).dominant_response)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("score", "no module 'score' to be the head: did you mean 'scores'"),
        ("unused", "head 'unused' was not called in the forward pass"),
        ("body", r"head 'body' has an output of shape \(3, 5, 6, 6\), and the model 4 classes"),
    ],
)
def test_head_that_cannot_be_the_named_one(head: str, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        Clear(Unfound(), head=head)(IMAGES)


def test_no_node_of_that_name() -> None:
    program = torch.export.export(Unfound().eval(), (IMAGES,))
    with pytest.raises(UnsupportedModel, match="has no operation 'conv2d_2' to be the head: did you mean 'conv2d_1'"):
        Clear(program, head="conv2d_2")


class Auxiliary(Unfound):
    """Two heads; what the first returns is not used."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        self.scores(features).mean((2, 3))
        return self.unused(features.mean((2, 3)))


class LastToken(Tokens):
    """Names of heads that decide otherwise: the average of all tokens' scores is not the class token's."""

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.before_pooling(images))[:, 0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("model", "head"), [(Auxiliary(), "scores"), (LastToken(lambda tokens: tokens), "last")])
def test_a_named_head_that_does_not_decide_as_the_model_does_is_an_error(model: nn.Module, head: str, precision: str) -> None:
    images = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(7))
    with pytest.raises(UnsupportedModel, match=f"head '{head}' does not decide as the model does: in [1-8] of 8 images"):
        Clear(model, head=head, precision=precision)(images)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("end", [lambda z: z / 3 + 1, lambda z: z.softmax(1), lambda z: z**3, lambda z: (9 * z).sigmoid()])
def test_a_named_head_that_orders_the_classes_alike_is_taken(end: Callable[[Tensor], Tensor], precision: str) -> None:
    class Ended(Unfound):
        def forward(self, images: Tensor) -> Tensor:
            return end(self.scores(self.body(images)).mean((2, 3)))

    expected = Clear(Found(), precision=precision)(IMAGES)
    assert torch.equal(Clear(Ended(), head="scores", precision=precision)(IMAGES).logits, expected.logits)


def test_enter_by_hand() -> None:
    """Two samples send back classes 2 and 0 over 1 × 2 positions."""
    seeds, classes = torch.tensor([[[1.0, 2]], [[3, 0]]]), torch.tensor([2, 0])
    responses = torch.zeros(2, 3, 1, 2)
    whole = Head(responses, responses, None, responses).enter(seeds, classes)
    assert whole[:, :, 0].tolist() == [[[0, 0], [0, 0], [1, 2]], [[3, 0], [0, 0], [0, 0]]]

    weight = torch.tensor([[1.0, -1], [5, 5], [2, 10]])
    maps = Head(responses, torch.zeros(2, 2, 1, 2), weight, responses).enter(seeds, classes)
    assert maps[:, :, 0].tolist() == [[[2, 4], [10, 20]], [[3, 0], [-3, 0]]]

    scores = torch.zeros(2, 3, 1, 1)
    vectors = Head(scores, torch.zeros(2, 2), weight, scores).enter(torch.tensor([[[2.0]], [[3]]]), classes)
    assert vectors.tolist() == [[4, 20], [3, -3]]

    last = Head(responses, torch.zeros(2, 1, 2, 2), weight, responses, axis=3).enter(seeds, classes)
    assert last[:, 0].tolist() == [[[2, 10], [4, 20]], [[3, -3], [0, 0]]]
    tokens = Head(responses, torch.zeros(2, 2, 2), weight, responses, axis=2).enter(seeds.transpose(1, 2), classes)
    assert tokens.tolist() == [[[2, 10], [4, 20]], [[3, -3], [0, 0]]]
