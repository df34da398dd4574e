"""R(x|c) against eq. 3 in matrix form, answers worked out by hand, captum and zennit."""

import copy

import numpy as np
import pytest
import torch
from captum.attr import LRP, Deconvolution, GuidedBackprop, InputXGradient, Saliency
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from torch import Tensor, nn

from auditor import Clear
from auditor.backward.trace import Traced, chunks
from auditor.operations.lrp import EPSILON
from tests.auditor import matrix_form, matrix_rules
from tests.auditor.networks import CLASSES, NETWORKS, OverlappingPool, PointwiseHead, Residual, random_network
from tests.auditor.peers import import_zennit, zennit_responses


def all_responses(clear: Clear, images: Tensor) -> Tensor:
    """(N, C, H, W)"""
    return torch.cat([responses for _, responses in clear.responses(images)], 1)


@pytest.mark.parametrize("rule", ["linear", "deconv", "gradient", "guided"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_matches_eq_3_in_matrix_form(kind: type[nn.Module], rule: str) -> None:
    model, images = random_network(kind)
    clear = Clear(model, rule=rule, precision="float64")
    traced = [model.trace(matrix_form.image_node(image)) for image in images]
    expected = np.stack([matrix_rules.responses(node, rule).sum(1) for node in traced])
    assert np.count_nonzero(expected.any((2, 3))) >= 4, "the network must give several classes something to say"

    logits = np.stack([node.values.reshape(CLASSES, -1).mean(1) for node in traced])
    np.testing.assert_allclose(clear(images).logits.numpy(), logits, rtol=1e-5, atol=1e-6)
    tolerance = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(all_responses(clear, images).numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", NETWORKS)
def test_matrix_form_runs_the_same_network(kind: type[nn.Module]) -> None:
    """Guards the reference itself: its class responses average to the network's output."""
    model, images = random_network(kind)
    expected = model.double()(images.double()).detach().numpy()
    traced = [model.trace(matrix_form.image_node(image)).values.reshape(CLASSES, -1).mean(1) for image in images]
    np.testing.assert_allclose(np.stack(traced), expected, rtol=1e-10, atol=1e-12)


def test_float32_is_close_to_matrix_form() -> None:
    model, images = random_network(Residual)
    traced = [model.trace(matrix_form.image_node(image)) for image in images]
    expected = np.stack([matrix_rules.responses(node, "linear").sum(1) for node in traced])
    actual = all_responses(Clear(model, rule="linear"), images).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def overlapping_by_hand() -> tuple[nn.Module, Tensor]:
    """Two input channels of 1 × 4; a 1 × 2 kernel; a rectifier; 1 × 2 windows that overlap; two classes.

    convolution: 1·1 + 2·0 − 2·0 + 1·1 = 2, 1·0 + 2·2 − 2·1 + 1·2 = 4, 1·2 + 2·1 − 2·2 + 1·0 = 0
    pooled: max(2, 4) = 4, max(4, 0) = 4, both from position 1
    z_0 = 1·4 = 4, 4   z_1 = −1·4 + 5 = 1, 1
    """
    model = nn.Sequential(
        nn.Conv2d(2, 1, (1, 2), bias=False),
        nn.ReLU(),
        nn.MaxPool2d((1, 2), stride=1),
        nn.Conv2d(1, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1, 2]], [[-2, 1]]]]))
        model[3].weight.copy_(torch.tensor([[[[1]]], [[[-1]]]]))
        model[3].bias.copy_(torch.tensor([0, 5]))
    return model, torch.tensor([[[[1.0, 0, 2, 1]], [[0, 1, 2, 0]]]])


@pytest.mark.parametrize(
    ("rule", "class_0", "class_1"),
    [
        # Class 0 sends 4 + 4 = 8 to position 1, which the kernel turns into 8·(1 − 2) = −8 there and 8·(2 + 1) = 24
        # to the right; class 1 sends −1 − 1 = −2: 2 and −6.
        ("linear", [0, -8, 24, 0], [0, 2, -6, 0]),
        # The rectifier stops −2.
        ("deconv", [0, -8, 24, 0], [0, 0, 0, 0]),
        # Position 1 passed forward, 4 > 0.
        ("gradient", [0, -8, 24, 0], [0, 2, -6, 0]),
        ("guided", [0, -8, 24, 0], [0, 0, 0, 0]),
    ],
)
def test_overlapping_windows_by_hand(rule: str, class_0: list[int], class_1: list[int]) -> None:
    model, image = overlapping_by_hand()
    clear = Clear(model, rule=rule)
    assert all_responses(clear, image)[0, :, 0].tolist() == [class_0, class_1]
    assert clear(image).logits.tolist() == [[4, 1]]


