"""The user's own code: a factory that is looked for beside the config first, called, and blamed by its own file and line."""

import copy
import hashlib
import importlib
import inspect
import json
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic.dataclasses import dataclass

from storage.errors import InputError
from storage.models.weights import load_weights, read_bytes
from storage.options import STRICT

if TYPE_CHECKING:
    from torch import nn

OWN = {"auditor", "clear_audit", "flows", "reports", "storage"}
"""The top-level names of the product, which a user's own modules may have as well."""

HOME = Path(__file__).resolve().parents[2]

PLACES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))

LOADING = RLock()
"""While the user's modules are loaded, names mean theirs: two loads at once would see each other's."""

WORDS = 300


@dataclass(frozen=True, config=STRICT)
class FactorySpec:
    """A function of the user's that makes a network, and its weights.

    factory: `package.module:function`, called with `arguments`; it returns a torch.nn.Module. It is code, and runs.
    weights: `.safetensors`, or what torch.save wrote, with tensors only; any fsspec address; None leaves what the factory set.
    """

    factory: str
    weights: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    addresses: ClassVar[tuple[str, ...]] = ("weights",)

    def __post_init__(self) -> None:
        try:
            json.dumps(self.arguments, allow_nan=False)
        except ValueError:
            raise ValueError(
                "key 'model.arguments' has a number that is not finite, which a plan cannot keep: give another"
            ) from None

    @property
    def title(self) -> str:
        return f"model.factory '{self.factory}'"


def load_factory(spec: FactorySpec, folder: str | None, say: Callable[[str], None]) -> "nn.Module":
    """The network that a factory makes, with its weights, in eval mode. Raises InputError. See `call_factory`."""
    model = call_factory(spec, folder, say)
    if spec.weights is not None:
        load_weights(spec.weights, model, spec.title, say)
    model.eval()  # whose own `eval` may return anything
    return model


def hash_factory(spec: FactorySpec) -> str:
    """SHA-256 over the factory's name, its arguments and the weights file. Raises InputError."""
    digest = hashlib.sha256(repr((spec.factory, sorted(spec.arguments.items()))).encode())
    if spec.weights is not None:
        digest.update(read_bytes(spec.weights))
    return digest.hexdigest()


def call_factory(spec: FactorySpec, folder: str | None, say: Callable[[str], None]) -> "nn.Module":
    """The network that a factory makes, without what wraps it to be compiled or spread. Raises InputError.

    folder: where its module is looked for besides the installed packages. say: hears of what was taken off.
    """
    import torch
    from torch import nn

    module_name, _, function = spec.factory.partition(":")
    if not module_name or not function or module_name.startswith("."):
        raise InputError(f"{spec.title} is not of the form 'package.module:function'")

    def build() -> Any:
        factory = find_factory(spec, folder, module_name, function)
        check_arguments(spec, factory)
        return trying(lambda: factory(**spec.arguments), spec.title, folder)

    dtype = torch.get_default_dtype()
    try:
        # In a thread of its own, with which what user code switches there and leaves so ends: gradients, devices, autocast.
        with beside(folder, module_name), ThreadPoolExecutor(1, thread_name_prefix="factory") as thread:
            model = thread.submit(build).result()
    finally:
        torch.set_default_dtype(dtype)
    if not isinstance(model, nn.Module):
        returned = f"the class {model.__name__} itself" if isinstance(model, type) else type(model).__name__
        raise InputError(f"{spec.title} returned {returned}: it must return a torch.nn.Module")
    network = unwrap(model, say)
    made = list(chain(network.parameters(), network.buffers()))
    if any(nn.parameter.is_lazy(tensor) for tensor in made):
        raise InputError(f"{spec.title} has lazy layers that have seen no input: call the network once in the factory")
    if any(tensor.is_meta for tensor in made):
        raise InputError(f"{spec.title} made weights on the device 'meta', which have no values: have it make them on the CPU")
    # What was made in inference mode could take no weights; a copy can.
    return copy.deepcopy(network) if any(tensor.is_inference() for tensor in made) else network


