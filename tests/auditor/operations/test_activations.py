"""What each operation sends back: rectifiers by hand, layers against their matrices; operations without a rule."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import Clear, UnsupportedModel
from auditor.backward.tape import Tape
from auditor.operations.rule_table import RULES
from tests.auditor import matrix_form
from tests.auditor.matrix_form import Node

RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place by position": lambda values: F.relu(values, True),
    "F.relu in place by name": lambda values: F.relu(input=values, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda values: values.relu(),
    "Tensor.relu_": lambda values: values.relu_(),
    "result of F.relu in place unused": lambda values: (F.relu(values, True), values)[1],
    "result of Tensor.relu_ unused": lambda values: (values.relu_(), values)[1],
}


def sent_back(operation: Callable[[Tensor], Tensor], values: Tensor, signal: Tensor, rule: str = "linear") -> Tensor:
    values = values.clone().requires_grad_()
    with Tape(rule) as tape:
        output = operation(values.clone())
    tape.check_path(output)
    return torch.autograd.grad(output, values, signal)[0]


@pytest.mark.parametrize("spelling", RECTIFIERS)
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("linear", [5, -6, 7, 8]),
        ("deconv", [5, 0, 7, 8]),
        ("gradient", [0, -6, 0, 8]),
        ("guided", [0, 0, 0, 8]),
    ],
)
def test_rectifier_by_hand(spelling: str, rule: str, expected: list[int]) -> None:
    values, signal = torch.tensor([-1.0, 2, 0, 3]), torch.tensor([5.0, -6, 7, 8])
    assert sent_back(RECTIFIERS[spelling], values, signal, rule).tolist() == expected


@pytest.mark.parametrize("spelling", RECTIFIERS)
def test_rectifier_still_rectifies_forward(spelling: str) -> None:
    values = torch.tensor([-1.0, 2, 0, 3], requires_grad=True)
    with Tape("linear"):
        output = RECTIFIERS[spelling](values.clone())
    assert output.tolist() == [0, 2, 0, 3]


def test_rule_ends_with_the_tape() -> None:
    """After success and after an error, a rectifier's gradient is the ordinary one again."""
    with Tape("linear"):
        pass
    with pytest.raises(RuntimeError, match="stop"), Tape("linear"):
        raise RuntimeError("stop")
    values = torch.tensor([-1.0, 2], requires_grad=True)
    assert torch.autograd.grad(F.relu(values).sum(), values)[0].tolist() == [0, 1]


CONVOLUTIONS = [
    nn.Conv2d(2, 3, 3),
    nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(0, 1)),
    nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2),
    nn.Conv2d(2, 4, 3, padding=1, groups=2, bias=False),
    nn.Conv2d(2, 2, 2, stride=3),
]


def test_layer_goes_back_by_the_transpose_of_its_matrix() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 3)
        norm.weight.normal_()
        norm.bias.normal_()
    layers: list[tuple[nn.Module, Callable[[Node], Node]]] = [
        *((layer, lambda node, layer=layer: matrix_form.conv(node, layer)) for layer in CONVOLUTIONS),
        (norm, lambda node: matrix_form.batch_norm(node, norm)),
        (nn.MaxPool2d(2), lambda node: matrix_form.max_pool(node, 2, 2)),
        (nn.MaxPool2d(3, 2, 1), lambda node: matrix_form.max_pool(node, 3, 2, 1)),
        (nn.MaxPool2d(3, 1), lambda node: matrix_form.max_pool(node, 3, 1)),
        (nn.AvgPool2d(2), lambda node: matrix_form.avg_pool(node, 2, 2)),
        (nn.AvgPool2d(3, 2, 1), lambda node: matrix_form.avg_pool(node, 3, 2, 1)),
        (nn.AdaptiveAvgPool2d(3), lambda node: matrix_form.avg_pool(node, 2, 2)),
        (nn.AdaptiveMaxPool2d(3), lambda node: matrix_form.max_pool(node, 2, 2)),
    ]
    image = torch.randn(2, 6, 6, dtype=torch.float64)
    for layer, reference in layers:
        layer = layer.double().eval().requires_grad_(False)
        node = reference(matrix_form.image_node(image))
        np.testing.assert_allclose(layer(image[None]).flatten().numpy(), node.values, atol=1e-12, err_msg=str(layer))
        signal = torch.randn(1, *node.shape, dtype=torch.float64)
        ((_, matrix),) = node.sources
        actual = sent_back(layer, image[None], signal).flatten().numpy()
        np.testing.assert_allclose(actual, matrix.T @ signal.flatten().numpy(), atol=1e-12, err_msg=str(layer))


