"""Scores among what a model returns, and one score as two classes."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel, measure

IMAGES = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(3))

Outputs = namedtuple("Outputs", ["logits", "auxiliary"])


@dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor


class Attributed:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Returning(nn.Module):
    """A convolution, global average, linear, and what `end` makes of scores, other scores and features."""

    def __init__(self, end: Callable[..., Any], classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.last, self.other = nn.Conv2d(2, 5, 3), nn.Linear(5, classes), nn.Linear(5, classes)
        self.end = end

    def scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.last(F.relu(self.body(images)).mean((2, 3)))
        return scores

    def forward(self, images: Tensor) -> Any:
        features = F.relu(self.body(images)).mean((2, 3))
        return self.end(self.last(features), self.other(features), features)


@pytest.mark.parametrize(
    ("end", "taken"),
    [
        (lambda z, other, features: {"logits": z}, "returns dict: its 'logits' "),
        (lambda z, other, features: {"features": features, "logits": z}, "'logits'"),
        (lambda z, other, features: OrderedDict(out=z, aux=other), "returns OrderedDict: its 'out'"),
        (
            lambda z, other, features: {"prediction": z, "sizes": [1, 2], "maps": features[..., None].expand(-1, -1, 2)},
            "its 'prediction'",
        ),
        (lambda z, other, features: Outputs(z, other), "returns Outputs: its 'logits'"),
        (lambda z, other, features: Answer(None, z), "returns Answer: its 'logits'"),
        (lambda z, other, features: Attributed(z), "returns Attributed: its 'logits'"),
        (lambda z, other, features: (z,), "returns tuple: its '0'"),
        (lambda z, other, features: (z, other), "returns tuple: its '0'"),
        (lambda z, other, features: [None, z], "returns list: its '1'"),
    ],
)
def test_scores_are_taken_from_what_holds_them_and_it_is_said(end: Callable[..., Any], taken: str) -> None:
    model = Returning(end)
    backprojection = Clear(model).forward(IMAGES)
    torch.testing.assert_close(backprojection.logits, model.scores(IMAGES).detach())
    (note,) = backprojection.notes()
    assert taken in note
    assert Clear(Returning(lambda z, other, features: z)).forward(IMAGES).notes() == []


def test_scores_of_an_exported_program_are_taken_from_what_holds_them() -> None:
    model = Returning(lambda z, other, features: {"features": features, "logits": z}).eval()
    backprojection = Clear(torch.export.export(model, (IMAGES,))).forward(IMAGES)
    torch.testing.assert_close(backprojection.logits, model.scores(IMAGES).detach())
    assert "its 'logits'" in backprojection.notes()[0]


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda z, other, features: (features, z), r"several shapes \('0' \(6, 5\), '1' \(6, 3\)\): return the scores alone"),
        (lambda z, other, features: {"maps": z[..., None, None].expand(-1, -1, 2, 2)}, "returns dict: .* there are none"),
        (lambda z, other, features: None, "returns NoneType: .* there are none"),
        (lambda z, other, features: z[:, :, None].expand(-1, -1, 2), r"output has shape \(6, 3, 2\)"),
        (lambda z, other, features: z[0], r"output has shape \(3,\) for 6 images"),
        (lambda z, other, features: z.sum(), r"output has shape \(\)"),
        (lambda z, other, features: z.argmax(1), "the model returns int64, as if it had chosen a class: return the scores"),
        (lambda z, other, features: z > 0, "the model returns bool, as if it had chosen"),
        (lambda z, other, features: z.detach(), "carries no gradient from operation 'detach' on"),
        (lambda z, other, features: torch.zeros(6, 3), "what the model returns does not depend on its input"),
        (lambda z, other, features: (z.softmax(1) + other.softmax(1)) / 2, "from what 'softmax' gives.* before 'softmax'"),
        (lambda z, other, features: 2 - z.sigmoid(), "from what 'sigmoid' gives"),
        (lambda z, other, features: z.softmax(1)[:, 1], "from what 'softmax' gives"),
        (lambda z, other, features: z.softmax(1) / torch.tensor([0.1, 0.2, 0.7]), "from what 'softmax' gives"),
    ],
)
def test_outputs_that_are_no_scores(end: Callable[..., Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        Clear(Returning(end), "gradient")(IMAGES)


@pytest.mark.parametrize(
    ("end", "chosen", "factor"),
    [
        (lambda z: z.softmax(1), [0, 1, 2], 1),
        (lambda z: F.log_softmax(z, dim=-1).exp(), [0, 1, 2], 1),
        (lambda z: z.softmax(1).log(), [0, 1, 2], 1),
        (lambda z: 100 * z.softmax(1), [0, 1, 2], 1),
        (lambda z: z.softmax(1)[:, [2, 0]], [2, 0], 1),
        (lambda z: torch.sigmoid(z)[:, 1:], [1, 2], 1),
        (lambda z: torch.tanh(z).flip(1) + 1, [2, 1, 0], 1),
        (lambda z: (z / 2).softmax(1), [0, 1, 2], 0.5),
        (lambda z: 1 - z.sigmoid(), [0, 1, 2], -1),
    ],
)
def test_class_responses_are_before_what_keeps_the_order_of_the_classes(
    end: Callable[[Tensor], Tensor], chosen: list[int], factor: float
) -> None:
    model = Returning(lambda z, other, features: end(z))
    maps = Clear(model, "linear")(IMAGES)
    torch.testing.assert_close(maps.logits, factor * model.scores(IMAGES).detach()[:, chosen])
    assert torch.equal(maps.logits.argsort(1), model(IMAGES).argsort(1))


def test_a_softmax_over_the_samples_is_none_of_the_classes() -> None:
    """Three samples, three classes: the probabilities are the scores, for it is they that decide."""
    model = Returning(lambda z, other, features: z.softmax(0))
    torch.testing.assert_close(Clear(model, "gradient")(IMAGES[:3]).logits, model(IMAGES[:3]).detach())


PAIRED = {
    "a sigmoid's": lambda z: z.sigmoid(),
    "one number a sample": lambda z: z.sigmoid().squeeze(1),
    "a sigmoid's, one number": lambda z: torch.sigmoid(z[:, 0]),
    "as it is": lambda z: z,
    "as it is, one number": lambda z: z[:, 0],
    "1 - p and p": lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()], 1),
    "1 - p and p, stacked": lambda z: (lambda p: torch.stack([1 - p, p], -1))(z.sigmoid()[:, 0]),
}


@pytest.mark.parametrize("ending", PAIRED)
@pytest.mark.parametrize("rule", ["linear", "gradient", "lrp_epsilon"])
def test_one_score_is_that_of_class_1_and_class_0_has_none(ending: str, rule: str) -> None:
    """The same as two scores of which the first is 0 whatever the image."""
    two = Returning(lambda z, other, features: torch.cat([torch.zeros_like(z), z], 1), classes=1)
    model = Returning(lambda z, other, features: PAIRED[ending](z), classes=1)
    clear = Clear(model, rule)
    maps = clear(IMAGES)
    z = model.scores(IMAGES).detach()
    torch.testing.assert_close(maps.logits, torch.cat([torch.zeros_like(z), z], 1))
    torch.testing.assert_close(measure(clear, IMAGES, torch.zeros(6, dtype=torch.int64)).probability[:, 1:], z.sigmoid())
    (note,) = clear.forward(IMAGES).notes()
    assert "class 1" in note
    assert set(maps.dominant_class.unique().tolist()) == {-1, 1}
    expected = Clear(two, rule)(IMAGES)
    torch.testing.assert_close(maps.dominant_response, expected.dominant_response, rtol=1e-4, atol=1e-6)


def test_of_p_and_1_minus_p_class_0_has_the_response() -> None:
    model = Returning(lambda z, other, features: (lambda p: torch.cat([p, 1 - p], 1))(z.sigmoid()), classes=1)
    maps = Clear(model)(IMAGES)
    assert torch.equal(maps.logits.argmax(1), model(IMAGES).argmax(1))
    assert set(maps.dominant_class.unique().tolist()) == {-1, 0}


def test_not_and_yes_of_several_are_the_score_and_its_negative() -> None:
    model = Returning(lambda z, other, features: (lambda p: torch.cat([1 - p, p], 1))(z.sigmoid()))
    maps = Clear(model)(IMAGES)
    z = model.scores(IMAGES).detach()
    torch.testing.assert_close(maps.logits, torch.cat([-z, z], 1))
    assert torch.equal(maps.logits.argmax(1), model(IMAGES).argmax(1))


@pytest.mark.parametrize("ending", ["a sigmoid's", "1 - p and p"])
def test_a_named_head_of_one_score_is_the_one_that_is_found(ending: str) -> None:
    model = Returning(lambda z, other, features: PAIRED[ending](z), classes=1)
    named, found = Clear(model, head="last")(IMAGES), Clear(model)(IMAGES)
    torch.testing.assert_close(named.logits, found.logits)
    model.end = lambda z, other, features: PAIRED[ending](-z)
    with pytest.raises(UnsupportedModel, match="does not decide as the model does"):
        Clear(model, head="last")(IMAGES)


class Sure(Returning):
    """Linear all the way, so that an operator reaches the image."""

    def forward(self, images: Tensor) -> Any:
        return self.last(self.body(images).mean((2, 3))).sigmoid()


def test_one_score_folds() -> None:
    model = Sure(lambda: None, classes=1)
    clear, expected = Clear(model, "linear"), Clear(model, "linear")(IMAGES)
    clear.fold(IMAGES, 1 << 30)
    assert clear.operator is not None
    assert clear.operator.shortcut is not None
    torch.testing.assert_close(clear(IMAGES).dominant_response, expected.dominant_response)
    torch.testing.assert_close(clear(IMAGES).logits, expected.logits)


@pytest.mark.parametrize(
    ("end", "behind"),
    [
        (lambda z, *_: z.sigmoid().clamp(1e-6, 1 - 1e-6), "'sigmoid' gives, and 'clamp' is behind that"),
        (lambda z, *_: 1 / (1 + torch.exp(-z)), "'exp' gives"),
        (lambda z, *_: F.hardsigmoid(z), "'hardsigmoid' gives"),
        (lambda z, *_: z.sigmoid() - 0.3, "'sigmoid' gives, and 'sub' is behind that"),
        (lambda z, *_: 100 * z.sigmoid(), "'sigmoid' gives"),
        (lambda z, *_: z.sigmoid().square(), "'sigmoid' gives"),
        (lambda z, *_: z.exp(), "'exp' gives"),
    ],
)
def test_one_score_of_which_zero_is_not_the_middle_is_an_error(end: Callable[..., Any], behind: str) -> None:
    """Read as a score, a probability would be above 0 in every image, and each would be class 1."""
    with pytest.raises(UnsupportedModel, match=behind):
        Clear(Returning(end, 1))(IMAGES)


@pytest.mark.parametrize(
    "end",
    [
        lambda z, *_: z / 2 + 1,
        lambda z, *_: z.sigmoid(),
        lambda z, *_: z.tanh(),
        lambda z, *_: F.logsigmoid(z),
        lambda z, *_: F.logsigmoid(z).exp(),
        lambda z, *_: z.sigmoid().log().flatten(),
    ],
)
def test_one_score_that_is_read_as_the_model_means_it(end: Callable[..., Any]) -> None:
    model = Returning(end, 1)
    before = model.scores(IMAGES)[:, 0].detach()
    shifted = float(end(torch.zeros(1, 1)).reshape(()).item()) == 1
    assert torch.equal(Clear(model)(IMAGES).logits.argmax(1), ((before / 2 + 1 if shifted else before) > 0).long())


def test_probabilities_of_many_classes_that_something_was_done_to_are_an_error() -> None:
    with pytest.raises(UnsupportedModel, match="'softmax' gives, and 'clamp' is behind that: return the scores before 'softmax'"):
        Clear(Returning(lambda z, *_: z.softmax(1).clamp(1e-7, 1)))(IMAGES)
