"""Folded against plain: the operator must give what the network gives."""

import dataclasses
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from auditor import CannotFold, Clear
from auditor.folding.build import assemble, fold_rows
from auditor.folding.folded import Folded
from auditor.folding.operator import restore_operator
from auditor.folding.plan import FoldPlan, plan_fold
from tests.auditor.networks import AveragePool, Concat, FlattenHead, OverlappingPool, PointwiseHead, Residual, random_network

CUTS = [
    (PointwiseHead, "max_pool2d"),
    (OverlappingPool, "max_pool2d"),
    (AveragePool, "image"),
    (FlattenHead, "image"),
    (Residual, "image"),
    (Concat, "cat"),
]
ROOM = 1 << 30


def all_responses(clear: Clear, images: Tensor) -> Tensor:
    return torch.cat([responses for _, responses in clear.responses(images)], 1)


class Narrow(nn.Module):
    """Three channels, widened by a 1 × 1 convolution for seven classes: the basis is sent back from the three."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU6(), nn.Conv2d(3, 9, 1), nn.BatchNorm2d(9), nn.ReLU6())
        self.last = nn.Linear(9, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.body(images).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "where"), CUTS)
@pytest.mark.parametrize("reduction", ["sum", "l2", "max"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_folded_is_plain(kind: type[nn.Module], where: str, reduction: str, top_k: int | None) -> None:
    model, images = random_network(kind, samples=4)
    plain, folded = (Clear(model, reduction=reduction, top_k=top_k, rule="linear") for _ in range(2))
    assert folded.fold(images, ROOM) < 1e-5
    assert folded.operator is not None
    assert folded.operator.plan.where == where
    expected, actual = all_responses(plain, images), all_responses(folded, images)
    assert expected.any()
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    # The classes compete in another way once folded; where two are as good as equal, either may win.
    clear = (plain(images).dominant_response - folded(images).dominant_response).abs().max()
    assert clear <= 1e-5 * expected.abs().max()
    assert (plain(images).dominant_class == folded(images).dominant_class).float().mean() > 0.99


def test_basis_behind_a_widening_is_the_narrow_one() -> None:
    model, images = Narrow().eval(), torch.randn(3, 2, 5, 6)
    plain, folded = Clear(model, rule="linear"), Clear(model, rule="linear")
    plan = plan_fold(folded, images)
    assert plan.rows == 3 * 5 * 6, "three channels, not seven classes"
    folded.fold(images, ROOM)
    torch.testing.assert_close(all_responses(folded, images), all_responses(plain, images), rtol=1e-4, atol=1e-6)


class Mixer(nn.Module):
    """Patches as tokens, mixed across and along; nothing on the way depends on the image but rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.patches = nn.Conv2d(1, 6, 2, stride=2)
        self.tokens, self.channels, self.last = nn.Linear(16, 16), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2)
        mixed = (tokens + nn.functional.gelu(self.tokens(tokens))).transpose(1, 2)
        return self.last((mixed + nn.functional.silu(self.channels(mixed))).mean(1))  # type: ignore[no-any-return]


class StemPool(nn.Module):
    """As ResNet begins: convolution, batch norm, rectifier, overlapping max-pooling; then a block and a wide layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Linear(4, 6)
        for norm in (self.stem[1], self.inner[1]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.pool(self.stem(images))
        return self.last(torch.relu(self.inner(pooled) + pooled).mean((2, 3)))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """A squeeze-excite gate in the middle, fixed layers before and behind it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.first, self.squeeze, self.excite = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2), nn.Linear(2, 4)
        self.second, self.last = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.first(images))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(maps.mean((2, 3))))))
        maps = maps * gate[:, :, None, None]
        return self.last(torch.relu(self.second(maps)).mean((2, 3)))  # type: ignore[no-any-return]


