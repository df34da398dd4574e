"""Where models come from. To add a source: write its file, and name it here.

No unrestricted unpickle anywhere. A factory's path is code; weights and programs are data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import Discriminator, Tag

from storage.models.factories import FactorySpec, hash_factory, load_factory
from storage.models.programs import ProgramSpec, hash_program, load_program

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

Say = Callable[[str], None]


class ModelSpec(Protocol):
    """What builds a model, on any machine that sees its files: each source has its own, with its own strict options.

    title: the model in a message: the key that names it, and what it names. addresses: the options that say where files are,
    which are relative to the config.
    """

    addresses: ClassVar[tuple[str, ...]]

    @property
    def title(self) -> str: ...


@dataclass(frozen=True)
class Source:
    """What loads and hashes the models of a source. key: that tells its section of a config from those of the others."""

    key: str
    load: "Callable[[Any, str | None, Say], nn.Module | ExportedProgram]"
    hash: Callable[[Any], str]


SOURCES: dict[type, Source] = {
    ProgramSpec: Source("program", load_program, hash_program),
    FactorySpec: Source("factory", load_factory, hash_factory),
}
"""By the options of each. Of a section with the keys of several, the first is meant; of one with none, the last."""


def key_of(given: Any) -> str:
    """The key of the source that a section of a config, or the options themselves, are of."""
    if type(given) in SOURCES:
        return SOURCES[type(given)].key
    *firsts, last = (source.key for source in SOURCES.values())
    return next((key for key in firsts if isinstance(given, dict) and key in given), last)


if TYPE_CHECKING:
    AnySource = ModelSpec
else:
    AnySource = Annotated[
        reduce(or_, (Annotated[spec, Tag(source.key)] for spec, source in SOURCES.items())),
        Discriminator(key_of),
    ]


def say_nothing(sentence: str) -> None:
    """For who wants no word of what was done to make a model fit."""


def load_model(spec: ModelSpec, folder: str | None = None, say: Say = say_nothing) -> "nn.Module | ExportedProgram":
    """The model on the CPU: a module in eval mode, built and with its weights, or a program. Raises InputError.

    folder: where a factory's module is looked for besides the installed packages. say: hears, in a sentence each, what was done
    to make it fit.
    """
    return SOURCES[type(spec)].load(spec, folder, say)


def model_hash(spec: ModelSpec) -> str:
    """SHA-256 of all that makes the model, but for the code of a factory. Raises InputError."""
    return SOURCES[type(spec)].hash(spec)
