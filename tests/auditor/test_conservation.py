"""How much of what the classes send back arrives: small cases worked out by hand, and where it is too little."""

import pytest
import torch
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel, measure_conservation

IMAGE = torch.tensor([[[[2.0, 1.0]]]])


def layer(weights: list[float], bias: list[float] | None = None) -> nn.Conv2d:
    """1 × 1, of one channel."""
    made = nn.Conv2d(1, len(weights), 1, bias=bias is not None)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(weights)[:, None, None, None])
        if bias is not None:
            made.bias.copy_(torch.tensor(bias))
    return made


def with_head(*body: nn.Module, kernel: float = 1.0) -> nn.Module:
    """Behind a body whose maps have one channel, class 0 is what a convolution makes of them; class 1 is its opposite."""
    return nn.Sequential(*body, layer([kernel, -kernel]), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("rule", ["lrp_epsilon", "lrp_zplus", "lrp_epsilon_plus_flat", "gradient_times_input"])
def test_without_constants_all_arrives(rule: str) -> None:
    found = measure_conservation(Clear(with_head(layer([3.0]), nn.ReLU()), rule), IMAGE)
    assert found is not None
    assert (found.kept, found.size) == pytest.approx((1, 1), rel=1e-5)
    assert (found.operation, found.taken) == (None, 0)


def test_what_a_bias_takes_is_its_own() -> None:
    """3·2 + 2 = 8, 3·1 + 2 = 5: of 13 sent back, 9 arrive under ε, and the biases take 4 of 13. z⁺ gives them nothing."""
    model = with_head(layer([3.0], [2.0]), nn.ReLU())
    found = measure_conservation(Clear(model, "lrp_epsilon"), IMAGE)
    assert found is not None
    assert (found.kept, found.size, found.taken) == pytest.approx((9 / 13, 9 / 13, 4 / 13), rel=1e-5)
    assert found.operation == "'conv2d' (1 of 2)"
    found = measure_conservation(Clear(model, "lrp_zplus"), IMAGE)
    assert found is not None
    assert found.kept == pytest.approx(1, rel=1e-5)


def test_parts_that_cancel_are_seen_without_signs() -> None:
    """3·2 − 4 = 2, 3·1 − 4 = −1, a LeakyReLU of slope 1: 1 is class 0's, at one of two places; the bias took −4 of 2 sent."""
    found = measure_conservation(Clear(with_head(layer([3.0], [-4.0])), "lrp_epsilon"), IMAGE)
    assert found is not None
    # Class 0 sends 2 from the left, where 6 arrives; class 1 sends 1 from the right, where −3 · −1 / −1 does: 6 / 2 and −3 / 1.
    assert sorted([found.kept, found.size]) == pytest.approx([-3, 3], rel=1e-5)
    assert found.taken == pytest.approx((3 - 3) / 3, abs=1e-5)


class ClassToken(nn.Module):
    """The mean of the image's two pixels and a token of 3, which no image changes."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = torch.cat([torch.full((len(images), 1, 1), 3.0), images.flatten(2)], 2)
        return tokens.mean(2) @ torch.tensor([[1.0, -1.0]])


@pytest.mark.parametrize("rule", ["lrp_epsilon", "lrp_zplus"])
def test_what_goes_to_a_token_that_is_a_constant_is_lost_there(rule: str) -> None:
    """Of 3 + 2 + 1, the image has a half."""
    found = measure_conservation(Clear(ClassToken(), rule), IMAGE)
    assert found is not None
    assert (found.kept, found.taken) == pytest.approx((1 / 2, 1 / 2), rel=1e-5)
    assert found.operation == "'cat' (1 of 1)"


def test_operation_is_named_whatever_is_written_into_its_output() -> None:
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(-2)
    found = measure_conservation(Clear(with_head(layer([1.0]), norm, nn.ReLU(inplace=True)), "lrp_epsilon"), IMAGE)
    assert found is not None
    assert found.operation == "'batch_norm' (1 of 1)"


@pytest.mark.parametrize("reduction", ["sum", "l2", "max"])
def test_channels_are_added_up_whatever_the_reduction_of_the_maps(reduction: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = measure_conservation(Clear(model, "lrp_epsilon", reduction=reduction), torch.randn(4, 3, 5, 5))
    assert found is not None
    assert found.kept == pytest.approx(1, rel=1e-4)


def test_some_classes_of_each_sample_are_measured_among_those_that_compete() -> None:
    """Of six classes, those with a bias are left out of the competition."""
    model = nn.Sequential(layer([1.0] * 6, [9.0] * 3 + [0.0] * 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = measure_conservation(Clear(model, "lrp_epsilon", classes=[3, 4, 5]), IMAGE)
    assert found is not None
    assert found.kept == pytest.approx(1, rel=1e-5)
    found = measure_conservation(Clear(model, "lrp_epsilon", top_k=2), IMAGE)
    assert found is not None
    assert found.kept == pytest.approx(3 / 21, rel=1e-5)


def test_nothing_is_measured_where_there_is_nothing_to_conserve() -> None:
    model = with_head(layer([3.0]))
    for rule in ("linear", "deconv", "gradient", "guided"):
        assert measure_conservation(Clear(model, rule), IMAGE) is None
    assert measure_conservation(Clear(model, "lrp_epsilon"), 0 * IMAGE) is None, "an image of zeros receives nothing"
    with_blank = measure_conservation(Clear(model, "lrp_epsilon"), torch.cat([IMAGE, 0 * IMAGE, 0 * IMAGE]))
    assert with_blank is not None
    assert with_blank.kept == pytest.approx(1, rel=1e-5)
    spoiled = torch.cat([IMAGE, torch.full_like(IMAGE, torch.nan)])
    assert measure_conservation(Clear(model, "lrp_epsilon"), spoiled) == measure_conservation(Clear(model, "lrp_epsilon"), IMAGE)
    silent = nn.Sequential(layer([-1.0, -2.0]), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert measure_conservation(Clear(silent, "lrp_epsilon"), IMAGE) is None, "no class has positive response"


OTHERS = "rules that share nothing: linear, deconv, gradient, guided, gradient_times_input"


@pytest.mark.parametrize(
    ("rule", "arrives", "lost"),
    [
        # 1 of 2 + 98 = 100 and of 1 + 98 = 99: 3 of 199.
        (
            "lrp_epsilon",
            "1.5 %",
            "98.5 %",
        ),
        # −2 + 98 has no positive contribution: z⁺ gives nothing to anyone.
        ("lrp_zplus", "0 %", "100 %"),
    ],
)
def test_rule_that_loses_nearly_all_is_refused_with_the_operation(rule: str, arrives: str, lost: str) -> None:
    model = with_head(layer([-1.0 if rule == "lrp_zplus" else 1.0], [98.0]), nn.ReLU())
    with pytest.raises(UnsupportedModel) as caught:
        measure_conservation(Clear(model, rule), IMAGE)
    assert str(caught.value) == (
        f"rule '{rule}' says nothing of this model: of what the classes send back, {arrives} arrives at the image, less than "
        f"10 %; constants take most at operation 'conv2d' (1 of 2), {lost}; {OTHERS}"
    )
    found = measure_conservation(Clear(model, "gradient_times_input"), IMAGE)
    assert found is not None, "it need not add up"


def test_rule_whose_parts_cancel_beyond_float32_is_refused_with_the_operation_where_they_grow() -> None:
    """10⁶·2 − 1,999,999 = 1: of 1 sent back, the bias takes −1,999,999 and the pixel 2,000,000."""
    model = with_head(layer([1.0]), layer([1e6], [-1_999_999.0]), nn.ReLU())
    with pytest.raises(UnsupportedModel) as caught:
        measure_conservation(Clear(model, "lrp_epsilon", precision="float64"), IMAGE[..., :1])
    assert "parts that cancel come to 2e+06 times what the classes send back, too much for float32" in str(caught.value)
    assert "they grow most at operation 'conv2d' (2 of 3)" in str(caught.value)


def test_what_is_not_finite_is_refused_with_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rule of ours does so: here denominators are not stabilised, and 0 / 0 is taken for a share."""
    monkeypatch.setattr(
        "auditor.operations.lrp.reciprocal", lambda denominators: denominators / denominators.square() + torch.nan
    )
    with pytest.raises(UnsupportedModel, match=r"what is sent back is not finite behind operation 'conv2d' \(2 of 2\)"):
        measure_conservation(Clear(with_head(layer([3.0])), "lrp_epsilon"), IMAGE)
