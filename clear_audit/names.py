"""Our packages have names that other projects have as well: here ours are found, whatever else is called so."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

OWN = ("auditor", "flows", "reports", "storage")

FOLDER = Path(__file__).resolve().parents[1]


class OwnPackages(MetaPathFinder):
    """Finds our packages beside this one. The path itself stays as it is: what else lies here must not come first."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(FOLDER)]) if fullname in OWN else None


def own_packages_first() -> None:
    """From now on, in a process that is ours, our packages' names mean ours, whatever PYTHONPATH says."""
    if not any(isinstance(finder, OwnPackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnPackages())


@contextmanager
def own_packages() -> Iterator[None]:
    """Inside, names mean ours that mean others outside."""
    finder = OwnPackages()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def own_package(name: str) -> ModuleType:
    """One of our packages, in a process that is not ours. Raises ImportError where another of that name is loaded."""
    with own_packages():
        package = import_module(name)
    if FOLDER / name not in map(Path, package.__path__ if hasattr(package, "__path__") else ()):
        raise ImportError(
            f"clear_audit needs its own package '{name}', and {package} is loaded under that name: import clear_audit's names "
            "before it, or give it another name"
        )
    return package
