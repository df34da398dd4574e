"""LRP against zennit, against gradient × input where the two are the same, and against networks merged by torch."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from auditor import Clear, UnsupportedModel
from auditor.operations.lrp import EPSILON, reciprocal
from tests.auditor.peers import composite_responses, import_zennit, zennit_responses
from tests.auditor.pieces import history

SHARING = ["lrp_epsilon", "lrp_zplus", "lrp_epsilon_plus_flat"]
COMPOSITES = ["lrp_epsilon_plus", "lrp_epsilon_plus_flat"]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """ε as good as zero."""
    monkeypatch.setattr("auditor.operations.lrp.EPSILON", 1e-10)


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


def normed(channels: int, kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """With a history, scales of both signs and shifts."""
    norm = history(kind(channels))
    nn.init.uniform_(norm.weight, -1.5, 1.5)
    nn.init.normal_(norm.bias, 0, 0.3)
    return norm


def global_head(channels: int, bias: bool = True, classes: int = 4) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes, bias)]


def some_images(channels: int = 3, size: int = 8, samples: int = 2) -> Tensor:
    return torch.randn(samples, channels, size, size, generator=torch.Generator().manual_seed(5))


def responses(model: nn.Module, rule: str, images: Tensor, precision: str = "float64") -> Tensor:
    """R(x|c), (N, C, H, W)."""
    return torch.cat([found for _, found in Clear(model.eval(), rule, precision=precision).responses(images)], 1)


def sent(model: nn.Module, rule: str, images: Tensor, precision: str = "float64") -> Tensor:
    """(N, C), what each class sends back."""
    return Clear(model.eval(), rule, precision=precision).forward(images).positive.sum((2, 3))


# ---- Denominators


def test_denominators_are_stabilised_as_zennit_does() -> None:
    maps = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stabilizer = import_zennit().core.Stabilizer(EPSILON, norm_scale=True)
    torch.testing.assert_close(reciprocal(maps), 1 / stabilizer(maps), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4), (3, 2, 5, 4), (3, 2, 2, 5, 4)])
def test_a_sample_that_is_not_finite_spoils_no_other(shape: tuple[int, ...]) -> None:
    """Nor a sample of tokens (T, N, E), whose samples are along the second axis."""
    denominators = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spoiled = denominators.clone()
    spoiled[1] = torch.inf
    assert torch.equal(reciprocal(spoiled)[[0, 2]], reciprocal(denominators)[[0, 2]])
    if len(shape) == 3:
        spoiled = denominators.clone()
        spoiled[:, 1] = torch.nan
        others = [0, 2, 3, 4]
        assert torch.equal(reciprocal(spoiled)[:, others], reciprocal(denominators)[:, others])


@pytest.mark.parametrize("size", [1.0, 1e-18, 1e-25, 1e18, 1e30])
def test_the_stabiliser_grows_with_the_layer(size: float) -> None:
    """√(mean of squares) = 5/√2 · size for 3 and 4; float32 holds neither 1e-36 with all its digits nor 1e60."""
    values = size * torch.tensor([[3.0, -4.0]])
    expected = [1 / (size * (3 + EPSILON * 5 / 2**0.5)), 1 / (size * (-4 - EPSILON * 5 / 2**0.5))]
    assert reciprocal(values).tolist()[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-40, 1e-32])
def test_what_subnormal_numbers_made_is_not_divided_by(size: float) -> None:
    assert reciprocal(torch.full((2, 3), size)).count_nonzero() == 0


# ---- Batch norm behind a layer

NO_OPS: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.2),
    "dropout in place": lambda: nn.Dropout2d(0.2, inplace=True),
    "alpha dropout": lambda: nn.AlphaDropout(0.2),
    "contiguous": lambda: Lambda(lambda x: x.contiguous()),
    "channels last": lambda: Lambda(lambda x: x.contiguous(memory_format=torch.channels_last)),
    "same type": lambda: Lambda(lambda x: x.type_as(x).double().to(x.dtype).to(x.device)),
    "another type and back": lambda: Lambda(lambda x: x.float().double()),
    "clone": lambda: Lambda(lambda x: x.clone()),
    "identity": lambda: nn.Identity(),
    "two of them": lambda: nn.Sequential(nn.Dropout(0.1), Lambda(lambda x: x.clone()), nn.Identity()),
    "there and back": lambda: Lambda(lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)),
    "reshaped and back": lambda: Lambda(lambda x: x.flatten(2).view(x.shape)),
    "split and joined": lambda: Lambda(lambda x: x.unsqueeze(1).squeeze(1)[:]),
}


@pytest.mark.parametrize("rule", SHARING)
@pytest.mark.parametrize("name", NO_OPS)
def test_no_op_between_a_layer_and_its_norm_changes_nothing(rule: str, name: str) -> None:
    torch.manual_seed(0)
    conv, norm, last = nn.Conv2d(3, 6, 3, padding=1), normed(6), global_head(6)
    images = some_images()
    direct = responses(nn.Sequential(conv, norm, nn.ReLU(), *last), rule, images)
    assert direct.any()
    through = responses(nn.Sequential(conv, NO_OPS[name](), norm, nn.ReLU(), *last), rule, images)
    # Another type has fewer digits on the way.
    tolerance = 1e-5 if name == "another type and back" else 1e-10
    torch.testing.assert_close(through, direct, rtol=0, atol=tolerance * float(direct.abs().max()))


def merged(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """The same as one layer, as torch merges them."""
    both = copy.deepcopy(layer)
    parts = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    if isinstance(layer, nn.Linear):
        both.weight, both.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *parts)
    else:
        is_transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
        both.weight, both.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *parts, transpose=is_transposed)
    return both


def lines(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), layer)


LAYERS: dict[str, Callable[[], tuple[nn.Module, nn.Module, list[nn.Module], list[nn.Module], list[nn.Module]]]] = {
    # Layer and norm; what stands before, between and behind them, up to maps with 6 channels.
    "conv": lambda: (nn.Conv2d(3, 6, 3), normed(6), [], [], []),
    "conv without bias, grouped": lambda: (nn.Conv2d(3, 6, 3, groups=3, bias=False), normed(6), [], [], []),
    "transposed conv": lambda: (nn.ConvTranspose2d(3, 6, 3, stride=2), normed(6), [], [], []),
    "conv of lines": lambda: (
        *(nn.Conv1d(3, 6, 3), normed(6, nn.BatchNorm1d)),
        *([nn.Flatten(2)], [], [Lambda(lambda x: x.unsqueeze(2))]),
    ),
    "conv, flattened": lambda: (
        *(nn.Conv2d(3, 6, 3, padding=1), normed(6, nn.BatchNorm1d)),
        *([], [nn.Flatten(2)], [nn.Unflatten(2, (8, 8))]),
    ),
    "linear, of features": lambda: (
        *(nn.Linear(192, 6), normed(6, nn.BatchNorm1d)),
        *([nn.Flatten()], [], [Lambda(lambda x: x[:, :, None, None])]),
    ),
    "linear, of tokens": lambda: (
        *(nn.Linear(3, 6), normed(6, nn.BatchNorm1d)),
        *([Lambda(lambda x: x.flatten(2).mT)], [Lambda(lambda x: x.mT)], [nn.Unflatten(2, (8, 8))]),
    ),
}


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("rule", ["lrp_epsilon", "lrp_zplus", "lrp_epsilon_plus"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_and_norm_are_what_torch_merges_them_into(rule: str, name: str) -> None:
    torch.manual_seed(1)
    layer, norm, before, between, behind = LAYERS[name]()
    model = nn.Sequential(*before, layer, *between, norm, *behind, nn.ReLU(), *global_head(6)).eval()
    one = nn.Sequential(*before, merged(layer, norm.eval()), *between, *behind, nn.ReLU(), *model[-3:])
    images = some_images()
    expected = responses(one, rule, images)
    assert expected.any()
    torch.testing.assert_close(responses(model, rule, images), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("rule", ["lrp_epsilon", "lrp_zplus"])
def test_norms_are_merged_as_zennits_canonizer_does(rule: str) -> None:
    zennit = import_zennit()
    torch.manual_seed(2)
    body = [nn.Conv2d(3, 6, 3, padding=1), normed(6), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), normed(5), nn.ReLU()]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(180, 4)).double().eval()
    stabilizer = zennit.core.Stabilizer(EPSILON, norm_scale=True)
    shares = zennit.rules.Epsilon(stabilizer) if rule == "lrp_epsilon" else zennit.rules.ZPlus(stabilizer, "bias")
    images = some_images().double()
    answers = [(nn.ReLU, zennit.rules.Pass()), ((nn.Conv2d, nn.Linear), shares)]
    expected = zennit_responses(model, images, answers, [zennit.canonizers.SequentialMergeBatchNorm()])
    found = responses(model, rule, images)
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


# ---- Composites


@pytest.mark.parametrize(("rule", "name"), [("lrp_epsilon_plus", "EpsilonPlus"), ("lrp_epsilon_plus_flat", "EpsilonPlusFlat")])
def test_composites_are_zennits(rule: str, name: str) -> None:
    """Without biases in convolutions, to which zennit's z⁺ gives a share."""
    zennit = import_zennit()
    torch.manual_seed(4)
    body = [
        conv(3, 6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(6, 8),
        nn.ReLU(),
        conv(8, 8, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
    ]
    model = nn.Sequential(*body, nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 4)).double().eval()
    images, stabilizer = some_images().double(), zennit.core.Stabilizer(EPSILON, norm_scale=True)
    expected = composite_responses(model, images, getattr(zennit.composites, name)(stabilizer, stabilizer))
    assert expected.any()
    found = responses(model, rule, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("rule", COMPOSITES)
@pytest.mark.parametrize("rectified", [False, True])
def test_convolution_that_decides_the_classes_is_the_linear_layer_behind_the_average(rule: str, rectified: bool) -> None:
    torch.manual_seed(5)
    body, last = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU()), nn.Conv2d(8, 4, 1)
    linear = nn.Linear(8, 4)
    with torch.no_grad():
        linear.weight.copy_(last.weight[:, :, 0, 0])
        linear.bias.copy_(last.bias)
    behind = [nn.ReLU()] if rectified else []
    convolved = nn.Sequential(body, last, *behind, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    averaged = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    found, expected = (responses(model, rule, some_images()) for model in (convolved, averaged))
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    assert not torch.allclose(found, responses(convolved, "lrp_zplus", some_images()))


@pytest.mark.parametrize("rule", COMPOSITES)
def test_constants_behind_a_dense_layer_are_its_bias(rule: str) -> None:
    """Written out, or a norm's shift: passed on, they would make shares without bound where an output is nearly zero."""
    torch.manual_seed(6)
    layer, norm, last = nn.Linear(64, 6), normed(6, nn.BatchNorm1d).eval(), nn.Linear(6, 4)
    weight, bias = layer.weight.detach().t(), layer.bias.detach()
    body = [conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    expected = responses(nn.Sequential(*body, merged(layer, norm), nn.Tanh(), last), rule, some_images())
    written = Lambda(lambda x: x @ weight.to(x.dtype) + bias.to(x.dtype))
    found = responses(nn.Sequential(*body, written, norm, nn.Tanh(), last), rule, some_images())
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


# ---- The first layer, flat


class Taking(nn.Module):
    """What `function` makes of the image and some layers, averaged, is a class's; class 1 is its opposite."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images, *self.layers).mean((1, 2, 3))[:, None] * torch.tensor([1.0, -1.0])


def ones(inputs: int, kernel: int, **keywords: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, 1, kernel, bias=False, **keywords)
    nn.init.ones_(layer.weight)
    return layer


def last_of(maps: Tensor) -> Tensor:
    """A layer of its own, so that what is before it does not decide the classes."""
    return F.conv2d(maps, maps.new_ones((1, maps.shape[1], 1, 1)))


LINE = torch.tensor([[[[1.0, 5.0, 0.0]]]])


def flat(function: Callable[..., Tensor], *layers: nn.Module, image: Tensor = LINE) -> list[float]:
    """What the pixels of class 0 receive, in units of what it sends back."""
    model = Taking(function, *layers)
    found, given = responses(model, "lrp_epsilon_plus_flat", image), sent(model, "lrp_epsilon_plus_flat", image)
    return (found[0, 0] / given[0, 0]).flatten().tolist()


def test_first_layer_gives_equal_shares() -> None:
    """Two windows, 1 + 5 = 6 and 5 + 0 = 5: of 11, 6/2 for the first pixel, 6/2 + 5/2 for the second, 5/2 for the third."""
    layer = nn.Conv2d(1, 1, (1, 2), bias=False)
    nn.init.ones_(layer.weight)
    assert flat(lambda x, layer: last_of(layer(x)), layer) == pytest.approx([3 / 11, 5.5 / 11, 2.5 / 11], rel=1e-5)


@pytest.mark.parametrize(
    "before",
    [
        lambda x: (x - 0.5) / 0.25,
        lambda x: x.sub(0.5).div_(0.25),
        lambda x: F.batch_norm(x, x.new_tensor([0.5]), x.new_tensor([0.0625]), eps=0),
        lambda x: torch.cat([x, x], 1)[:, :1].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) * 4 - 2,
    ],
)
def test_first_layer_is_so_behind_what_scales_the_image(before: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(7)
    body = [conv(1, 6), nn.ReLU(), conv(6, 6), nn.ReLU(), *global_head(6)]
    images = some_images(1)
    found = responses(nn.Sequential(Lambda(before), *body), "lrp_epsilon_plus_flat", images)
    expected = responses(nn.Sequential(*body), "lrp_epsilon_plus_flat", (images - 0.5) / 0.25)
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_padding_takes_no_share(value: float) -> None:
    """Of class 0 all arrives; what stands in the padding, before or behind the image is scaled, is no pixel."""
    torch.manual_seed(8)
    body = [nn.Conv2d(1, 6, 3, stride=2, bias=False), nn.ReLU(), *global_head(6, bias=False)]
    padded = Lambda(lambda x: F.pad(x * 2 - 1, (1, 2, 0, 1), value=value) / 3)
    model, images = nn.Sequential(padded, *body), some_images(1)
    given = sent(model, "lrp_epsilon_plus_flat", images)
    assert (given > 0).any()
    found = responses(model, "lrp_epsilon_plus_flat", images)
    torch.testing.assert_close(found.sum((2, 3)), given, rtol=1e-4, atol=0)
    if value == 0:
        inner = nn.Conv2d(1, 6, 3, stride=2, padding=1, bias=False)
        inner.weight = body[0].weight
        alike = responses(
            nn.Sequential(Lambda(lambda x: (x * 2 - 1) / 3), inner, *body[1:]), "lrp_epsilon_plus_flat", images[..., :7, :7]
        )
        same = nn.Sequential(Lambda(lambda x: F.pad((x * 2 - 1) / 3, (1, 1, 1, 1))), *body)
        torch.testing.assert_close(responses(same, "lrp_epsilon_plus_flat", images[..., :7, :7]), alike)


def test_all_layers_that_the_image_reaches_first_are_flat() -> None:
    """Windows of 1 and of 3: 1 + 5 + 0 pixel by pixel, and 6 of the whole line, 2 for each pixel."""
    torch.manual_seed(9)

    def branches(x: Tensor, narrow: nn.Module, broad: nn.Module) -> Tensor:
        return last_of(torch.cat([narrow(x), broad(x).expand(-1, -1, -1, 3) / 3], 1))

    broad = nn.Conv2d(1, 1, (1, 3), bias=False)
    nn.init.ones_(broad.weight)
    assert flat(branches, ones(1, 1), broad) == pytest.approx([3 / 12, 7 / 12, 2 / 12], rel=1e-5)


def test_flat_first_layer_that_takes_a_vector_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    images = some_images(3, 2)
    with pytest.raises(UnsupportedModel) as caught:
        responses(model, "lrp_epsilon_plus_flat", images)
    assert str(caught.value) == (
        "operation 'linear' takes the image as a vector, whose values would all get the same under rule 'lrp_epsilon_plus_flat'; "
        "use lrp_epsilon_plus"
    )
    assert torch.equal(responses(model, "lrp_epsilon_plus", images), responses(model, "lrp_epsilon", images))


# ---- Where no rectifier stands before or behind


def test_outputs_below_zero_are_shared_by_negative_contributions_as_the_generalised_gamma_rule_does() -> None:
    """Andéol et al. 2021, at the limit of γ: in zennit, `Gamma` of a large γ."""
    zennit = import_zennit()
    torch.manual_seed(3)
    body = [nn.Conv2d(3, 6, 3), nn.GELU(), nn.Conv2d(6, 5, 3), nn.Tanh(), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(80, 12), nn.SiLU(), nn.Linear(12, 4)).double().eval()
    images = some_images().double()
    stabilizer = zennit.core.Stabilizer(EPSILON, norm_scale=True)
    layers = (nn.Conv2d, nn.Linear), zennit.rules.Gamma(1e12, stabilizer, "bias")
    expected = zennit_responses(model, images, [((nn.GELU, nn.Tanh, nn.SiLU), zennit.rules.Pass()), layers])
    found = responses(model, "lrp_zplus", images)
    assert (expected >= 0).all()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.max()))
    torch.testing.assert_close(found.sum((2, 3)), sent(model, "lrp_zplus", images), rtol=1e-4, atol=0)


BEHIND: dict[str, tuple[int, Callable[[], list[nn.Module]]]] = {
    # How many sides of the convolution are left: outputs above zero, and those below where anything comes back to these.
    "rectifier": (1, lambda: [nn.ReLU()]),
    "rectifier in place, pooling": (1, lambda: [nn.ReLU(inplace=True), nn.MaxPool2d(2), Residual(conv(6, 6))]),
    "no rectifier": (2, lambda: [nn.GELU()]),
    "rectifier and a term": (2, lambda: [nn.ReLU(), Lambda(lambda x: x - 0.5)]),
    "rectifier and a norm": (2, lambda: [nn.ReLU(), normed(6)]),
    "a way past the rectifier": (2, lambda: [Residual(nn.ReLU())]),
}


@pytest.mark.parametrize("name", BEHIND)
def test_outputs_below_zero_are_left_out_only_where_nothing_comes_back_to_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(10)
    left, behind = BEHIND[name]
    model, images = nn.Sequential(conv(3, 6, bias=True), *behind(), conv(6, 6), nn.ReLU(), *global_head(6)), some_images()
    found = responses(model, "lrp_zplus", images)
    steps = Clear(model, "lrp_zplus", precision="float64").plain(images).tape.history.steps
    assert len(steps[0].edge.node.sides) == left
    monkeypatch.setattr("auditor.backward.history.History.leave_out_below_zero", lambda self: None)
    monkeypatch.setattr("auditor.operations.lrp.Shares.is_reached", lambda self, arrived: True)
    expected = responses(model, "lrp_zplus", images)
    assert expected.any()
    assert torch.equal(found, expected)


# ---- What is shared adds up


class Residual(nn.Module):
    """A block of any kind beside what it takes."""

    def __init__(self, *block: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*block)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.block(values)


class Dense(Residual):
    def forward(self, values: Tensor) -> Tensor:
        return torch.cat([values, self.block(values)], 1)


def centred(channels: int) -> nn.Module:
    """A layer norm along the channels of maps, without a shift."""
    norm = nn.LayerNorm(channels, bias=False)
    return nn.Sequential(Lambda(lambda x: x.permute(0, 2, 3, 1)), norm, Lambda(lambda x: x.permute(0, 3, 1, 2)))


def conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


WITHOUT_CONSTANTS: dict[str, Callable[[], list[nn.Module]]] = {
    "plain": lambda: [conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8), nn.ReLU(), *global_head(8, False)],
    "residual": lambda: [
        conv(3, 8),
        *(Residual(conv(8, 8), nn.ReLU(), conv(8, 8)) for _ in range(6)),
        nn.AvgPool2d(2),
        *global_head(8, False),
    ],
    "dense": lambda: [conv(3, 8), *(Dense(nn.ReLU(), conv(8 + 4 * k, 4)) for k in range(6)), *global_head(32, False)],
    "smooth": lambda: [
        conv(3, 8),
        *(Residual(centred(8), conv(8, 8), nn.GELU(), conv(8, 8)) for _ in range(6)),
        *global_head(8, False),
    ],
    "leaky": lambda: [conv(3, 8), nn.LeakyReLU(0.2), conv(8, 8), nn.Hardswish(), conv(8, 8), nn.Tanh(), *global_head(8, False)],
    "behind flatten": lambda: [conv(3, 4), nn.SiLU(), nn.Flatten(), nn.Linear(256, 9, False), nn.ReLU(), nn.Linear(9, 4, False)],
}


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", SHARING)
@pytest.mark.parametrize("name", WITHOUT_CONSTANTS)
def test_relevance_is_conserved_where_no_constant_takes_any(name: str, rule: str, seed: int) -> None:
    torch.manual_seed(seed)
    model, images = nn.Sequential(*WITHOUT_CONSTANTS[name]()), some_images()
    expected = sent(model, rule, images)
    assert (expected > 0).any(1).all()
    torch.testing.assert_close(responses(model, rule, images).sum((2, 3)), expected, rtol=1e-5, atol=0)


def calibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """With batch norm's statistics of some images, and shifts."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.normal_(module.bias, 0, 0.3)
    model.train()
    with torch.no_grad():
        model(images)
    return model.eval()


BY_PIECES: dict[str, Callable[[], list[nn.Module]]] = {
    "norm, rectifier, conv": lambda: [
        conv(3, 8, bias=True),
        *(Residual(nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8)) for _ in range(24)),
    ],
    "conv, rectifier, norm": lambda: [
        conv(3, 8, bias=True),
        *(Residual(conv(8, 8, bias=True), nn.ReLU(), nn.BatchNorm2d(8)) for _ in range(24)),
    ],
    "dense": lambda: [conv(3, 4), *(Dense(nn.BatchNorm2d(4 + k), nn.ReLU(), conv(4 + k, 1)) for k in range(24)), conv(28, 8)],
    "constants between": lambda: [
        conv(3, 8),
        *(Residual(Lambda(lambda x: 2 * x - 0.3), nn.ReLU(), conv(8, 8), Lambda(lambda x: (0.1 - x) / 3)) for _ in range(12)),
    ],
}


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("name", BY_PIECES)
def test_epsilon_is_gradient_times_input_where_networks_are_linear_by_pieces(name: str) -> None:
    """Ancona et al. 2018, at the limit of ε: biases and norms take their part, wherever they stand, and nothing grows by them."""
    torch.manual_seed(0)
    images = some_images()
    model = calibrated(nn.Sequential(*BY_PIECES[name](), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32, 4)), images).double()
    given = images.double().requires_grad_()
    logits = model(given)
    expected = torch.stack(
        [
            (given * torch.autograd.grad(logits[:, label], given, (logits[:, label] > 0).double(), retain_graph=True)[0]).sum(1)
            for label in range(4)
        ],
        1,
    ).detach()
    found = responses(model, "lrp_epsilon", images)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5 * float(expected.abs().max()))


