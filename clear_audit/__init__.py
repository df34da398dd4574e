"""Audits image classifiers: the public API, under the one importable name that no other project has.

    from clear_audit import Clear

Nothing heavy is imported before it is asked for.
"""

from typing import TYPE_CHECKING, Any

from clear_audit.names import own_package

if TYPE_CHECKING:
    from auditor import (
        READINGS,
        CannotFold,
        Clear,
        Conservation,
        Maps,
        Measurement,
        UnsupportedModel,
        agreement,
        measure,
        measure_conservation,
    )

    __version__: str

__all__ = [
    "READINGS",
    "CannotFold",
    "Clear",
    "Conservation",
    "Maps",
    "Measurement",
    "UnsupportedModel",
    "__version__",
    "agreement",
    "measure",
    "measure_conservation",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'clear_audit' has no attribute '{name}'")
    if name == "__version__":
        from importlib.metadata import version

        return version("clear-audit")
    return getattr(own_package("auditor"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
