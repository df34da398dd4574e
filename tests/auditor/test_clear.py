"""CLEAR maps by hand, against a pixel by pixel loop, and what `Clear` leaves untouched."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from auditor import Clear, UnsupportedModel, agreement, measure
from auditor.operations.rule_table import RULES
from auditor.statistics.map_statistics import SCORES
from tests.auditor.networks import (
    CLASSES,
    NETWORKS,
    AveragePool,
    OverlappingPool,
    PointwiseHead,
    Residual,
    random_network,
)


def pointwise_by_hand() -> tuple[nn.Module, Tensor]:
    """Input channels weighted 2 and 1, a rectifier, three classes of kernels 1, 1 and −1, class 1 with a bias of −3.

    h = max(2·a + b, 0)   z_0 = h   z_1 = h − 3   z_2 = −h
    R(x|0) = h·1·(2 + 1)   R(x|1) = max(h − 3, 0)·1·(2 + 1)   R(x|2) = 0
    """
    model = nn.Sequential(*(nn.Conv2d(2, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[2]], [[1]]]]))
        model[2].weight.copy_(torch.tensor([[[[1]]], [[[1]]], [[[-1]]]]))
        model[2].bias.copy_(torch.tensor([0, -3, 0]))
    # h: 2, 0 (of −1), 0 and 2·1 + 2 = 4
    return model, torch.tensor([[[[1.0, -1], [0, 1]], [[0, 1], [0, 2]]]])


def test_maps_by_hand() -> None:
    model, image = pointwise_by_hand()
    maps = Clear(model)(image)
    assert maps.dominant_class.tolist() == [[[0, -1], [-1, 0]]]
    assert maps.dominant_response.tolist() == [[[6, 0], [0, 12]]]
    assert maps.logits.tolist() == [[1.5, -1.5, -1.5]]
    assert maps.dominant_class.dtype == torch.int16
    assert maps.dominant_response.dtype == maps.logits.dtype == torch.float32


def test_responses_by_hand() -> None:
    model, image = pointwise_by_hand()
    ((classes, responses),) = Clear(model).responses(image)
    assert classes.tolist() == [0, 1, 2]
    assert responses.tolist() == [[[[6, 0], [0, 12]], [[0, 0], [0, 3]], [[0, 0], [0, 0]]]]
    assert responses.dtype == torch.float32


def test_tie_goes_to_the_lower_class() -> None:
    model, image = pointwise_by_hand()
    with torch.no_grad():
        model[2].bias.zero_()
    assert Clear(model)(image).dominant_class.tolist() == [[[0, -1], [-1, 0]]]
    assert Clear(model, classes=[2, 1])(image).dominant_class.tolist() == [[[1, -1], [-1, 1]]]


def test_class_argued_against_does_not_dominate() -> None:
    """Alone, class 2 has negative responses −2 and −4, which unrectified would come back as 6 and 12."""
    model, image = pointwise_by_hand()
    maps = Clear(model, classes=[2])(image)
    assert maps.dominant_class.tolist() == [[[-1, -1], [-1, -1]]]
    assert maps.dominant_response.tolist() == [[[0, 0], [0, 0]]]


def by_pixel(responses: np.ndarray, classes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 4 and 5, one pixel at a time. responses: (N, C, H, W); classes: those that compete, for every sample."""
    samples, _, height, width = responses.shape
    dominant_class = np.full((samples, height, width), -1)
    dominant_response = np.zeros((samples, height, width), np.float32)
    for sample, y, x in np.ndindex(samples, height, width):
        for label in sorted(classes[sample]):
            if responses[sample, label, y, x] > dominant_response[sample, y, x]:
                dominant_class[sample, y, x] = label
                dominant_response[sample, y, x] = responses[sample, label, y, x]
    return dominant_class, dominant_response


def all_responses(model: nn.Module, images: Tensor) -> np.ndarray:
    return torch.cat([responses for _, responses in Clear(model).responses(images)], 1).numpy()