def find_factory(spec: FactorySpec, folder: str | None, module_name: str, function: str) -> Any:
    try:
        module = trying(lambda: importlib.import_module(module_name), f"the module of {spec.title}", folder)
    except InputError as error:
        missing = error.__cause__
        if not isinstance(missing, ModuleNotFoundError):
            raise
        place = place_of(missing, folder)
        raise InputError(
            f"{spec.title}: module '{missing.name}' was not found{place}; install it, or put it beside the config"
        ) from missing
    factory = getattr(module, function, None)
    if not callable(factory):
        raise InputError(f"{spec.title}: module '{module_name}' has no function '{function}'")
    return factory


def check_arguments(spec: FactorySpec, factory: Any) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # written in C: its call says what is wrong
        return
    try:
        signature.bind(**spec.arguments)
    except TypeError as error:
        raise InputError(f"{spec.title} does not take model.arguments {spec.arguments}: {error}") from error


def trying(work: Callable[[], Any], title: str, folder: str | None) -> Any:
    """What user code returns. Raises InputError with what it raised, and where. title: of that code, for the message."""
    try:
        return work()
    except RecursionError as error:
        said = say_raised(error, folder)
    except BaseException as error:  # sys.exit too, which would end a worker; Ctrl-C arrives in another thread
        raise InputError(f"{title} raised {say_raised(error, folder)}") from error
    # Not from the error, whose traceback is too deep to be sent from a worker.
    raise InputError(f"{title} raised {said}")


def say_raised(error: BaseException, folder: str | None) -> str:
    """An exception's type and words, with the user's file and line: "KeyError: 'fc' (net.py, line 5)"."""
    try:
        words = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except Exception:  # its own __str__ is user code as well
        words = ""
    cut = words if len(words) <= WORDS else words[:WORDS] + "…"
    return f"{type(error).__name__}{': ' * bool(cut)}{cut}{place_of(error, folder)}"


