"""Weights in: what a trainer's file holds, and which of its tensors are the model's. No unrestricted unpickle anywhere."""

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.addresses import open_file
from storage.errors import InputError

if TYPE_CHECKING:
    from torch import nn

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".tar")
"""Suffixes of what torch.save writes."""

WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch.compile, data parallelism and the like put into the names of what they wrap."""

COUNTER = "num_batches_tracked"
"""Batch norm's count of training batches, which evaluation never reads."""

PASSED_OVER = {COUNTER, "total_ops", "total_params", "n_averaged"}
"""Last parts of names that no network computes with: counters of training, of profilers and of averaging."""

CHECKPOINT_COPIES, SMALL = 8, 64 << 20
"""How often a trainer may keep a network's tensors (of several steps, with an optimizer's state), and bytes of what is beside."""

ARCHIVE = b"PK\x03\x04"

DEPTH = 3
SHOWN = 3


@dataclass(frozen=True)
class Fit:
    """Tensors of a file under the model's names. place: the keys that lead to them in the file. changes: what was done to them.

    matching: how many of them the model has under that name, in that shape. differences: what is not so, in words.
    """

    place: tuple[str, ...]
    tensors: dict[str, Any]
    changes: list[str] = field(default_factory=list)
    matching: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return ".".join(self.place)


def load_weights(path: str, model: "nn.Module", title: str, say: Callable[[str], None]) -> None:
    """Loads a file's weights into a model; says what was done to fit them. title: of the model. Raises InputError."""
    expected = model.state_dict()
    content = read_weights(path, sum(map(bytes_of, expected.values())))
    fits = [fit_names(place, tensors, model, expected) for place, tensors in find_tensors(content)]
    if not fits:
        raise InputError(f"model.weights '{path}' holds no tensors by name, but {outline(content)}: save model.state_dict()")
    whole = [fit for fit in fits if not fit.differences]
    if len(whole) > 1:
        raise InputError(
            f"model.weights '{path}' holds weights for {title} more than once, in "
            f"{' and '.join(repr(fit.key or 'the file itself') for fit in whole)}: save the ones that are deployed by themselves"
        )
    fit = max(whole or fits, key=lambda fit: fit.matching)
    try:
        model.load_state_dict({**unread(fit.tensors, expected), **fit.tensors})
    except Exception as error:  # RuntimeError of PyTorch's, or whatever the network's own hooks raise
        raise InputError(f"model.weights '{path}' do not fit {title}: {misfit(fit, expected, error)}") from error
    changes = [f"its '{fit.key}' is taken"] * bool(fit.place) + fit.changes
    if changes:
        say(f"of weights '{path}', {'; '.join(changes)}")


def read_bytes(path: str, key: str = "model.weights") -> bytes:
    """The content of a file at any address. key: of the config, for messages. Raises InputError."""
    try:
        with open_file(path) as file:
            content: bytes = file.read()
    except (OSError, InputError) as error:
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


def check_unfolding(content: bytes, title: str, needed: int) -> None:
    """Raises InputError where an archive is packed, and unpacks to more than a checkpoint of a network can have.

    needed: bytes of the network's own tensors. torch.save packs nothing.
    """
    if not content.startswith(ARCHIVE):  # PyTorch does not take it for an archive either
        return
    try:
        unpacked = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(content)).infolist())
    except Exception as error:  # of an archive that is damaged whatever its bytes happen to mean
        raise InputError(f"{title} is a damaged archive, or no usual one ({error}): save it again by PyTorch") from error
    most = max(2 * len(content), CHECKPOINT_COPIES * needed + SMALL)
    if unpacked > most:
        raise InputError(
            f"{title} has {len(content) / 1e6:,.1f} MB and unpacks to {unpacked / 1e6:,.0f}, more than any training of this "
            "network leaves: save it again by PyTorch, which does not pack it"
        )


def bytes_of(value: Any) -> int:
    """Of a tensor; 0 of other state of a module, and of a layer whose shape is not known yet."""
    import torch
    from torch.nn.parameter import is_lazy

    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) and not is_lazy(value) else 0