class Patches(nn.Module):
    """Patches of 8 × 8 pixels to one number each, and 300 classes: what all of them send back is made of as many patterns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.second = nn.Conv2d(1, 1, 8, stride=8), nn.Conv2d(1, 6, 3, padding=1)
        self.last = nn.Linear(6, 300)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(images)))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("top_k", [None, 5])
def test_operator_of_few_patterns_is_plain(precision: str, top_k: int | None) -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    plain, folded = (Clear(Patches().eval(), precision=precision, top_k=top_k, rule="linear") for _ in range(2))
    tolerance = 5e-2 if precision == "bfloat16" else 1e-5
    assert folded.fold(images, ROOM) <= tolerance
    operator = folded.operator
    assert operator is not None
    assert operator.patterns is not None
    assert operator.memory < 300 * 42 * 56 * 48 * folded.dtype.itemsize / 4
    others = torch.randn(7, 1, 56, 48, generator=torch.Generator().manual_seed(3))
    expected = all_responses(plain, others)
    assert (all_responses(folded, others) - expected).abs().max() <= tolerance * expected.abs().max()
    one, other = plain(others), folded(others)
    assert (one.dominant_response - other.dominant_response).abs().max() <= tolerance * expected.abs().max()
    assert (one.dominant_class == other.dominant_class).float().mean() > (0.8 if precision == "bfloat16" else 0.99)


def test_where_patterns_lose_too_much_the_operator_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr("auditor.folding.build.LOST", 1e4)
    clear = Clear(Patches().eval(), rule="linear")
    assert clear.fold(images, ROOM) < 1e-5
    assert clear.operator is not None
    assert clear.operator.patterns is None


def test_operator_is_restored_from_its_tensors() -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    clear, again = Clear(Patches().eval(), rule="linear"), Clear(Patches().eval(), rule="linear")
    clear.fold(images, ROOM)
    assert clear.operator is not None
    restored = restore_operator(clear.operator.plan, clear.operator.tensors())
    assert again.use(restored, images) < 1e-5
    maps, others = clear(images), again(images)
    assert torch.equal(maps.dominant_class, others.dominant_class)
    assert torch.equal(maps.dominant_response, others.dominant_response)


@pytest.mark.parametrize("size", [1, 2, 70])
def test_chunks_do_not_change_a_bit_of_an_operator_of_patterns(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    images = torch.randn(3, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    clear = Clear(Patches().eval(), rule="linear")
    clear.fold(images, ROOM)
    whole = all_responses(clear, images)
    monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", size * images[:, 0].numel() + 1)
    assert torch.equal(all_responses(clear, images), whole)


@pytest.mark.parametrize(("kind", "where"), [(Mixer, "image"), (StemPool, "max_pool2d"), (Gated, "mul")])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_networks_of_today_are_folded(kind: type[nn.Module], where: str, precision: str) -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    model = kind().eval()
    plain, folded = Clear(model, precision=precision, rule="linear"), Clear(model, precision=precision, rule="linear")
    assert folded.fold(images, ROOM) < 1e-5
    assert folded.operator is not None
    assert folded.operator.plan.where == where
    others = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = all_responses(plain, others)
    assert (all_responses(folded, others) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_attention_at_the_end_leaves_nothing_to_fold() -> None:
    class Transformer(Mixer):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, self.channels(tokens))
            return self.last(nn.functional.layer_norm(mixed, (6,)).mean(1))  # type: ignore[no-any-return]

    with pytest.raises(CannotFold, match="operation 'layer_norm' depends on the input, and nothing lies between"):
        Clear(Transformer(), rule="linear").fold(torch.randn(2, 1, 8, 8), ROOM)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("kind", [OverlappingPool, AveragePool])
def test_chunks_do_not_change_a_bit_once_folded(monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], size: int) -> None:
    model, images = random_network(kind, samples=3)
    clear = Clear(model, rule="linear")
    clear.fold(images, ROOM)
    whole = all_responses(clear, images)
    monkeypatch.setattr("auditor.backward.trace.CHUNK_VALUES", size * images[:, 0].numel() + 1)
    assert torch.equal(all_responses(clear, images), whole)


def test_images_that_go_through_the_network_in_parts_have_the_maps_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = random_network(AveragePool, samples=7)
    clear = Clear(model, rule="linear")
    clear.fold(images, ROOM)
    whole = clear(images)
    monkeypatch.setattr("auditor.backward.trace.FORWARD_VALUES", 3 * images[0].numel())
    parts = clear(images)
    assert clear(images[:0]).dominant_class.shape == (0, *images.shape[2:])
    torch.testing.assert_close(parts.dominant_response, whole.dominant_response)
    torch.testing.assert_close(parts.logits, whole.logits)
    assert (parts.dominant_class == whole.dominant_class).float().mean() > 0.99


class Unbiased(nn.Sequential):
    """Of a blank image no class has a response."""

    def __init__(self) -> None:
        torch.manual_seed(9)
        convolutions = nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False)
        super().__init__(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_every_image_verifies_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """One goes through the network at a time; those without response, and only those, have no say."""
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr("auditor.backward.trace.FORWARD_VALUES", 1)
    clear = Clear(Unbiased().eval(), rule="linear")
    plan = plan_fold(clear, images)
    operator = assemble(clear, images, plan, [fold_rows(clear, images, plan, 0, plan.rows)])
    blank = torch.zeros_like(images[:1])
    with_blank = torch.cat([blank, images, blank])
    assert clear.use(operator, with_blank) == clear.use(operator, images) <= 1e-5
    assert clear.operator is not None
    assert clear.operator.shortcut is not None
    with pytest.raises(CannotFold, match="no class has positive response"):
        clear.use(operator, blank)

    off = dataclasses.replace(operator, tensor=1.01 * operator.tensor)
    with pytest.raises(CannotFold, match=r"deviate from plain ones by 1\.0e-02"):
        clear.use(off, torch.cat([blank, images[3:]]))


def test_bfloat16_operator_is_verified_to_its_own_tolerance() -> None:
    model, images = random_network(Residual, samples=4)
    clear = Clear(model, precision="bfloat16", rule="linear")
    assert 1e-5 < clear.fold(images, ROOM) <= 5e-2
    assert clear.operator is not None
    assert clear.operator.tensor.dtype == torch.bfloat16


def test_rows_in_ranges_are_the_rows_at_once() -> None:
    model, images = random_network(AveragePool)
    clear = Clear(model, rule="linear")
    plan = plan_fold(clear, images)
    at_once = fold_rows(clear, images, plan, 0, plan.rows)
    in_parts = [fold_rows(clear, images, plan, start, min(start + 7, plan.rows)) for start in range(0, plan.rows, 7)]
    torch.testing.assert_close(torch.cat(in_parts), at_once)
    assert clear.use(assemble(clear, images, plan, in_parts), images) < 1e-5


def test_plan_survives_json() -> None:
    model, images = random_network(Residual)
    plan = plan_fold(Clear(model, rule="linear"), images)
    read = json.loads(json.dumps(dataclasses.asdict(plan)))
    assert FoldPlan(**read | {"shape": tuple(read["shape"])}) == plan


def test_operator_of_another_model_is_refused() -> None:
    model, images = random_network(AveragePool)
    other, _ = random_network(AveragePool, seed=99)
    clear, foreign = Clear(model, rule="linear"), Clear(other, rule="linear")
    foreign.fold(images, ROOM)
    assert foreign.operator is not None
    with pytest.raises(CannotFold, match="deviate"):
        clear.use(foreign.operator, images)
    assert clear.operator is None


def test_operator_of_another_size_is_not_used() -> None:
    model, images = random_network(AveragePool)
    clear = Clear(model, rule="linear")
    clear.fold(images, ROOM)
    larger = torch.randn(2, 1, 12, 12)
    assert not isinstance(clear.forward(larger), Folded)
    torch.testing.assert_close(clear(larger).dominant_response, Clear(model, rule="linear")(larger).dominant_response)


@pytest.mark.parametrize(
    ("make", "memory", "message"),
    [
        (lambda model: Clear(model, rule="linear"), 10, "memory"),
        (lambda model: Clear(model, "guided"), ROOM, "guided"),
        (lambda model: Clear(model, "deconv"), ROOM, "deconv"),
    ],
)
def test_what_cannot_be_folded_goes_the_plain_way(make: Callable[[nn.Module], Clear], memory: int, message: str) -> None:
    model, images = random_network(AveragePool)
    clear = make(model)
    before = clear(images)
    with pytest.raises(CannotFold, match=message):
        clear.fold(images, memory)
    assert torch.equal(clear(images).dominant_response, before.dominant_response)


def test_an_operator_may_take_what_is_allowed_whatever_its_classes_would() -> None:
    images = torch.randn(4, 1, 56, 48, generator=torch.Generator().manual_seed(2))
    clear = Clear(Patches().eval(), rule="linear")
    rows = plan_fold(clear, images).memory
    assert rows == 6 * 42 * 56 * 48 * 4, "six channels decide 300 classes at each of 6 × 7 positions"
    with pytest.raises(CannotFold, match=r"building the operator takes 0\.0 GB of memory"):
        clear.fold(images, rows - 1)
    assert clear.fold(images, 2 * rows) < 1e-5
    model, few = Narrow().eval(), torch.randn(3, 2, 5, 6)
    with pytest.raises(CannotFold, match=r"the operator takes 0\.0 GB of memory"):
        Clear(model, rule="linear").fold(few, 3 * 30 * 30 * 4)
    Clear(model, rule="linear").fold(few, 7 * 30 * 30 * 4)


def test_branch_that_python_takes_is_found_out() -> None:
    """The tape does not see it; the check on real images does."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            scale = 2.0 if images.detach()[0, 0, 0, 0].item() > 0 else 0.5
            return self.last(torch.relu(self.first(images) * scale).mean((2, 3)))  # type: ignore[no-any-return]

    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)).abs()
    clear = Clear(Branching(), rule="linear")
    plan = plan_fold(clear, images)
    operator = assemble(clear, images, plan, [fold_rows(clear, images, plan, 0, plan.rows)])
    with pytest.raises(CannotFold, match="deviate"):
        clear.use(operator, -images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", [Mixer, StemPool, Gated])
def test_folded_on_cuda_is_plain_on_the_cpu(kind: type[nn.Module]) -> None:
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    model = kind().eval()
    expected = all_responses(Clear(model, precision="float64", rule="linear"), images)
    folded = Clear(model.cuda(), precision="float64", rule="linear")
    assert folded.fold(images.cuda(), ROOM) < 1e-6
    torch.testing.assert_close(all_responses(folded, images.cuda()).cpu(), expected, rtol=1e-5, atol=1e-6)