def place_of(error: BaseException, folder: str | None) -> str:
    """Where an exception was raised in the user's code, ' (net.py, line 5)'; empty where it passed none.

    folder: the user's; where the exception passed nothing in it, the innermost code that is not PyTorch's, Python's or ours.
    """
    frames = [(Path(frame.f_code.co_filename).resolve(), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        frames.append((Path(error.filename).resolve(), error.lineno or 1))
    theirs = [(path, line) for path, line in frames if is_theirs(path)]
    home = None if folder is None else Path(folder).resolve()
    in_folder = [(path.relative_to(home), line) for path, line in theirs if home is not None and is_below(path, home)]
    if not theirs:
        return ""
    path, line = (in_folder or theirs)[-1]
    return f" ({path}, line {line})"


def is_theirs(path: Path) -> bool:
    """Whether a file of code is neither Python's, nor PyTorch's, nor ours."""
    import torch

    not_theirs = [*(HOME / name for name in OWN), Path(torch.__file__).parent]
    is_pythons = any(path.is_relative_to(place) for place in PLACES) and not is_installed(path)
    return path.is_file() and not is_pythons and not any(path.is_relative_to(place) for place in not_theirs)


def is_below(path: Path, folder: Path) -> bool:
    """Whether a file of code is in a folder, and not in an environment that lies there."""
    return path.is_relative_to(folder) and not is_installed(path.relative_to(folder))


def is_installed(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(path.parts))


class Beside(MetaPathFinder):
    """Finds top-level modules of these names in one folder, before whatever else has them, and ours beside this package."""

    def __init__(self, folder: str, names: set[str]) -> None:
        self.folder, self.names = folder, names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname in self.names:
            return PathFinder.find_spec(fullname, [self.folder])
        return PathFinder.find_spec(fullname, [str(HOME)]) if fullname in OWN else None


@contextmanager
def beside(folder: str | None, module_name: str) -> Iterator[None]:
    """Inside, names that modules in a folder have mean these; afterwards names that meant others before mean those again.

    The factory's module and what it imports may be called as ours are, or as those of another audit were that this process
    has served.
    """
    if folder is None:
        yield
        return
    with LOADING:
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        names = names_in(folder, module_name)
        taken = {name for name in names if is_taken(name, folder, module_name)}
        others = take_out(taken)
        finder = Beside(folder, names)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            # Last from now on, for what the network imports when it runs: nothing of ours is to be found there.
            sys.path.remove(folder)
            sys.path.append(folder)
            sys.meta_path.remove(finder)
            take_out(taken)
            sys.modules.update(others)


def take_out(names: set[str]) -> dict[str, Any]:
    """Takes modules, with those inside them, out of those that are loaded. names: of the top level."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}


def names_in(folder: str, module_name: str) -> set[str]:
    """The top-level names of the modules and packages in a folder, but for Python's own and those that only look like one."""
    top = module_name.partition(".")[0]
    try:
        entries = list(Path(folder).iterdir())
    except OSError:
        entries = []
    files = {entry.name.partition(".")[0] for entry in entries if entry.suffix in (".py", ".so", ".pyd")}
    packages = {
        entry.name
        for entry in entries
        if (entry / "__init__.py").is_file() or (entry.name in OWN and next(entry.glob("*.py"), None) is not None)
    }
    return (files | packages) - set(sys.stdlib_module_names) - {top} | ({top} if has_module(folder, module_name) else set())


def has_module(folder: str, module_name: str) -> bool:
    """Whether a module, with its packages, is in a folder. Nothing is imported to find out."""
    places: Any = [folder]
    name = ""
    for part in module_name.split("."):
        name = f"{name}.{part}" if name else part
        found = PathFinder.find_spec(name, places) if places else None
        if found is None:
            return False
        places = found.submodule_search_locations
    return True


def is_taken(name: str, folder: str, module_name: str) -> bool:
    """Whether a top-level name means another module in this process than in the folder.

    Installed packages that are loaded stay what they are, unless the factory itself is in a module of that name.
    """
    spec = PathFinder.find_spec(name, [folder])
    wanted = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
    if name in OWN:
        return wanted is None or wanted.parent != HOME / name
    if name not in sys.modules:
        return False
    file = getattr(sys.modules[name], "__file__", None)
    if file is None or wanted is None:
        return name == module_name.partition(".")[0]
    loaded = Path(file).resolve()
    return loaded != wanted and (name == module_name.partition(".")[0] or not is_installed(loaded))


def unwrap(model: "nn.Module", say: Callable[[str], None]) -> "nn.Module":
    """A network without what compiles it or spreads it over devices, at any depth: its operations are to be seen."""
    import torch

    found = inside(model)
    wrapped = found is not model
    if any(map(calls_compiled, found.modules())):
        wrapped = True
        # For the whole process, which runs nothing that should be compiled.
        torch.compiler.set_stance("force_eager")
    for parent in list(found.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and inside(child) is not child:
                wrapped = True
                setattr(parent, name, inside(child))
        if getattr(parent, "_compiled_call_impl", None) is not None:
            wrapped = True
            parent._compiled_call_impl = None
    if wrapped:
        say("it is compiled, or spread over devices: the network inside is audited")
    return found


def calls_compiled(module: "nn.Module") -> bool:
    """Whether a module has functions that are compiled by themselves: its own, its class's or those beside its class."""
    around = getattr(type(module).forward, "__globals__", {})
    functions = [*vars(module).values(), *vars(type(module)).values(), *around.values()]
    return any(callable(function) and hasattr(function, "_torchdynamo_orig_callable") for function in functions)


def inside(model: "nn.Module") -> "nn.Module":
    """The network inside torch.compile's module, or inside one that spreads it over devices; itself where it is neither."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    children = dict(model.named_children())
    if type(model).__name__ == "OptimizedModule" and "_orig_mod" in children:
        return inside(children["_orig_mod"])
    if isinstance(model, DataParallel | DistributedDataParallel):
        return inside(children["module"])
    return model
