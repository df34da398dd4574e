"""Models in: what is loaded, what is refused, and that nothing of a weights file is ever executed."""

import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from storage.errors import InputError
from storage.models import ModelSpec, load_model, model_hash, read_weights

FACTORY = """
import torch
from torch import nn

NUMBER = 3

def build(width=3, **more):
    model = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    return model.train()

def strict(width):
    return build(width)

def returns_text():
    return "a model"

class Network(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(2, width)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a factory's module in it, that no other test knows."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "factory_of_tests.py").write_text(FACTORY)
    (tmp_path / "needs_more.py").write_text("import a_package_that_nobody_has")
    yield tmp_path
    for name in ("factory_of_tests", "needs_more"):
        sys.modules.pop(name, None)


def spec(folder: Path, function: str = "build", weights: Path | None = None, **arguments: Any) -> ModelSpec:
    return ModelSpec(f"factory_of_tests:{function}", str(weights) if weights else None, arguments, str(folder))


def weights_of(width: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (width, 2), "0.bias": (width,), "2.weight": (2, width), "2.bias": (2,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


SAVERS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "m.safetensors": lambda weights, path: save_file(weights, path),
    "m.pt": lambda weights, path: torch.save(weights, path),
    "m.pth": lambda weights, path: torch.save(weights, path),
    "old.pt": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    "wrapped.pt": lambda weights, path: torch.save({"state_dict": weights, "epoch": 3}, path),
}


@pytest.mark.parametrize("name", SAVERS)
def test_weights_of_every_kind_of_file_reach_the_model(folder: Path, name: str) -> None:
    SAVERS[name](weights_of(), folder / name)
    model = load_model(spec(folder, weights=folder / name))
    assert {key: value.tolist() for key, value in model.state_dict().items()} == {
        key: value.tolist() for key, value in weights_of().items()
    }
    assert not any(module.training for module in model.modules())


def test_weights_at_any_address(folder: Path) -> None:
    import fsspec

    with fsspec.open("memory://models-of-tests/m.safetensors", "wb") as file:
        file.write(save(weights_of()))
    loaded = read_weights("memory://models-of-tests/m.safetensors")
    assert {key: value.tolist() for key, value in loaded.items()} == {key: value.tolist() for key, value in weights_of().items()}


def test_without_weights_the_model_is_as_the_factory_made_it_in_eval_mode(folder: Path) -> None:
    model = load_model(spec(folder, width=5))
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(5, 2), (5,), (2, 5), (2,)]
    assert all((parameter == 9).all() for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_class_is_a_factory_too(folder: Path) -> None:
    assert tuple(load_model(spec(folder, "Network", width=4)).layer.weight.shape) == (4, 2)


def test_the_search_path_is_where_the_module_is_found(folder: Path) -> None:
    with pytest.raises(InputError, match="module 'factory_of_tests' was not found"):
        load_model(ModelSpec("factory_of_tests:build"))
    assert isinstance(load_model(spec(folder)), nn.Module)


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("factory_of_tests", {}, "is not of the form 'package.module:function'"),
        ("factory_of_tests:", {}, "is not of the form 'package.module:function'"),
        (":build", {}, "is not of the form 'package.module:function'"),
        ("", {}, "is not of the form 'package.module:function'"),
        (".factory_of_tests:build", {}, "is not of the form 'package.module:function'"),
        ("no_such_module:build", {}, "module 'no_such_module' was not found"),
        ("factory_of_tests.sub:build", {}, "module 'factory_of_tests.sub' was not found"),
        ("needs_more:build", {}, "module 'a_package_that_nobody_has' was not found"),
        ("factory_of_tests:biuld", {}, "module 'factory_of_tests' has no function 'biuld'"),
        ("factory_of_tests:NUMBER", {}, "module 'factory_of_tests' has no function 'NUMBER'"),
        ("factory_of_tests:returns_text", {}, "returned str: it must return a torch.nn.Module"),
        ("factory_of_tests:strict", {"widht": 3}, "does not take model.arguments {'widht': 3}"),
        ("factory_of_tests:strict", {}, "missing a required argument: 'width'"),
    ],
)
def test_a_faulty_factory_is_named(folder: Path, factory: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(ModelSpec(factory, None, arguments, str(folder)))
    assert f"model.factory '{factory}'" in str(caught.value)
    assert message in str(caught.value)


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_weights_file_is_refused_and_not_executed(folder: Path) -> None:
    marker = folder / "executed"
    bombs = {
        "plain.pt": pickle.dumps(Bomb(marker)),
        "zip.pt": Bomb(marker),
        "among.pth": {**weights_of(), "bomb": Bomb(marker)},
        "wrapped.pt": {"state_dict": weights_of(), "optimizer": Bomb(marker)},
        "model.pt": nn.Linear(2, 2),
    }
    for name, content in bombs.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            torch.save(content, folder / name)
        with pytest.raises(InputError, match="holds more than tensors") as caught:
            load_model(spec(folder, weights=folder / name))
        assert name in str(caught.value)
        assert not marker.exists()
    pickle.loads((folder / "plain.pt").read_bytes())
    assert marker.exists(), "the bomb is one"


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": torch.zeros(2), "epoch": 3}, torch.zeros(2), {"state_dict": 3}])
def test_tensors_that_are_no_state_dict_are_refused(folder: Path, content: Any) -> None:
    torch.save(content, folder / "m.pt")
    with pytest.raises(InputError, match="is not a state dict"):
        read_weights(str(folder / "m.pt"))


def test_weights_that_do_not_fit_name_the_first_tensors_that_differ(folder: Path) -> None:
    path = folder / "m.safetensors"
    file = weights_of() | {"extra.bias": torch.zeros(1)}
    del file["0.bias"]
    file["2.weight"] = torch.zeros(5, 7)
    save_file(file, path)
    with pytest.raises(InputError) as caught:
        load_model(spec(folder, weights=path))
    assert (
        f"model.weights '{path}' do not fit model.factory 'factory_of_tests:build': '0.bias' is not in the file; "
        "'2.weight' is (5, 7) in the file and (2, 3) in the model; 'extra.bias' is not in the model; "
    ) in str(caught.value)
    assert "more" not in str(caught.value)


def test_further_differences_are_counted(folder: Path) -> None:
    save_file({f"x{number}": torch.zeros(1) for number in range(3)}, folder / "m.safetensors")
    with pytest.raises(InputError, match=r"'0\.weight' .*; '0\.bias' .*; '2\.weight' is not in the file; and 4 more"):
        load_model(spec(folder, weights=folder / "m.safetensors"))


@pytest.mark.parametrize("name", ["m.onnx", "m", "m.PT", "m.safetensors.bak"])
def test_other_kinds_of_files_are_named_by_their_suffix(folder: Path, name: str) -> None:
    (folder / name).write_bytes(save(weights_of()))
    with pytest.raises(InputError, match=rf"ends in '{Path(name).suffix}': use \.safetensors, or \.pt"):
        read_weights(str(folder / name))


@pytest.mark.parametrize("address", ["nothing.pt", "", "nothing-of-this-kind://bucket/m.pt"])
def test_what_cannot_be_read_is_named(folder: Path, address: str) -> None:
    path = address if "://" in address else str(folder / address)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert f"model.weights '{path}' cannot be read" in str(caught.value)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "old.pt"])
def test_a_damaged_file_is_an_input_error_wherever_it_breaks(folder: Path, name: str) -> None:
    path, generator = folder / name, random.Random(5)
    SAVERS[name](weights_of(), path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=rf"{name}' (is not a safetensors file|holds more than tensors)"):
            read_weights(str(path))
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(120):
            damaged = bytearray(whole)
            for _ in range(3):
                damaged[generator.randrange(len(whole))] = generator.randrange(256)
            path.write_bytes(bytes(damaged))
            try:
                assert all(isinstance(value, Tensor) for value in read_weights(str(path)).values())
            except InputError:
                refused += 1
    assert refused > 10


def test_an_old_pickle_of_nonsense_is_an_input_error(folder: Path) -> None:
    generator = random.Random(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(100):
            (folder / "m.pt").write_bytes(generator.randbytes(generator.randint(0, 60)))
            with pytest.raises(InputError):
                read_weights(str(folder / "m.pt"))


def test_the_hash_is_of_the_factory_its_arguments_and_the_weights(folder: Path) -> None:
    first, second = folder / "first.safetensors", folder / "second.safetensors"
    save_file(weights_of(), first)
    save_file(weights_of() | {"0.bias": torch.ones(3)}, second)
    specs = [
        ModelSpec("m:a"),
        ModelSpec("m:b"),
        ModelSpec("m:a", None, {"width": 3}),
        ModelSpec("m:a", None, {"width": 4}),
        ModelSpec("m:a", None, {"width": "3"}),
        ModelSpec("m:a", None, {"depth": 3}),
        ModelSpec("m:a", str(first)),
        ModelSpec("m:a", str(second)),
        ModelSpec("m:a", str(first), {"width": 3}),
    ]
    hashes = [model_hash(one) for one in specs]
    assert len(set(hashes)) == len(specs)
    assert all(len(value) == 64 and set(value) <= set("0123456789abcdef") for value in hashes)
    assert [model_hash(one) for one in specs] == hashes


def test_the_hash_is_not_of_where_the_weights_lie_nor_of_the_order_of_arguments(folder: Path) -> None:
    save_file(weights_of(), folder / "here.safetensors")
    here = model_hash(ModelSpec("m:a", str(folder / "here.safetensors"), {"a": 1, "b": 2}, "/one"))
    (folder / "here.safetensors").rename(folder / "there.safetensors")
    assert model_hash(ModelSpec("m:a", str(folder / "there.safetensors"), {"b": 2, "a": 1}, "/two")) == here


def test_the_hash_of_weights_that_cannot_be_read_is_an_input_error(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        model_hash(ModelSpec("m:a", str(folder / "nothing.pt")))
