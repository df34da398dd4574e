"""Weights: which tensors of a trainer's file reach the model, what is said of it, and that nothing of a file is ever executed."""

import argparse
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file, save_model
from torch import Tensor, nn

from storage.errors import InputError
from storage.models.programs import ProgramSpec
from storage.models.sources import load_model
from storage.models.weights import load_weights, read_weights

TITLE = "model.factory 'm:build'"
Weights = dict[str, Tensor]


def network(width: int = 3, classes: int = 2) -> nn.Sequential:
    """Of nines, so that what is loaded is seen."""
    made = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes))
    with torch.no_grad():
        for value in made.state_dict().values():
            value.fill_(9)
    return made


def weights_of(width: int = 3, classes: int = 2) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.tensor(5) if value.dim() == 0 else torch.randn(value.shape, generator=generator)
        for name, value in network(width, classes).state_dict().items()
    }


def under(prefix: str, weights: Weights | None = None) -> Weights:
    return {prefix + name: value for name, value in (weights or weights_of()).items()}


def loaded(path: Path, model: nn.Module | None = None) -> tuple[dict[str, Any], list[str]]:
    """The model's values when a file is loaded, and what was said of it."""
    said: list[str] = []
    model = model or network()
    load_weights(str(path), model, TITLE, said.append)
    return {name: value.tolist() for name, value in model.state_dict().items()}, said


def values(weights: Weights) -> dict[str, Any]:
    return {name: value.tolist() for name, value in weights.items()}