def read_weights(path: str, needed: int = 0) -> Any:
    """What a weights file holds: tensors by name, or a trainer's dictionary around them. Raises InputError.

    needed: bytes of the tensors that are looked for.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_bytes(path)
    suffix = Path(path).suffix
    if suffix == ".safetensors":
        try:
            return dict(sorted(load(content).items()))
        except SafetensorError as error:
            raise InputError(f"model.weights '{path}' is not a safetensors file ({error}): export it again") from error
    if suffix not in PICKLED:
        program = "; an exported program is named by model.program" if suffix == ".pt2" else ""
        raise InputError(f"model.weights '{path}' ends in '{suffix}': use .safetensors, or .pt with tensors only{program}")
    check_unfolding(content, f"model.weights '{path}'", needed)
    refuse_torchscript(content, f"model.weights '{path}'")
    try:
        return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = "or is damaged" if found is None else f"'{found[1]}', which could run code"
        raise InputError(
            f"model.weights '{path}' holds more than tensors, {what}, and is not opened: where you trust it, open it by "
            "torch.load(…, weights_only=False) and save the model's state_dict() alone, as .safetensors"
        ) from error


def find_tensors(
    content: Any, place: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yields each dictionary of a file that has tensors by name, once, with the keys that lead to it."""
    import torch

    seen = set() if seen is None else seen
    if not isinstance(content, Mapping) or id(content) in seen:
        return
    seen.add(id(content))
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    if any(isinstance(value, torch.Tensor) for value in named.values()):
        # A module's extra state may be anything.
        yield place, {n: v for n, v in named.items() if isinstance(v, torch.Tensor) or n.endswith("_extra_state")}
    if len(place) < DEPTH:
        for name, inner in named.items():
            yield from find_tensors(inner, (*place, name), seen)


def fit_names(place: tuple[str, ...], tensors: dict[str, Any], model: "nn.Module", expected: dict[str, Any]) -> Fit:
    """A file's tensors under the names that the model has for them, as far as these differ by what stands before all of them."""
    changes: list[str] = []
    present = {part for name in expected for part in name.split(".")}
    cleaned = {".".join(part for part in name.split(".") if part not in WRAPPERS - present): name for name in tensors}
    if len(cleaned) == len(tensors) and set(cleaned) != set(tensors):
        gone = {part for name in tensors for part in name.split(".")} & (WRAPPERS - present)
        changes.append(f"{' and '.join(repr(part + '.') for part in sorted(gone))} is taken out of its names")
        tensors = {name: tensors[old] for name, old in cleaned.items()}
    # The first of equals: the shortest changes.
    renamings = [(old, new) for old in shared_beginnings(tensors) for new in shared_beginnings(expected)]
    old, new = max(renamings, key=lambda renaming: matching(rename(tensors, *renaming), expected))
    if old or new:
        tensors = rename(tensors, old, new)
        changes += [f"'{old}' is taken off all of its names"] * bool(old)
        changes += [f"'{new}' is put before all of its names"] * bool(new)
    over = passed_over(tensors, model, expected)
    if over:
        changes.append(f"{quoted(over)} {'is' if len(over) == 1 else 'are'} passed over, for the network needs none of it")
        tensors = {name: value for name, value in tensors.items() if name not in over}
    return Fit(place, tensors, changes, matching(tensors, expected), list(differences(tensors, expected)))


def passed_over(tensors: dict[str, Any], model: "nn.Module", expected: dict[str, Any]) -> list[str]:
    """Names in a file that the model lacks and does not need: counters, and what it works out for itself."""
    import torch

    made = {name: buffer for name, buffer in model.named_buffers() if name not in expected}
    return [
        name
        for name, value in tensors.items()
        if name not in expected
        and (name.rpartition(".")[2] in PASSED_OVER or (name in made and torch.equal(made[name], torch.as_tensor(value))))
    ]


def shared_beginnings(names: Iterable[str]) -> list[str]:
    """What all names begin with, but for those of counters, up to each of their dots: nothing first, then 'a.', then 'a.b.'."""
    paths = [name.split(".") for name in names]
    columns = zip(*(path[:-1] for path in paths if path[-1] not in PASSED_OVER), strict=False)
    parts = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts) + 1)]