def test_equal_values_in_a_window_switch_to_the_first() -> None:
    """As in the matrix form: zeros behind a rectifier are equal, and one of them must receive what comes back."""
    values = torch.zeros(1, 1, 2, 2)
    assert sent_back(nn.MaxPool2d(2), values, torch.ones(1, 1, 1, 1)).flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("operation", "signal", "expected"),
    [
        (lambda x: 3 * x - 1, [[1, 2], [3, 4]], [[3, 6], [9, 12]]),
        (lambda x: (x - 0.5) / 0.25, [[1, 2], [3, 4]], [[4, 8], [12, 16]]),
        (lambda x: 1 - x, [[1, 2], [3, 4]], [[-1, -2], [-3, -4]]),
        (lambda x: -x, [[1, 2], [3, 4]], [[-1, -2], [-3, -4]]),
        (lambda x: F.pad(x, (1, 0)), [[9, 1, 2], [9, 3, 4]], [[1, 2], [3, 4]]),
        (lambda x: F.interpolate(x, (2, 4)), [[1, 2, 3, 4], [5, 6, 7, 8]], [[3, 7], [11, 15]]),
        (lambda x: torch.cat([x, 2 * x], 3), [[1, 2, 10, 20], [3, 4, 30, 40]], [[21, 42], [63, 84]]),
        (lambda x: x.transpose(2, 3), [[1, 2], [3, 4]], [[1, 3], [2, 4]]),
        (lambda x: x[:, :, 1:], [[1, 2]], [[0, 0], [1, 2]]),
        (lambda x: x + x.sum(3, keepdim=True), [[1, 2], [3, 4]], [[4, 5], [10, 11]]),
    ],
)
def test_linear_operation_by_hand(
    operation: Callable[[Tensor], Tensor], signal: list[list[int]], expected: list[list[int]]
) -> None:
    values = torch.tensor([[[[1.0, 2], [3, 4]]]])
    assert sent_back(operation, values, torch.tensor([[signal]]).float())[0, 0].tolist() == expected


