"""Two convolutions next to the image that go back as one: which do, and that it changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditor import Clear
from auditor.backward.trace import Backprojection
from auditor.folding.plan import plan_fold
from auditor.operations.rule_table import RULES

Pair = tuple[int, int]
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))
PAIRS = st.tuples(st.integers(1, 2), st.integers(1, 2))
PADDINGS = st.tuples(st.integers(0, 3), st.integers(0, 3))
CLASSES = torch.arange(3)
IMAGES = torch.randn(3, 2, 8, 9, generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    """`way` through two convolutions and more, and a linear layer for three classes."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 4, 3, **{"padding": 1} | options)
        self.last = nn.Linear(4, 3)
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
        nn.init.normal_(self.norm.weight)
        self.way = way

    def forward(self, images: Tensor) -> Tensor:
        # Where a pooling chooses is the last thing that depends on the image.
        pooled = F.max_pool2d(self.way(self, images), 2)
        scores: Tensor = self.last(pooled.mean((2, 3)))
        return scores


def block(body: Any, images: Tensor) -> Tensor:
    maps: Tensor = body.second(body.first(images).relu())
    return maps.relu()


def written_to(body: Any, images: Tensor) -> Tensor:
    maps: Tensor = block(body, images)
    maps[:, 1:].mul_(3.0)
    return maps.mul_(-2.0).add_(1.0)


JOINED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "block": block,
    "nothing between": lambda body, images: body.second(body.first(images)),
    "norm": lambda body, images: body.second(F.relu(body.norm(body.first(images)))),
    "norm behind": lambda body, images: body.second(body.norm(body.first(images).relu())),
    "in place": lambda body, images: F.relu(body.second(F.relu(body.first(images), inplace=True)), inplace=True),
    "dropout": lambda body, images: body.second(F.dropout(body.first(images).relu_(), training=False)),
    "sigmoid": lambda body, images: body.second(torch.sigmoid(body.first(images))),
    "written to behind": written_to,
    "used twice behind": lambda body, images: (maps := block(body, images)) + maps.sigmoid(),
}
APART: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "image used twice": lambda body, images: block(body, images) + body.second(body.first(images)),
    "used twice between": lambda body, images: body.second(maps := body.first(images)) + maps[:, :4],
    "written to between": lambda body, images: body.second(body.first(images).relu().mul_(2.0)),
    "written to in part": lambda body, images: body.second(written_in_part(body.first(images))),
    "padding between": lambda body, images: body.second(F.pad(body.first(images), (1, 1, 1, 1))),
    "pooling between": lambda body, images: body.second(F.max_pool2d(body.first(images), 2, 1)),
    "norm of the image": lambda body, images: body.second(
        body.first(F.batch_norm(images, torch.zeros(2), torch.full((2,), 4.0)))
    ),
    "kernels of the image": lambda body, images: F.conv2d(body.first(images), body.second.weight * images.detach().mean()),
    "one convolution": lambda body, images: body.first(images)[:, :4],
}


def written_in_part(maps: Tensor) -> Tensor:
    maps[:, 0].mul_(2.0)
    return maps