@pytest.mark.parametrize("classes", [None, [0, 2, 3], [4, 1, 1]])
@pytest.mark.parametrize("kind", [OverlappingPool, Residual])
def test_maps_pixel_by_pixel(kind: type[nn.Module], classes: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = random_network(kind, samples=3, seed=0)
    competing = list(range(CLASSES)) if classes is None else classes
    dominant_class, dominant_response = by_pixel(all_responses(model, images), [competing] * 3)
    for chunk in (1, 300, 10**9):
        monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", chunk)
        maps = Clear(model, classes=classes)(images)
        np.testing.assert_array_equal(maps.dominant_class.numpy(), dominant_class)
        np.testing.assert_array_equal(maps.dominant_response.numpy(), dominant_response)
        torch.testing.assert_close(maps.logits, model(images).detach())
    assert len(np.unique(dominant_class)) >= 2


@pytest.mark.parametrize("classes", [None, [0, 1, 3, 4]])
@pytest.mark.parametrize("top_k", [1, 2])
def test_top_k_lets_each_samples_strongest_classes_compete(top_k: int, classes: list[int] | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(6, 2, 6, 6)
    positive = model[0](images).detach().clamp(min=0).sum((2, 3)).numpy()
    candidates = range(CLASSES) if classes is None else classes
    strongest = [sorted(sorted(candidates, key=lambda label: -row[label])[:top_k]) for row in positive]
    assert len({tuple(row) for row in strongest}) >= 2, "samples must differ in their strongest classes"

    clear = Clear(model, classes=classes, top_k=top_k)
    ((own, responses),) = clear.responses(images)
    assert own.tolist() == strongest
    every = all_responses(model, images)
    expected = np.stack([every[sample, strongest[sample]] for sample in range(6)])
    np.testing.assert_allclose(responses.numpy(), expected, rtol=1e-5, atol=1e-6)
    dominant_class, dominant_response = by_pixel(every, strongest)
    result = clear(images)
    np.testing.assert_array_equal(result.dominant_class.numpy(), dominant_class)
    np.testing.assert_allclose(result.dominant_response.numpy(), dominant_response, rtol=1e-5, atol=1e-6)


def test_top_k_of_all_classes_is_no_restriction() -> None:
    model, images = random_network(Residual)
    ((classes, _),) = Clear(model, top_k=CLASSES + 3).responses(images)
    assert classes.tolist() == list(range(CLASSES))


def many_classes(count: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, count, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model, torch.randn(3, 2, 6, 6)


@pytest.mark.parametrize(("classes", "competing"), [(50, 50), (51, 10), (1000, 10)])
def test_of_many_classes_the_strongest_compete_by_default(classes: int, competing: int) -> None:
    model, images = many_classes(classes)
    assert Clear(model).method.rule == "gradient"
    own = torch.cat([names for names, _ in Clear(model).responses(images)], -1)
    assert own.shape[-1] == competing
    if competing < classes:
        positive = model[0](images).detach().clamp(min=0).mean((2, 3))
        assert own.tolist() == positive.topk(competing).indices.sort().values.tolist()


@pytest.mark.parametrize("options", [{"top_k": "all"}, {"rule": "linear"}, {"classes": range(51)}])
def test_all_of_many_classes_compete_where_that_is_said_or_costs_little(options: dict[str, Any]) -> None:
    model, images = many_classes(51)
    own = torch.cat([names for names, _ in Clear(model, **options).responses(images)])
    assert own.tolist() == list(range(51))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_precision_is_of_the_networks_arithmetic_only(precision: str, tolerance: float) -> None:
    model, images = random_network(PointwiseHead)
    exact = Clear(model, precision="float64")(images)
    maps = Clear(model, precision=precision)(images)
    assert {exact.dominant_response.dtype, maps.dominant_response.dtype, maps.logits.dtype} == {torch.float32}
    peak = exact.dominant_response.max().item()
    difference = (maps.dominant_response - exact.dominant_response).abs().max().item()
    assert difference < tolerance * peak
    if precision == "bfloat16":
        assert difference > 1e-4 * peak, "the network must really have run in bfloat16"


def test_agreement_is_the_share_of_pixels_with_the_same_dominant_class() -> None:
    model, images = random_network(PointwiseHead, samples=16)
    assert agreement(Clear(model), images) == 1
    narrow = Clear(model, precision="bfloat16")
    found, expected = narrow(images).dominant_class.numpy(), Clear(model)(images).dominant_class.numpy()
    assert agreement(narrow, images) == pytest.approx(np.mean(found == expected), abs=1e-7)
    assert 0.8 < agreement(narrow, images) < 1, "of these images a few pixels are as good as tied"
    spoiled = torch.cat([images, images[:1] * torch.nan])
    assert agreement(narrow, spoiled) == agreement(narrow, images)
    assert np.isnan(agreement(narrow, spoiled[-1:]))


def state(model: nn.Module) -> dict[str, object]:
    """All that may have changed about a model but the numbers in its parameters."""
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for module in model.modules()
        ],
        "parameters": [(name, value.requires_grad, value.stride(), value.dtype) for name, value in model.named_parameters()],
        "gradients": [value.grad is None for value in model.parameters()],
        "buffers": [(name, value.dtype, value.stride()) for name, value in model.named_buffers()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


class Mixed(nn.Module):
    """Partly frozen, partly in training mode, hooked; stops at its operation when that has no rule."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.operation = operation
        self.first.requires_grad_(False)
        self.norm.eval()
        self.last.register_forward_hook(lambda module, inputs, output: None)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.operation(self.norm(self.first(images))).mean((2, 3)))


@pytest.mark.parametrize("operation", [F.relu, torch.abs])
def test_model_comes_out_as_it_went_in(operation: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, images = Mixed(operation), torch.randn(2, 2, 6, 6)
    before, numbers = state(model), {name: value.clone() for name, value in model.state_dict().items()}
    clear = Clear(model, rule="linear")
    if operation is torch.abs:
        with pytest.raises(UnsupportedModel, match="abs"):
            clear(images)
    else:
        clear(images)
    assert state(model) == before
    assert all(torch.equal(value, numbers[name]) for name, value in model.state_dict().items())
    # Its gradients are ordinary again: where a rectifier's input was negative, none.
    values = torch.tensor([-1.0, 2], requires_grad=True)
    assert torch.autograd.grad(F.relu(values).sum(), values)[0].tolist() == [0, 1]


def test_model_is_explained_in_eval_mode() -> None:
    model, images = random_network(AveragePool)
    expected = Clear(model)(images)
    actual = Clear(model.train())(images)
    assert torch.equal(actual.dominant_response, expected.dominant_response)
    assert model.training


def test_model_changed_later_is_not_seen() -> None:
    model, images = random_network(PointwiseHead)
    clear = Clear(model)
    expected = clear(images)
    with torch.no_grad():
        model.last.weight.zero_()
    assert torch.equal(clear(images).dominant_response, expected.dominant_response)
    assert expected.dominant_response.any()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_are_not_touched(kind: type[nn.Module], channels_last: bool) -> None:
    """AveragePool begins with an in-place rectifier, which would overwrite them."""
    model, images = random_network(kind)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before, stride = images.clone(), images.stride()
    Clear(model)(images)
    assert torch.equal(images, before)
    assert (images.stride(), images.requires_grad, images.grad) == (stride, False, None)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_gradient_mode_does_not_matter(context: type) -> None:
    model, images = random_network(Residual)
    expected = Clear(model)(images)
    with context():
        inside = Clear(model)(images)
        made_inside = images * 1
    assert torch.equal(inside.dominant_response, expected.dominant_response)
    assert torch.equal(Clear(model)(made_inside).dominant_response, expected.dominant_response)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "lrp"}, "rule 'lrp' is not known: use one of linear, deconv, gradient, guided"),
        ({"precision": "float16"}, "precision 'float16' is not known: use one of float32, bfloat16, float64"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": "many"}, "top_k is 'many'"),
        ({"classes": []}, "class"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clear(nn.Conv2d(1, 1, 1), **options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused_by_name() -> None:
    """Its operations cannot be seen, so no rule would reach them."""
    model, images = random_network(PointwiseHead)
    with pytest.raises(UnsupportedModel, match="TorchScript"):
        Clear(torch.jit.trace(model, images))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_inside_is_refused_by_name() -> None:
    model, images = random_network(PointwiseHead)
    inside = nn.Sequential(OrderedDict(whole=nn.Sequential(nn.Identity(), torch.jit.trace(model, images))))
    with pytest.raises(UnsupportedModel, match=r"submodule 'whole\.1' is TorchScript"):
        Clear(inside)


def made_of_others(make: Callable[[nn.Module], object]) -> Callable[[nn.Sequential], nn.Module]:
    def change(model: nn.Sequential) -> nn.Module:
        make(model[0])
        model.eval()(torch.rand(1, 3, 9, 9))
        return model

    return change


def remembering(model: nn.Sequential) -> nn.Module:
    """As a model does that keeps its attention maps for a look at them."""
    model.seen = {"last": [model(torch.rand(1, 3, 9, 9))]}  # type: ignore[assignment]
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(made_of_others(nn.utils.weight_norm), id="weight norm"),
        pytest.param(made_of_others(nn.utils.parametrizations.weight_norm), id="weight norm, parametrized"),
        pytest.param(made_of_others(nn.utils.spectral_norm), id="spectral norm"),
        pytest.param(made_of_others(lambda layer: prune.l1_unstructured(layer, "weight", 0.3)), id="pruned"),
        pytest.param(remembering, id="remembers an output"),
        pytest.param(torch.compile, id="compiled"),
        pytest.param(lambda model: nn.Sequential(torch.compile(model[0]), *model[1:]), id="compiled inside"),
        pytest.param(nn.DataParallel, id="nn.DataParallel"),
    ],
)
def test_model_that_is_more_than_its_modules(change: Callable[[nn.Sequential], nn.Module]) -> None:
    """Its maps are those of a plain model with the weights that it has by the time it is called."""

    def plain() -> nn.Sequential:
        torch.manual_seed(0)
        head = nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head).eval()

    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    changed, expected = change(plain()), plain()
    weight = getattr(changed, "0").weight if isinstance(changed, nn.Sequential) else expected[0].weight
    expected[0].weight.data = weight.detach().clone()
    found = Clear(changed, "linear")(images)
    torch.testing.assert_close(found.dominant_response, Clear(expected, "linear")(images).dominant_response)
    assert found.dominant_response.any()


def test_model_that_cannot_be_copied_says_why() -> None:
    model, _ = random_network(PointwiseHead)
    model.lock = threading.Lock()
    with pytest.raises(UnsupportedModel, match=r"the model cannot be copied: .*lock"):
        Clear(model)


def test_parameters_of_five_axes_are_no_obstacle() -> None:
    class Slices(nn.Module):
        """As LambdaNet does, a convolution over what is not depth."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.volume, self.head = nn.Conv3d(1, 4, (1, 3, 3)), nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.volume(images[:, None]).mean(2).mean((2, 3)))

    images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    for rule in RULES:
        assert Clear(Slices(), rule)(images).dominant_response.any()


@pytest.mark.parametrize("classes", [[0, CLASSES], [-1, 2]])
def test_class_that_the_model_does_not_have(classes: list[int]) -> None:
    model, images = random_network(PointwiseHead)
    with pytest.raises(ValueError, match=rf"classes \[{classes[0]}, {classes[1]}\] .* the model's {CLASSES}"):
        Clear(model, classes=classes)(images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["linear", "deconv", "gradient", "guided"])
def test_cuda_gives_the_maps_of_the_cpu(rule: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    images = torch.rand(4, 3, 20, 20)
    on_cpu = measure(Clear(model, rule), images, torch.arange(4))
    on_cuda = measure(Clear(model.cuda(), rule), images.cuda(), torch.arange(4).cuda())
    torch.testing.assert_close(on_cuda.maps.dominant_response.cpu(), on_cpu.maps.dominant_response, rtol=1e-2, atol=1e-3)
    for name in SCORES:
        expected, found = getattr(on_cpu.responses, name), getattr(on_cuda.responses, name).cpu()
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["gradient_times_input", "lrp_epsilon", "lrp_zplus"])
def test_cuda_gives_the_responses_of_the_cpu(rule: str) -> None:
    model, images = random_network(Residual, samples=4)
    on_cpu = torch.cat([part for _, part in Clear(model, rule, precision="float64").responses(images)], 1)
    clear = Clear(model.cuda(), rule, precision="float64")
    on_cuda = torch.cat([part for _, part in clear.responses(images.cuda())], 1)
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-5, atol=1e-6)