class Body(nn.Module):
    """A convolution, an operation, global average and a linear layer."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.operation = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3), operation

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.operation(self.first(images)).mean((2, 3)))


IMAGES = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def rectified_by_writing(maps: Tensor) -> Tensor:
    maps = 1 * maps
    maps[maps < 0] = 0
    return maps


def through_a_view(maps: Tensor) -> Tensor:
    maps[:, :2].abs_()
    return maps


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (torch.abs, "abs"),
        (lambda maps: torch.where(maps > 0, maps, 0.0), "where"),
        (lambda maps: maps.masked_fill(maps < 0, 0.0), "masked_fill"),
        (lambda maps: torch.maximum(maps, 0.1 * maps), "maximum"),
    ],
)
@pytest.mark.parametrize("rule", ["linear", "guided"])
def test_operation_without_a_rule_is_named(operation: Callable[[Tensor], Tensor], name: str, rule: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"operation '[a-z]*{name}'.* rule '{rule}'"):
        Clear(Body(operation), rule=rule)(IMAGES)


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda maps: torch.ones(6, 6) / (F.relu(maps) + 1), id="constant over response"),
        pytest.param(lambda maps: torch.div(torch.tensor(1.0), F.relu(maps) + 1), id="torch.div of a constant"),
        pytest.param(lambda maps: maps * (maps > 0), id="rectified by a mask"),
        pytest.param(lambda maps: (1 + F.relu(maps)) ** -1, id="power below zero"),
        pytest.param(lambda maps: maps.softmax(1), id="softmax"),
        pytest.param(lambda maps: maps / (1 + maps.square()), id="over one of its own size"),
        pytest.param(lambda maps: torch.einsum("ncij,ncij,ncij->ncij", maps, 2 * maps, maps + 1), id="product of three"),
        pytest.param(rectified_by_writing, id="rectified by writing zeros"),
        pytest.param(through_a_view, id="in place through a view"),
    ],
)
def test_operation_that_depends_on_the_input_does_not_slip_through(operation: Callable[[Tensor], Tensor]) -> None:
    """Each of them would go back by its ordinary gradient, whatever the rule."""
    with pytest.raises(UnsupportedModel):
        Clear(Body(operation), rule="linear")(IMAGES)


def with_gradients_off(maps: Tensor) -> Tensor:
    with torch.no_grad():
        rectified = F.relu(maps)
    return maps + rectified


def in_inference_mode(maps: Tensor) -> Tensor:
    with torch.inference_mode():
        rectified = F.relu(maps)
    return torch.cat([maps[:, :2], rectified[:, 2:]], 1)


def written_with_gradients_off(maps: Tensor) -> Tensor:
    with torch.no_grad():
        maps.mul_(2)
    return maps


def all_with_gradients_off(maps: Tensor) -> Tensor:
    with torch.no_grad():
        return F.relu(maps)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (with_gradients_off, r"operation 'add' adds .* gradients switched off.*torch\.no_grad"),
        (in_inference_mode, r"operation 'cat' adds .* gradients switched off.*torch\.inference_mode"),
        (written_with_gradients_off, "operation 'mul' writes into a response while gradients are switched off"),
        (all_with_gradients_off, r"no gradient from operation 'relu' on.*torch\.no_grad"),
        (lambda maps: torch.from_numpy(maps.detach().numpy()), "no gradient from operation 'detach' on.*numpy"),
        (lambda maps: maps.data, "no gradient from operation 'data' on"),
        (lambda maps: torch.zeros(len(maps), 4, 6, 6), "does not depend on its input"),
    ],
)
@pytest.mark.parametrize("rule", ["linear", "gradient"])
def test_way_back_that_the_model_cuts_off_is_named(operation: Callable[[Tensor], Tensor], message: str, rule: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        Clear(Body(operation), rule)(IMAGES)


def test_gate_that_the_model_cuts_off_is_held_fixed() -> None:
    def gated(maps: Tensor) -> Tensor:
        with torch.inference_mode():
            gate = maps.mean((2, 3), keepdim=True).sigmoid()
        return maps * gate

    cut_off, plain = (
        Clear(Body(gated), rule="linear")(IMAGES),
        Clear(Body(lambda maps: maps * maps.mean((2, 3), keepdim=True).sigmoid()), rule="linear")(IMAGES),
    )
    torch.testing.assert_close(cut_off.dominant_response, plain.dominant_response)


def test_model_that_writes_into_what_its_gradient_needs() -> None:
    def written(maps: Tensor) -> Tensor:
        weights = maps.softmax(3)
        return weights.mul_(2) @ maps

    with pytest.raises(UnsupportedModel, match="writes in place into what its own gradient is worked out from"):
        Clear(Body(written), "gradient")(IMAGES)


def test_attention_that_drops_weights_out_is_an_error() -> None:
    with pytest.raises(UnsupportedModel, match=r"'scaled_dot_product_attention' drops weights out.*dropout_p=0"):
        Clear(Body(lambda maps: F.scaled_dot_product_attention(maps, maps, maps, dropout_p=0.1)), "gradient")(IMAGES)


def test_operation_beside_the_way_back_is_no_concern() -> None:
    def watched(maps: Tensor) -> Tensor:
        F.gelu(maps).softmax(1)
        return F.relu(maps)

    maps, plain = Clear(Body(watched), rule="linear")(IMAGES), Clear(Body(F.relu), rule="linear")(IMAGES)
    assert torch.equal(maps.dominant_response, plain.dominant_response)
    assert plain.dominant_response.any()


@pytest.mark.parametrize(
    "dropout",
    [
        lambda maps: F.dropout(maps, training=True),
        lambda maps: F.dropout(maps, 0.3, True),
        lambda maps: torch.dropout(maps, 0.3, True),
        lambda maps: F.dropout2d(maps, training=True),
        lambda maps: F.alpha_dropout(maps, training=True),
    ],
)
def test_forced_dropout_is_an_error(dropout: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedModel, match=r"dropout.*training"):
        Clear(Body(dropout), rule="linear")(IMAGES)


def test_dropout_that_does_nothing_passes() -> None:
    plain = Clear(Body(F.relu), rule="linear")(IMAGES)
    dropped = Clear(Body(nn.Sequential(nn.ReLU(), nn.Dropout2d(), nn.Dropout())), rule="linear")(IMAGES)
    assert torch.equal(dropped.dominant_response, plain.dominant_response)


def test_batch_statistics_are_an_error() -> None:
    with pytest.raises(UnsupportedModel, match="batch_norm"):
        Clear(Body(nn.BatchNorm2d(4, track_running_stats=False)), rule="linear")(IMAGES)


def test_view_is_no_matter_of_memory_format() -> None:
    """A model written for contiguous maps, as most are: LeNet's `x.view(len(x), -1)`."""

    class Viewing(nn.Module):
        def __init__(self, reshape: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last, self.reshape = nn.Conv2d(1, 4, 3), nn.Linear(64, 3), reshape

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.reshape(F.relu(self.first(images))))

    viewing = Clear(Viewing(lambda maps: maps.view(len(maps), -1)), rule="linear")(IMAGES)
    flattening = Clear(Viewing(lambda maps: maps.flatten(1)), rule="linear")(IMAGES)
    assert torch.equal(viewing.dominant_response, flattening.dominant_response)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_exported_program_is_seen_as_the_model_is(rule: str, strict: bool) -> None:
    model = Body(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout())).eval()
    program = torch.export.export(model, (IMAGES,), strict=strict)
    expected, actual = Clear(model, rule)(IMAGES), Clear(program, rule)(IMAGES)
    torch.testing.assert_close(actual.dominant_response, expected.dominant_response)
    assert torch.equal(actual.dominant_class, expected.dominant_class)


