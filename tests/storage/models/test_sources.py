"""Models in: a factory and its weights together, and the hash that tells one model from another."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from storage.errors import InputError
from storage.models.factories import FactorySpec
from storage.models.sources import load_model, model_hash

FACTORY = """
import torch
from torch import nn

def build(width=3, **more):
    model = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    return model.train()

class Silent(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
    def eval(self):
        super().eval()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a factory's module in it, that no other test knows."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "factory_of_tests.py").write_text(FACTORY)
    yield tmp_path
    sys.modules.pop("factory_of_tests", None)


def spec(function: str = "build", weights: Path | None = None, **arguments: Any) -> FactorySpec:
    return FactorySpec(f"factory_of_tests:{function}", str(weights) if weights else None, arguments)


def weights_of(width: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (width, 2), "0.bias": (width,), "2.weight": (2, width), "2.bias": (2,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_weights_reach_the_model_in_eval_mode(folder: Path) -> None:
    save_file(weights_of(), folder / "m.safetensors")
    model = load_model(spec(weights=folder / "m.safetensors"), str(folder))
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in weights_of().items()
    }
    assert not any(module.training for module in model.modules())


def test_what_was_done_to_make_it_fit_is_said(folder: Path) -> None:
    torch.save({f"module.{name}": value for name, value in weights_of().items()}, folder / "m.pt")
    said: list[str] = []
    load_model(spec(weights=folder / "m.pt"), str(folder), said.append)
    assert said == [f"of weights '{folder / 'm.pt'}', 'module.' is taken out of its names"]


def test_a_network_whose_own_eval_returns_nothing(folder: Path) -> None:
    assert isinstance(load_model(spec("Silent"), str(folder)), nn.Module)


def test_without_weights_the_model_is_as_the_factory_made_it_in_eval_mode(folder: Path) -> None:
    model = load_model(spec(width=5), str(folder))
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(5, 2), (5,), (2, 5), (2,)]
    assert all((parameter == 9).all() for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_the_hash_is_of_the_factory_its_arguments_and_the_weights(folder: Path) -> None:
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    save_file(weights_of(), first)
    save_file(weights_of() | {"0.bias": torch.ones(3)}, second)
    specs = [
        FactorySpec("m:a"),
        FactorySpec("m:b"),
        FactorySpec("m:a", None, {"width": 3}),
        FactorySpec("m:a", None, {"width": 4}),
        FactorySpec("m:a", None, {"width": "3"}),
        FactorySpec("m:a", None, {"depth": 3}),
        FactorySpec("m:a", str(first)),
        FactorySpec("m:a", str(second)),
        FactorySpec("m:a", str(first), {"width": 3}),
    ]
    hashes = [model_hash(one) for one in specs]
    assert len(set(hashes)) == len(specs)
    assert all(len(value) == 64 and set(value) <= set("0123456789abcdef") for value in hashes)
    assert [model_hash(one) for one in specs] == hashes


def test_the_hash_is_not_of_where_the_weights_lie_nor_of_the_order_of_arguments(folder: Path) -> None:
    save_file(weights_of(), folder / "here.safetensors")
    here = model_hash(FactorySpec("m:a", str(folder / "here.safetensors"), {"a": 1, "b": 2}))
    (folder / "here.safetensors").rename(folder / "there.safetensors")
    assert model_hash(FactorySpec("m:a", str(folder / "there.safetensors"), {"b": 2, "a": 1})) == here


def test_the_hash_of_weights_that_cannot_be_read_is_an_input_error(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        model_hash(FactorySpec("m:a", str(folder / "nothing.pt")))
