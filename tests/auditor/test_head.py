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
    """A head that is not found by itself: temperature, then scores turned over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU())
        self.scores = nn.Conv2d(5, CLASSES, 1)
        self.unused = nn.Linear(5, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.scores(self.body(images))
        return torch.logsumexp(scores.flatten(2), 2)


class Found(Unfound):
    def forward(self, images: Tensor) -> Tensor:
        return self.scores(self.body(images)).mean((2, 3))


@pytest.mark.parametrize("rule", ["linear", "guided", "lrp_epsilon"])
def test_named_head_is_the_one_that_would_be_found(rule: str) -> None:
    with pytest.raises(UnsupportedModel, match="looked for"):
        Clear(Unfound(), rule)(IMAGES)
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
