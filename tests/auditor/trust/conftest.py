"""Shared by the tests of the measures of trust."""

import pytest
import torch
from torch import Tensor, nn

from auditor import Clear
from tests.auditor.networks import PointwiseHead, random_network


@pytest.fixture(scope="session")
def network() -> tuple[nn.Module, Tensor]:
    """A small network with class response maps of several positions, and six images for it, (6, 3, 8, 8)."""
    return random_network(PointwiseHead, samples=6)


@pytest.fixture(scope="session")
def clear(network: tuple[nn.Module, Tensor]) -> Clear:
    return Clear(network[0], "gradient")


@pytest.fixture(scope="session")
def images(network: tuple[nn.Module, Tensor]) -> Tensor:
    return network[1]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)
