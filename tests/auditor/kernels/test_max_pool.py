"""Max-poolings sent back by loops: bit for bit as autograd, and when they are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditor import Clear
from auditor.kernels.max_pool import Pooling, goes_back_by_loops
from auditor.operations.calls import Call


def pooling(values: Tensor, *arguments: Any, **keywords: Any) -> Call:
    return Call(F.max_pool2d, "max_pool2d", (values, *arguments), keywords, [values], False)


def both_ways(values: Tensor, call: Call, seed: int = 0) -> list[Tensor]:
    """What comes back by loops and by autograd."""
    back = []
    for pooled in (Pooling.apply(values, call), call.run()):  # type: ignore[no-untyped-call]
        arrived = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(seed)).to(values.dtype)
        back += torch.autograd.grad(pooled, values, arrived.contiguous(memory_format=torch.channels_last))
    return back


@settings(max_examples=100, deadline=None)
@given(
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    gap=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    size=st.tuples(st.integers(4, 11), st.integers(4, 11)),
    samples=st.integers(1, 5),
    channels=st.integers(1, 20),
    ceil_mode=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_is_what_autograd_sends_back(
    window: tuple[int, int],
    gap: tuple[int, int],
    size: tuple[int, int],
    samples: int,
    channels: int,
    ceil_mode: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Windows with gaps between them or not, cut off at the edge or left out there; many values are equal."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, (samples, channels, *size), generator=generator).to(dtype).requires_grad_()
    stride = (window[0] + gap[0], window[1] + gap[1])
    actual, expected = both_ways(values, pooling(values, window, stride, ceil_mode=ceil_mode), seed)
    assert actual.dtype == dtype
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_how_many_threads_there_are_does_not_matter(number: int, threads: Callable[[int], None]) -> None:
    threads(number)
    values = torch.randn(7, 32, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    actual, expected = both_ways(values, pooling(values, 2))
    assert torch.equal(actual, expected)


MAPS = torch.zeros(2, 32, 12, 12)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (pooling(MAPS, 2), True),
        (pooling(MAPS, (2, 3), (3, 3), 0, 1, True), True),
        (pooling(MAPS.bfloat16(), 2), True),
        (pooling(MAPS.double(), 2), False),
        (pooling(MAPS[:, :8], 2), False),
        (pooling(MAPS[0], 2), False),
        (pooling(MAPS, 3, 2), False),
        (pooling(MAPS, 3, padding=1), False),
        (pooling(MAPS, 2, dilation=2), False),
        (pooling(MAPS, 2, return_indices=True), False),
        (pooling(MAPS.expand(-1, -1, -1, 12).repeat(1, 1, 1, 3000), 2), False),
    ],
)
def test_when_it_goes_back_by_loops(call: Call, expected: bool) -> None:
    assert goes_back_by_loops(call) is expected


def test_without_numba_torch_sends_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditor.kernels.max_pool.compiled", lambda loops: None)
    assert not goes_back_by_loops(pooling(MAPS, 2))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["linear", "deconv", "gradient", "guided"])
def test_responses_are_those_without_the_loops(rule: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(3),
            nn.ReLU(),
            nn.Conv2d(32, 4, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
    ).eval()
    images = torch.rand(3, 3, 19, 17)
    taken: list[Call] = []

    def watched(call: Call) -> bool:
        taken.append(call)
        return goes_back_by_loops(call)

    def responses() -> Tensor:
        return torch.cat([found for _, found in Clear(model, rule, precision=precision).responses(images)], 1)

    monkeypatch.setattr("auditor.backward.handlers.goes_back_by_loops", watched)
    actual = responses()
    assert taken
    assert all(goes_back_by_loops(call) for call in taken)
    monkeypatch.setattr("auditor.backward.handlers.goes_back_by_loops", lambda call: False)
    expected = responses()
    tolerance = {"float32": 1e-6, "bfloat16": 2e-2}[precision]
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
