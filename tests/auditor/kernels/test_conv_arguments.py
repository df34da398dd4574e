"""What a convolution was given, however it was called: by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from auditor.kernels.conv_arguments import conv_arguments, geometry_of
from auditor.operations.calls import Call

MAPS, WEIGHT, BIAS = torch.zeros(1, 4, 5, 5), torch.zeros(2, 4, 3, 3), torch.zeros(2)
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any]] = {
    "nothing but kernels": ((MAPS, WEIGHT), {}, (None, ((1, 1), (0, 0), (1, 1)), 1)),
    "by place": ((MAPS, WEIGHT, BIAS, 2, (1, 0), 3, 1), {}, (BIAS, ((2, 2), (1, 0), (3, 3)), 1)),
    "by name": ((MAPS,), {"weight": WEIGHT, "bias": None, "padding": [2]}, (None, ((1, 1), (2, 2), (1, 1)), 1)),
    "groups": ((MAPS, WEIGHT[:, :2]), {"groups": 2}, (None, ((1, 1), (0, 0), (1, 1)), 2)),
}


def call_of(arguments: tuple[Any, ...], keywords: dict[str, Any], name: str = "conv2d") -> Call:
    return Call(F.conv2d, name, arguments, keywords, [MAPS], False)


@pytest.mark.parametrize("way", CALLS)
def test_arguments_by_hand(way: str) -> None:
    arguments, keywords, (bias, geometry, groups) = CALLS[way]
    call = call_of(arguments, keywords)
    found = conv_arguments(call)
    assert found is not None
    assert found.weight is (keywords.get("weight") if len(arguments) < 2 else arguments[1])
    assert found.bias is bias
    assert (found.geometry, found.groups) == (geometry, groups)
    assert geometry_of(call) == (geometry if groups == 1 else None)


def test_an_exported_programs_convolution() -> None:
    """Behind the dilation: transposed, output padding, groups."""
    sizes = [2, 2], [1, 1], [1, 1]
    plain = call_of((MAPS, WEIGHT, None, *sizes, False, [0, 0], 1), {}, "convolution")
    assert geometry_of(plain) == ((2, 2), (1, 1), (1, 1))
    grouped = call_of((MAPS, WEIGHT, None, *sizes, False, [0, 0], 2), {}, "convolution")
    assert geometry_of(grouped) is None
    assert conv_arguments(call_of((MAPS, WEIGHT, None, *sizes, True, [0, 0], 1), {}, "convolution")) is None


def test_padding_in_words_and_other_axes_have_no_geometry() -> None:
    assert conv_arguments(call_of((MAPS, WEIGHT), {"padding": "same"})) is None
    assert geometry_of(Call(F.conv2d, "conv2d", (MAPS[0], WEIGHT), {}, [MAPS[0]], False)) is None