class Transformer(nn.Module):
    """Tokens of 2 × 2 pixels with a class token and positions."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 2, 2), nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0, F.gelu, batch_first=True, norm_first=True) for _ in range(depth)
        )
        self.last = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        for block in self.blocks:
            tokens = tokens + block.self_attn(*[block.norm1(tokens)] * 3, need_weights=False)[0]
            tokens = tokens + block.linear2(F.gelu(block.linear1(block.norm2(tokens))))
        return self.last(tokens[:, 0])


DEEP: dict[str, Callable[[], nn.Module]] = {
    "norm, rectifier, conv": lambda: nn.Sequential(
        conv(3, 8), *(Residual(nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8)) for _ in range(40)), *global_head(8)
    ),
    "conv, rectifier, norm": lambda: nn.Sequential(
        conv(3, 8), *(Residual(conv(8, 8), nn.GELU(), nn.BatchNorm2d(8)) for _ in range(64)), *global_head(8)
    ),
    "sigmoids": lambda: nn.Sequential(
        conv(3, 8), *(nn.Sequential(nn.BatchNorm2d(8), nn.Sigmoid(), conv(8, 8)) for _ in range(12)), *global_head(8)
    ),
    "softplus": lambda: nn.Sequential(conv(3, 8), *(Residual(conv(8, 8), nn.Softplus()) for _ in range(12)), *global_head(8)),
    "transformer": lambda: Transformer(12),
}


@pytest.mark.parametrize("rule", SHARING)
@pytest.mark.parametrize("name", DEEP)
def test_relevance_of_deep_networks_is_finite_and_bounded(name: str, rule: str) -> None:
    """A constant that takes no part of its own makes shares without bound: 1e7 times what is sent in 24 blocks, NaN in 64."""
    torch.manual_seed(0)
    images = some_images()
    model = calibrated(DEEP[name](), images)
    found, given = responses(model, rule, images, "float32"), sent(model, rule, images, "float32")
    assert found.isfinite().all()
    assert found.any()
    most = 1.001 if rule == "lrp_zplus" else 1000
    assert (found.abs().sum((2, 3)) <= most * given).all()


@pytest.mark.parametrize("rule", SHARING)
@pytest.mark.parametrize("size", [1e-10, 1e-20, 1e-30, 1e-38, 1e-42, 1e10])
def test_weights_of_any_size_make_finite_shares(rule: str, size: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), nn.SiLU(), conv(8, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8), *global_head(8))
    with torch.no_grad():
        model[0].weight.mul_(size)
        model[2].weight.mul_(size)
        nn.init.normal_(model[3].bias)
    found = responses(model, rule, some_images(), "float32")
    assert found.isfinite().all()


def test_difference_the_other_way_round() -> None:
    """torch.rsub takes what it subtracts first: 5 − 3 = 2, of which 5 has 5 and 3 has −3; of sent 2, z⁺ gives all to 5."""
    first, second = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 5.0)

    class Difference(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.rsub(images[:, :1], images[:, 1:]).mean((2, 3)) @ torch.tensor([[1.0, -1.0]])

    for rule, expected in (("lrp_epsilon", [-3.0, 5.0]), ("lrp_zplus", [0.0, 2.0])):
        backprojection = Clear(Difference(), rule).forward(torch.cat([first, second], 1))
        assert backprojection.logits.tolist() == [[2.0, -2.0]]
        entering = backprojection.head.enter(backprojection.seeds[:, 0], torch.tensor([0]))
        (received,) = torch.autograd.grad(backprojection.head.root, backprojection.images, entering)
        assert received.flatten().tolist() == pytest.approx(expected, rel=1e-5)