@settings(max_examples=150, deadline=None)
@given(
    kernels=st.tuples(SIZES, SIZES),
    strides=st.tuples(PAIRS, PAIRS),
    paddings=st.tuples(PADDINGS, PADDINGS),
    dilations=st.tuples(PAIRS, PAIRS),
    size=st.tuples(st.integers(7, 13), st.integers(7, 13)),
    seed=st.integers(0, 99),
)
def test_two_convolutions_of_any_geometry_go_back_as_autograd_sends_them(
    kernels: tuple[Pair, Pair],
    strides: tuple[Pair, Pair],
    paddings: tuple[Pair, Pair],
    dilations: tuple[Pair, Pair],
    size: Pair,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    first, second = (
        nn.Conv2d(inner, outer, kernels[place], strides[place], paddings[place], dilations[place]).double()
        for place, (inner, outer) in enumerate([(3, 64), (64, 4)])
    )
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    try:
        seeds = second(first(images).relu()).clamp(min=0)
    except RuntimeError:
        # Kernels larger than what they are applied to.
        reject()
    leaf = images.clone().requires_grad_()
    expected = torch.autograd.grad(second(first(leaf)), leaf, seeds)[0].sum(1)
    model = nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backprojection = Clear(model, precision="float64", rule="linear").plain(images)
    reach = [
        dilations[0][axis] * (kernels[0][axis] - 1) + strides[0][axis] * dilations[1][axis] * (kernels[1][axis] - 1) + 1
        for axis in (0, 1)
    ]
    assert (backprojection.stem is not None) == (reach[0] * reach[1] <= 64)
    torch.testing.assert_close(streamed(backprojection, torch.arange(4)).sum(1), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_is_joined_changes_nothing(name: str, precision: str) -> None:
    clear = Clear(Body(JOINED[name]).eval(), precision=precision, rule="linear")
    joined, apart = both(clear, IMAGES)
    torch.testing.assert_close(joined, apart, rtol=1e-4, atol=1e-5 * float(apart.abs().max()))
    assert apart.abs().max() > 0


@pytest.mark.parametrize("name", APART)
def test_what_is_not_joined(name: str) -> None:
    assert Clear(Body(APART[name]).eval(), rule="linear").plain(IMAGES).stem is None


@pytest.mark.parametrize("options", [{"groups": 2}, {"padding": "same"}, {"padding_mode": "circular"}])
def test_other_convolutions_are_not_joined(options: dict[str, Any]) -> None:
    assert Clear(Body(block, **options).eval(), rule="linear").plain(IMAGES).stem is None


@pytest.mark.parametrize(
    "options", [{"rule": rule} for rule in RULES if rule != "linear"] + [{"rule": "linear", "reduction": "l2"}], ids=str
)
def test_only_linear_with_summed_channels_joins(options: dict[str, str]) -> None:
    clear = Clear(Body(lambda body, images: body.second(body.first(images))).eval(), **options)  # type: ignore[arg-type]
    assert clear.plain(IMAGES).stem is None


def test_more_taps_than_it_saves_are_not_joined() -> None:
    """One channel between two 3 × 3 convolutions: 25 products in place of 9 and 9."""
    model = nn.Sequential(nn.Conv2d(2, 1, 3), nn.ReLU(), nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert Clear(model, rule="linear").plain(IMAGES).stem is None


def test_a_basis_within_a_stem_is_folded() -> None:
    """The fewest channels that every way back passes are those between the two convolutions."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    clear = Clear(model, rule="linear")
    backprojection = clear.plain(IMAGES)
    assert backprojection.stem is not None
    plan = plan_fold(clear, IMAGES)
    assert plan.narrow is not None
    assert backprojection.stem.holds(backprojection.tape.history.steps[plan.narrow].output)
    assert clear.fold(IMAGES, 1_000_000_000) < 1e-5


def test_every_class_alone_has_the_bits_it_has_among_others() -> None:
    clear = Clear(Body(block).eval(), rule="linear")
    expected, alone = streamed(clear.plain(IMAGES)), clear.plain(IMAGES)
    found = [streamed(alone, torch.tensor([number])) for number in (2, 0, 1)]
    assert torch.equal(torch.cat([found[1], found[2], found[0]], 1), expected)


def both(clear: Clear, images: Tensor) -> tuple[Tensor, Tensor]:
    backprojection = clear.plain(images)
    assert backprojection.stem is not None
    joined = streamed(backprojection)
    backprojection.stem = None
    return joined, streamed(backprojection)


def streamed(backprojection: Backprojection, classes: Tensor = CLASSES) -> Tensor:
    return torch.cat([responses for _, responses in backprojection.stream(classes)], 1)