SAVERS: dict[str, Callable[[Weights, Path], None]] = {
    "m.safetensors": lambda weights, path: save_file(weights, path),
    "m.pt": lambda weights, path: torch.save(weights, path),
    "m.pth": lambda weights, path: torch.save(weights, path),
    "m.ckpt": lambda weights, path: torch.save(weights, path),
    "pytorch_model.bin": lambda weights, path: torch.save(weights, path),
    "m.pth.tar": lambda weights, path: torch.save(weights, path),
    "old.pt": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", SAVERS)
def test_weights_of_every_kind_of_file_reach_the_model(tmp_path: Path, name: str) -> None:
    SAVERS[name](weights_of(), tmp_path / name)
    assert loaded(tmp_path / name) == (values(weights_of()), [])


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_counters_of_training_may_be_missing_whatever_the_files_format(tmp_path: Path, name: str) -> None:
    without = {name: value for name, value in weights_of().items() if name != "1.num_batches_tracked"}
    SAVERS[name](without, tmp_path / name)
    assert loaded(tmp_path / name) == (values(without) | {"1.num_batches_tracked": 9}, [])


WRAPPED: dict[str, tuple[Any, str]] = {
    "data parallel": (under("module."), "'module.' is taken out of its names"),
    "compiled": (under("_orig_mod."), "'_orig_mod.' is taken out of its names"),
    "compiled and data parallel": (under("module._orig_mod."), "'_orig_mod.' and 'module.' is taken out of its names"),
    "a part data parallel": (
        {name.replace("3.", "3.module."): value for name, value in weights_of().items()},
        "'module.' is taken out of its names",
    ),
    "a module's attribute": (under("net."), "'net.' is taken off all of its names"),
    "two attributes": (under("learner.backbone."), "'learner.backbone.' is taken off all of its names"),
    "lightning": (
        {"state_dict": under("model."), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        "its 'state_dict' is taken; 'model.' is taken off all of its names",
    ),
    "tutorial": (
        {"epoch": 3, "model_state_dict": weights_of(), "optimizer_state_dict": {}, "loss": torch.ones(())},
        "its 'model_state_dict' is taken",
    ),
    "with an optimizer": (
        {"model": weights_of(), "optimizer": {"state": {0: {"exp_avg": torch.ones(3, 2)}}, "param_groups": [{"lr": 0.1}]}},
        "its 'model' is taken",
    ),
    "nested": ({"checkpoint": {"net": weights_of(), "epoch": 3}}, "its 'checkpoint.net' is taken"),
    "two networks": (
        {"generator": {"0.weight": torch.ones(7, 2)}, "classifier": weights_of()},
        "its 'classifier' is taken",
    ),
    "profiled": (
        weights_of() | {"total_ops": torch.zeros(1), "0.total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
        "'total_ops', '0.total_ops', 'total_params' are passed over, for the network needs none of it",
    ),
    "averaged": (
        under("module.") | {"n_averaged": torch.tensor(4)},
        "'module.' is taken out of its names; 'n_averaged' is passed over, for the network needs none of it",
    ),
    "with numbers beside": (weights_of() | {"epoch": 3}, ""),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_the_right_weights_are_found_under_another_name_and_it_is_said(tmp_path: Path, case: str) -> None:
    content, change = WRAPPED[case]
    path = tmp_path / "m.pt"
    torch.save(content, path)
    assert loaded(path) == (values(weights_of()), [f"of weights '{path}', {change}"] if change else [])


def test_a_beginning_that_only_the_model_has_is_put_before_the_names(tmp_path: Path) -> None:
    save_file(weights_of(), tmp_path / "m.safetensors")
    model = nn.ModuleDict({"backbone": network()})
    found, said = loaded(tmp_path / "m.safetensors", model)
    assert found == values(under("backbone."))
    assert said == [f"of weights '{tmp_path / 'm.safetensors'}', 'backbone.' is put before all of its names"]


def test_a_beginning_that_the_models_names_have_too_stays(tmp_path: Path) -> None:
    torch.save(under("module."), tmp_path / "m.pt")
    assert loaded(tmp_path / "m.pt", nn.ModuleDict({"module": network()})) == (values(under("module.")), [])


class Tied(nn.Module):
    """One weight under two names, and a buffer that no file need hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("positions", torch.arange(4), persistent=False)


def test_one_weight_under_two_names_may_be_in_the_file_once(tmp_path: Path) -> None:
    saved, made = Tied(), Tied()
    save_model(saved, str(tmp_path / "m.safetensors"))
    assert loaded(tmp_path / "m.safetensors", made)[0] == values(saved.state_dict())
    assert made.second.weight is made.first.weight


def test_what_the_model_works_out_for_itself_may_be_in_the_file(tmp_path: Path) -> None:
    """Where it is the same: an older version of the network kept it."""
    saved = Tied()
    torch.save(saved.state_dict() | {"positions": torch.arange(4)}, tmp_path / "m.pt")
    found, said = loaded(tmp_path / "m.pt", Tied())
    assert found == values(saved.state_dict())
    assert said == [f"of weights '{tmp_path / 'm.pt'}', 'positions' is passed over, for the network needs none of it"]
    torch.save(saved.state_dict() | {"positions": torch.zeros(4, dtype=torch.int64)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="'positions' is not in the model"):
        loaded(tmp_path / "other.pt", Tied())


def test_weights_at_any_address() -> None:
    import fsspec

    with fsspec.open("memory://models-of-tests/m.safetensors", "wb") as file:
        file.write(save(weights_of()))
    assert values(read_weights("memory://models-of-tests/m.safetensors")) == values(weights_of())


def test_two_that_fit_are_asked_about(tmp_path: Path) -> None:
    torch.save({"model": weights_of(), "ema": under("module.")}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"holds weights for .* more than once, in 'model' and 'ema': save the ones that are"):
        loaded(tmp_path / "m.pt")


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_weights_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    bombs = {
        "plain.pt": pickle.dumps(Bomb(marker)),
        "zip.pt": Bomb(marker),
        "among.pth": {**weights_of(), "bomb": Bomb(marker)},
        "wrapped.bin": {"state_dict": weights_of(), "optimizer": Bomb(marker)},
        "lightning.ckpt": {"state_dict": weights_of(), "hyper_parameters": Bomb(marker)},
        "old.tar": {"state_dict": weights_of(), "best": Bomb(marker)},
        "model.pt": nn.Linear(2, 2),
    }
    for name, content in bombs.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            torch.save(content, tmp_path / name)
        with pytest.raises(InputError, match="holds more than tensors") as caught:
            loaded(tmp_path / name)
        assert name in str(caught.value)
        assert not marker.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())
    assert marker.exists(), "the bomb is one"


def test_what_else_a_trainers_file_holds_is_named_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"state_dict": weights_of(), "hyper_parameters": argparse.Namespace(lr=0.1)}, tmp_path / "m.ckpt")
    with pytest.raises(InputError) as caught:
        loaded(tmp_path / "m.ckpt")
    assert "holds more than tensors, 'argparse.Namespace', which could run code, and is not opened: where you trust it" in str(
        caught.value
    )
    assert "torch.load(…, weights_only=False) and save the model's state_dict() alone, as .safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2), "a Tensor"),
        ({}, "nothing"),
        ({"state_dict": 3}, "'state_dict'"),
        ({"epoch": 3, "args": {"lr": 0.1}, "best": 0.5, "name": "n"}, "'epoch', 'args', 'best' and 1 more"),
    ],
)
def test_a_file_without_tensors_by_name_says_what_it_holds(tmp_path: Path, content: Any, what: str) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError) as caught:
        loaded(tmp_path / "m.pt")
    assert f"holds no tensors by name, but {what}: save model.state_dict()" in str(caught.value)


def test_weights_that_do_not_fit_name_the_first_tensors_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    file = weights_of() | {"extra.bias": torch.zeros(1)}
    del file["0.bias"]
    file["3.weight"] = torch.zeros(5, 7)
    save_file(file, path)
    with pytest.raises(InputError) as caught:
        loaded(path)
    assert (
        f"model.weights '{path}' do not fit {TITLE}: '0.bias' is not in the file; '3.weight' is (5, 7) in the file and (2, 3) in "
        "the model; 'extra.bias' is not in the model; name the factory"
    ) in str(caught.value)


def test_further_differences_are_counted_and_what_was_done_before_is_said(tmp_path: Path) -> None:
    torch.save({"module.0.bias": torch.ones(3), "module.x": torch.zeros(1)}, tmp_path / "m.pt")
    with pytest.raises(InputError) as caught:
        loaded(tmp_path / "m.pt")
    assert (
        "'0.weight' is not in the file; '1.weight' is not in the file; '1.bias' is not in the file; and 5 more (after this: "
        "'module.' is taken out of its names); name"
    ) in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"state_dict": under("model.", weights)}])
def test_a_head_of_other_classes_is_said_with_both_counts(tmp_path: Path, wrap: Callable[[Weights], Any]) -> None:
    torch.save(wrap(weights_of(classes=10)), tmp_path / "m.pt")
    with pytest.raises(InputError) as caught:
        loaded(tmp_path / "m.pt", network(classes=1000))
    assert "'3.weight' is (10, 3) in the file and (1000, 3) in the model; '3.bias' is (10,) in the file" in str(caught.value)
    assert "the file's head has 10 classes and the model's 1000; have the factory make a network of 10 classes" in str(
        caught.value
    )


def test_a_network_of_another_kind_shows_what_is_in_the_file_and_what_the_model_wants(tmp_path: Path) -> None:
    save_file({f"encoder.{number}.w": torch.zeros(1) for number in range(5)}, tmp_path / "m.safetensors")
    with pytest.raises(InputError) as caught:
        loaded(tmp_path / "m.safetensors")
    assert (
        "none of their names is the model's: the file has 'encoder.0.w', 'encoder.1.w', 'encoder.2.w' and 2 more, the model "
        "'0.weight', '0.bias', '1.weight' and 6 more; name the factory and weights that belong together"
    ) in str(caught.value)


class Converting(nn.Module):
    """Takes a weight under a name that it had in an earlier version, as networks of PyTorch's own do."""

    def __init__(self) -> None:
        super().__init__()
        self.new = nn.Parameter(torch.zeros(2))

    def _load_from_state_dict(self, state_dict: Any, *rest: Any) -> None:
        if "old" in state_dict:
            state_dict["new"] = state_dict.pop("old")
        super()._load_from_state_dict(state_dict, *rest)


class Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        raise KeyError("a layer of its own")


def test_pytorch_has_the_last_word_on_what_fits(tmp_path: Path) -> None:
    torch.save({"old": torch.ones(2)}, tmp_path / "old.pt")
    assert loaded(tmp_path / "old.pt", Converting())[0] == {"new": [1.0, 1.0]}
    torch.save({"weight": torch.ones(2)}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"do not fit .*: loading them raised KeyError: 'a layer of its own'"):
        loaded(tmp_path / "m.pt", Refusing())


@pytest.mark.parametrize("name", ["m.onnx", "m", "m.PT", "m.safetensors.bak"])
def test_other_kinds_of_files_are_named_by_their_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(save(weights_of()))
    with pytest.raises(InputError, match=rf"ends in '{Path(name).suffix}': use \.safetensors, or \.pt"):
        read_weights(str(tmp_path / name))


@pytest.mark.parametrize("address", ["nothing.pt", "", "nothing-of-this-kind://bucket/m.pt"])
def test_what_cannot_be_read_is_named(tmp_path: Path, address: str) -> None:
    path = address if "://" in address else str(tmp_path / address)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert f"model.weights '{path}' cannot be read" in str(caught.value)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "old.pt"])
def test_a_damaged_file_is_an_input_error_wherever_it_breaks(tmp_path: Path, name: str) -> None:
    path, generator = tmp_path / name, random.Random(5)
    SAVERS[name](weights_of(), path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        found = r"is not a safetensors file|holds more than tensors|is a damaged archive"
        with pytest.raises(InputError, match=rf"{name}' ({found})"):
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
                loaded(path)
            except InputError:
                refused += 1
    assert refused > 10


def test_an_old_pickle_of_nonsense_is_an_input_error(tmp_path: Path) -> None:
    generator = random.Random(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(100):
            (tmp_path / "m.pt").write_bytes(generator.randbytes(generator.randint(0, 60)))
            with pytest.raises(InputError):
                loaded(tmp_path / "m.pt")


def deflate(path: Path) -> None:
    """The same archive, packed."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_an_archive_that_unpacks_to_more_than_the_model_needs_is_not_opened(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    path = tmp_path / "net.pt"
    torch.save(model.state_dict() | {"more": torch.zeros(50_000_000)}, path)
    deflate(path)
    assert path.stat().st_size < 1 << 20
    message = r"net.pt' has 0\.\d MB and unpacks to 200, more than any training of this network leaves: save it again"
    with pytest.raises(InputError, match=message):
        load_weights(str(path), model, "model", print)
    with pytest.raises(InputError, match=r"net\.pt2' has 0\.\d MB and unpacks to 200"):
        load_model(ProgramSpec(str(path.rename(tmp_path / "net.pt2"))))
    torch.save(model.state_dict() | {"more": torch.zeros(50_000_000)}, path)
    deflate(path)
    # What Python's reader does not take, and PyTorch's does.
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00", b"PK\x01\x02\x14\x03\x64\x00"))
    with pytest.raises(InputError, match=r"net.pt' is a damaged archive, or no usual one .*: save it again by PyTorch"):
        load_weights(str(path), model, "model", print)
    torch.save(model.state_dict(), path)
    deflate(path)
    load_weights(str(path), model, "model", print)


def test_dictionaries_within_dictionaries_are_looked_into_once(tmp_path: Path) -> None:
    inner = {"weight": torch.zeros(1)}
    middle = {str(number): inner for number in range(2000)}
    torch.save({str(number): middle for number in range(2000)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="do not fit"):
        load_weights(str(tmp_path / "a.pt"), nn.Linear(3, 2), "model", print)