def test_class_with_negative_response_only_sends_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unrectified, −4 · −1 would come back as a positive 4 and the class would dominate."""
    model, image = overlapping_by_hand()
    with torch.no_grad():
        model[3].bias.zero_()
    sent = []
    send_back = Traced.send_back

    def counting(self: Traced, classes: Tensor) -> Tensor:
        sent.append(classes.tolist())
        return send_back(self, classes)

    monkeypatch.setattr(Traced, "send_back", counting)
    response = all_responses(Clear(model, rule="linear"), image)[0, :, 0]
    assert response.tolist() == [[0, -8, 24, 0], [0, 0, 0, 0]]
    assert sent == [[0]], "class 1 need not be sent back to know that it is zero"
    backprojection = Clear(model, rule="linear").forward(image)
    assert send_back(backprojection, torch.tensor([1])).count_nonzero() == 0, "and sending it gives the same"


def test_class_positive_for_one_sample_only_is_sent_for_that_one() -> None:
    """Skipping looks at the batch; the answer of a sample does not depend on its neighbours."""
    model, image = overlapping_by_hand()
    batch = torch.cat([image, torch.zeros_like(image)])
    together = all_responses(Clear(model, rule="linear"), batch)
    assert together[0, :, 0].tolist() == [[0, -8, 24, 0], [0, 2, -6, 0]]
    # Of an image of zeros only class 1's bias is left: 5 + 5, sent back to the first position of each window: −5, −5.
    # Kernel transposed: position 0 gets −5·(1 − 2) = 5, position 1 −5·(2 + 1) + 5 = −10, position 2 −15.
    assert together[1, :, 0].tolist() == [[0, 0, 0, 0], [5, -10, -15, 0]]


class Peer(nn.Module):
    """Modules alone, each used once, as captum and zennit need it; classes behind flatten → linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            *(
                nn.Conv2d(2, 4, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(4, 6, 3, padding=1),
                nn.ReLU(),
                nn.AvgPool2d(2, 1),
            )
        )
        self.last = nn.Linear(54, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images).flatten(1))


PEER_IMAGES = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks:UserWarning")
@pytest.mark.parametrize(
    ("rule", "method"),
    [
        ("deconv", Deconvolution),
        ("guided", GuidedBackprop),
        ("gradient", Saliency),
        ("gradient_times_input", InputXGradient),
    ],
)
def test_agrees_with_captum_where_definitions_coincide(rule: str, method: type) -> None:
    """Behind flatten → linear the seed is one number, max(z, 0), or 1 for gradient × input; captum's is 1."""
    model = Peer().eval()
    actual = all_responses(Clear(model, rule=rule), PEER_IMAGES)
    logits = model(PEER_IMAGES).detach()
    keywords = {"abs": False} if method is Saliency else {}
    seeds = (logits > 0).float() if rule == "gradient_times_input" else logits.clamp(min=0)
    for label in range(CLASSES):
        attribution = method(model).attribute(PEER_IMAGES.clone().requires_grad_(), target=label, **keywords).detach().sum(1)
        expected = seeds[:, label, None, None] * attribution
        torch.testing.assert_close(actual[:, label], expected, rtol=1e-5, atol=1e-6)
    assert (logits > 0).any(1).all()


