"""Models in: a factory function and its weights, or an exported program.

No unrestricted unpickle anywhere. A factory's path is code; weights and programs are data.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storage.models.factories import call_factory
from storage.models.weights import check_unfolding, load_weights, read_bytes, refuse_torchscript

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class ModelSpec:
    """What builds a model, on any machine that sees its files: a factory or a program.

    factory: `package.module:function`, called with `arguments`; it returns a torch.nn.Module. It is code, and runs.
    weights: `.safetensors`, or what torch.save wrote, with tensors only; any fsspec address; None leaves what the factory set.
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


def say_nothing(sentence: str) -> None:
    """For who wants no word of what was done to make a model fit."""


def load_model(spec: ModelSpec, say: Callable[[str], None] = say_nothing) -> "nn.Module | ExportedProgram":
    """The model on the CPU: a module in eval mode, built and with its weights, or a program. Raises InputError.

    say: hears, in a sentence each, what was done to make it fit.
    """
    if spec.program is None:
        return build_model(spec, say)
    from storage.models.programs import load_program

    content = read_bytes(spec.program, "model.program")
    check_unfolding(content, f"model.program '{spec.program}'", 0)
    refuse_torchscript(content, f"model.program '{spec.program}'")
    return load_program(spec.program, content)


def build_model(spec: ModelSpec, say: Callable[[str], None] = say_nothing) -> "nn.Module":
    """Calls the factory and loads the weights. Raises InputError."""
    model = call_factory(spec, say)
    if spec.weights is not None:
        load_weights(spec.weights, model, spec.title, say)
    model.eval()  # whose own `eval` may return anything
    return model


def model_hash(spec: ModelSpec) -> str:
    """SHA-256 over the factory's name, its arguments and the weights file, or over the program's file. Raises InputError."""
    if spec.program is not None:
        return hashlib.sha256(b"program" + read_bytes(spec.program, "model.program")).hexdigest()
    digest = hashlib.sha256(repr((spec.factory, sorted(spec.arguments.items()))).encode())
    if spec.weights is not None:
        digest.update(read_bytes(spec.weights))
    return digest.hexdigest()