def rename(tensors: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new + name[len(old) :] if name.startswith(old) else name: value for name, value in tensors.items()}


def matching(tensors: dict[str, Any], expected: dict[str, Any]) -> int:
    return sum(name in expected and has_shape(value, expected[name]) for name, value in tensors.items())


def shape_of(value: Any) -> Any:
    """A tensor's shape; of other state of a module, what it is."""
    import torch

    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


def has_shape(value: Any, wanted: Any) -> bool:
    """Whether a value can be loaded where one is wanted; a layer that takes its shape from its first input takes any."""
    import torch
    from torch.nn.parameter import is_lazy

    return is_lazy(wanted) or not isinstance(wanted, torch.Tensor) or shape_of(value) == shape_of(wanted)


def unread(tensors: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """What a file may lack: counters, and one tensor's other names, for which some files keep it once."""
    import torch
    from torch.nn.parameter import is_lazy

    def place(value: Any) -> Any:
        is_there = isinstance(value, torch.Tensor) and not is_lazy(value) and value.numel()
        return (value.data_ptr(), value.shape) if is_there else None

    held = {place(expected[name]): name for name in tensors if name in expected}
    missing = {name: value for name, value in expected.items() if name not in tensors}
    counters = {name: value for name, value in missing.items() if name.rpartition(".")[2] == COUNTER}
    tied = {name: tensors[held[place(value)]] for name, value in missing.items() if place(value) and place(value) in held}
    return counters | tied


def differences(tensors: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """Where a file's tensors are not the model's, the model's first, in words."""
    may_lack = unread(tensors, expected)
    for name, wanted in expected.items():
        if name not in tensors:
            if name not in may_lack:
                yield f"'{name}' is not in the file"
        elif not has_shape(tensors[name], wanted):
            yield f"'{name}' is {shape_of(tensors[name])} in the file and {shape_of(wanted)} in the model"
    yield from (f"'{name}' is not in the model" for name in tensors if name not in expected)


def misfit(fit: Fit, expected: dict[str, Any], error: Exception) -> str:
    """Why weights do not fit, and the way out."""
    if not fit.differences:
        return f"loading them raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not any(name in expected for name in fit.tensors):
        return (
            f"none of their names is the model's: the file has {quoted(fit.tensors)}, the model {quoted(expected)}; "
            "name the factory and weights that belong together, or save that network's own state_dict()"
        )
    more = len(fit.differences) - SHOWN
    shown = "; ".join(fit.differences[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
    changed = f" (after this: {'; '.join(fit.changes)})" if fit.changes else ""
    counts = class_counts(fit.tensors, expected)
    if len(fit.differences) == len(counts) and len(set(counts)) == 1:
        (in_file, in_model), *_ = counts
        return (
            f"{shown}{changed}: the file's head has {in_file} classes and the model's {in_model}; have the factory make a "
            f"network of {in_file} classes (model.arguments), or name the weights of one with {in_model}"
        )
    return f"{shown}{changed}; name the factory, arguments and weights that belong together"


def class_counts(tensors: dict[str, Any], expected: dict[str, Any]) -> list[tuple[int, int]]:
    """Of each tensor that differs in its first axis alone, that axis in file and model."""
    both = [
        (value, expected[name]) for name, value in tensors.items() if name in expected and not has_shape(value, expected[name])
    ]
    shapes = [(shape_of(value), shape_of(wanted)) for value, wanted in both]
    return [(one[0], other[0]) for one, other in shapes if one and other and one[1:] == other[1:]]


def quoted(names: Iterable[str]) -> str:
    """Some names, the first of them, and how many more there are."""
    listed = [f"'{name}'" for name in names]
    more = len(listed) - SHOWN
    return ", ".join(listed[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def outline(content: Any) -> str:
    if isinstance(content, Mapping):
        return quoted(map(str, content)) if content else "nothing"
    return f"a {type(content).__name__}"