class Normalised(nn.Module):
    """Features over their norm, written in one of several ways, between two convolutions."""

    def __init__(self, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last, self.normalise = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4), normalise

    def forward(self, images: Tensor) -> Tensor:
        features = self.normalise(self.first(images))
        scores: Tensor = self.last(F.relu(self.second(features)).mean((2, 3)))
        return scores


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "written",
    [
        lambda maps: maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True).clamp_min(1e-12),
        lambda maps: maps / maps.norm(dim=1, keepdim=True).clamp(min=1e-12),
    ],
)
def test_the_least_that_a_norm_is_divided_by_rectifies_nothing(written: Callable[[Tensor], Tensor], rule: str) -> None:
    images = torch.randn(2, 1, 10, 10, generator=torch.Generator().manual_seed(1))
    expected = Clear(Normalised(lambda maps: F.normalize(maps, dim=1)), rule)(images)
    found = Clear(Normalised(written), rule)(images)
    peak = float(expected.dominant_response.max())
    torch.testing.assert_close(found.dominant_response, expected.dominant_response, rtol=0, atol=1e-3 * peak)


@pytest.mark.parametrize("rule", RULES)
def test_an_activation_that_is_written_out_with_a_factor_is_one(rule: str) -> None:
    """x · sigmoid(k x) is silu(k x) / k."""
    written = Clear(Body(lambda maps: maps * torch.sigmoid(1.702 * maps)), rule=rule)(IMAGES)
    expected = Clear(Body(lambda maps: F.silu(1.702 * maps) / 1.702), rule=rule)(IMAGES)
    assert written.dominant_response.any()
    torch.testing.assert_close(written.dominant_response, expected.dominant_response, rtol=1e-4, atol=1e-5)