@pytest.mark.parametrize("rule", ["lrp_epsilon", "lrp_zplus"])
def test_agrees_with_captums_relevance(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """At the limit of ε, which is absolute in captum. Its relevance begins with the logit, as ours does where it is positive; its
    z⁺ wants images without negatives."""
    monkeypatch.setattr("auditor.operations.lrp.EPSILON", 0)
    model, images = Peer().eval().double(), PEER_IMAGES.double().abs()
    actual = all_responses(Clear(model, rule=rule, precision="float64"), images)
    logits = model(images).detach()
    assert (logits > 0).any(1).all()
    for label in range(CLASSES):
        peer = copy.deepcopy(model)
        for module in peer.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and rule == "lrp_zplus":
                module.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
            elif not isinstance(module, nn.ReLU | nn.MaxPool2d):
                module.rule = EpsilonRule(1e-12)
        relevance = LRP(peer).attribute(images.clone().requires_grad_(), target=label).detach().sum(1).float()
        expected = torch.where(logits[:, label, None, None] > 0, relevance, 0)
        torch.testing.assert_close(actual[:, label], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rule", ["gradient", "guided", "lrp_epsilon", "lrp_zplus"])
def test_agrees_with_zennit(rule: str) -> None:
    zennit = import_zennit()
    rules, layers = zennit.rules, (nn.Conv2d, nn.Linear, nn.AvgPool2d)
    stabilizer = zennit.core.Stabilizer(EPSILON, norm_scale=True)
    answers = {
        "gradient": [],
        "guided": [(nn.ReLU, rules.ReLUGuidedBackprop())],
        "lrp_epsilon": [(nn.ReLU, rules.Pass()), (layers, rules.Epsilon(stabilizer))],
        "lrp_zplus": [(nn.ReLU, rules.Pass()), (nn.AvgPool2d, rules.Norm(stabilizer)), (layers, rules.ZPlus(stabilizer, "bias"))],
    }
    model, images = Peer().eval().double(), PEER_IMAGES.double().abs()
    actual = all_responses(Clear(model, rule=rule, precision="float64"), images)
    torch.testing.assert_close(actual, zennit_responses(model, images, answers[rule]), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_chunks_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    model, images = random_network(OverlappingPool, samples=3)
    clear = Clear(model, rule="linear")
    whole = all_responses(clear, images)
    monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", size * images[:, 0].numel() + 1)
    streamed = list(clear.responses(images))
    assert [len(classes) for classes, _ in streamed] == [len(part) for part in torch.arange(CLASSES).split(size)]
    assert torch.equal(torch.cat([classes for classes, _ in streamed]), torch.arange(CLASSES))
    assert torch.equal(torch.cat([responses for _, responses in streamed], 1), whole)


@pytest.mark.parametrize("rule", ["deconv", "guided", "lrp_zplus"])
def test_chunks_of_each_samples_own_classes_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    model, images = random_network(Residual, samples=3)
    clear = Clear(model, rule=rule, top_k=3)
    whole = all_responses(clear, images)
    assert whole.any()
    monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", images[:, 0].numel())
    assert torch.equal(all_responses(clear, images), whole)


def test_batch_of_none() -> None:
    model, images = random_network(Residual)
    maps = Clear(model, rule="linear")(images[:0])
    assert maps.dominant_class.shape == (0, 8, 8)
    assert maps.logits.shape == (0, CLASSES)


def test_chunks_cover_every_class_once() -> None:
    assert list(chunks(7, 30, 100)) == [(0, 3), (3, 6), (6, 7)]
    assert list(chunks(2, 101, 100)) == [(0, 1), (1, 2)], "a class larger than the limit goes alone"


def test_order_of_the_batch_does_not_matter() -> None:
    model, images = random_network(PointwiseHead, samples=5)
    clear = Clear(model, rule="linear")
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(all_responses(clear, images[order]), all_responses(clear, images)[order])
    torch.testing.assert_close(all_responses(clear, images[2:3]), all_responses(clear, images)[2:3])


def test_classes_may_differ_between_samples() -> None:
    model, images = random_network(Residual, samples=3)
    backprojection = Clear(model, rule="linear").forward(images)
    every = torch.cat([responses for _, responses in backprojection.stream(torch.arange(CLASSES))], 1)
    own = torch.tensor([[0, 4], [1, 3], [2, 3]])
    ((classes, responses),) = backprojection.stream(own)
    assert torch.equal(classes, own)
    expected = torch.stack([every[sample, own[sample]] for sample in range(3)])
    torch.testing.assert_close(responses, expected)
