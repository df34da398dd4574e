"""Models in: a factory function and its weights, or an exported program.

No unrestricted unpickle anywhere. A factory's path is code; weights and programs are data.
"""

import hashlib
import importlib
import inspect
import io
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from storage.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

SHOWN_MISMATCHES = 3


@dataclass(frozen=True)
class ModelSpec:
    """What builds a model, on any machine that sees its files: a factory or a program.

    factory: `package.module:function`, called with `arguments`; it returns a torch.nn.Module. It is code, and runs.
    weights: `.safetensors`, or `.pt`/`.pth` with tensors only; any fsspec address; None leaves what the factory set.
    search_path: a folder where the factory's module is looked for besides the installed packages.
    program: a `.pt2` file as torch.export.save writes it; any fsspec address.
    """

    factory: str | None = None
    weights: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    search_path: str | None = None
    program: str | None = None

    @property
    def title(self) -> str:
        """The model in a message: the key that names it, and what it names."""
        return f"model.factory '{self.factory}'" if self.program is None else f"model.program '{self.program}'"


def load_model(spec: ModelSpec) -> "nn.Module | ExportedProgram":
    """The model on the CPU: a module in eval mode, built and with its weights, or a program. Raises InputError."""
    if spec.program is None:
        return build_model(spec)
    from storage.programs import load_program

    content = read_bytes(spec.program, "model.program")
    refuse_torchscript(content, f"model.program '{spec.program}'")
    return load_program(spec.program, content)


def build_model(spec: ModelSpec) -> "nn.Module":
    """Calls the factory and loads the weights. Raises InputError."""
    from torch import nn

    factory = find_factory(spec)
    check_arguments(spec, factory)
    model = factory(**spec.arguments)
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec.title} returned {type(model).__name__}: it must return a torch.nn.Module")
    if spec.weights is not None:
        weights = read_weights(spec.weights)
        check_fit(spec, model, weights)
        model.load_state_dict(weights)
    return model.eval()


def find_factory(spec: ModelSpec) -> Any:
    module_name, _, function = (spec.factory or "").partition(":")
    if not module_name or not function or module_name.startswith("."):
        raise InputError(f"{spec.title} is not of the form 'package.module:function'")
    if spec.search_path is not None and spec.search_path not in sys.path:
        sys.path.insert(0, spec.search_path)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{spec.title}: module '{error.name}' was not found; install it, or put it beside the config") from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise InputError(f"{spec.title}: module '{module_name}' has no function '{function}'")
    return factory


def check_arguments(spec: ModelSpec, factory: Any) -> None:
    try:
        inspect.signature(factory).bind(**spec.arguments)
    except TypeError as error:
        raise InputError(f"{spec.title} does not take model.arguments {spec.arguments}: {error}") from error


def read_bytes(path: str, key: str = "model.weights") -> bytes:
    """The content of a file at any address. key: of the config, for messages. Raises InputError."""
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:  # ValueError: no such protocol; ImportError: its package is missing
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{key} '{path}' cannot be read ({reason}): correct the path") from error
    return content


def refuse_torchscript(content: bytes, title: str) -> None:
    """Raises InputError where a file is a TorchScript archive, whose operations cannot be seen."""
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except Exception:  # no archive, or a damaged one: whoever reads it says so
        return
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise InputError(
            f"{title} is TorchScript, whose operations cannot be seen: export the network itself by torch.export.export, "
            "save it by torch.export.save as .pt2, and name that file in model.program"
        )


def read_weights(path: str) -> "dict[str, Tensor]":
    """The tensors of a weights file by name. Raises InputError."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(path)
    suffix = Path(path).suffix
    if suffix == ".safetensors":
        try:
            return load(content)
        except SafetensorError as error:
            raise InputError(f"model.weights '{path}' is not a safetensors file ({error}): export it again") from error
    if suffix not in {".pt", ".pth"}:
        program = "; an exported program is named by model.program" if suffix == ".pt2" else ""
        raise InputError(f"model.weights '{path}' ends in '{suffix}': use .safetensors, or .pt with tensors only{program}")
    refuse_torchscript(content, f"model.weights '{path}'")
    try:
        loaded = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        raise InputError(
            f"model.weights '{path}' holds more than tensors, or is damaged, and is not opened: "
            "save model.state_dict() as .safetensors"
        ) from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"model.weights '{path}' is not a state dict: save model.state_dict()")
    return loaded


def check_fit(spec: ModelSpec, model: "nn.Module", weights: "dict[str, Tensor]") -> None:
    """Raises InputError naming the first tensors that differ between file and model."""
    expected = model.state_dict()
    differences = []
    for name in [*expected, *(name for name in weights if name not in expected)]:
        if name not in weights:
            differences.append(f"'{name}' is not in the file")
        elif name not in expected:
            differences.append(f"'{name}' is not in the model")
        elif weights[name].shape != expected[name].shape:
            in_file, in_model = tuple(weights[name].shape), tuple(expected[name].shape)
            differences.append(f"'{name}' is {in_file} in the file and {in_model} in the model")
    if differences:
        more = len(differences) - SHOWN_MISMATCHES
        shown = "; ".join(differences[:SHOWN_MISMATCHES]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(
            f"model.weights '{spec.weights}' do not fit {spec.title}: {shown}; "
            "name the factory, arguments and weights that belong together"
        )


def model_hash(spec: ModelSpec) -> str:
    """SHA-256 over the factory's name, its arguments and the weights file, or over the program's file. Raises InputError."""
    if spec.program is not None:
        return hashlib.sha256(b"program" + read_bytes(spec.program, "model.program")).hexdigest()
    digest = hashlib.sha256(repr((spec.factory, sorted(spec.arguments.items()))).encode())
    if spec.weights is not None:
        digest.update(read_bytes(spec.weights))
    return digest.hexdigest()
