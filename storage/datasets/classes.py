"""Classes: their names, and which of them a label or the name of a folder means."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np

from storage.datasets.dataset import DatasetSpec
from storage.errors import InputError

MOST_CLASSES = np.iinfo(np.int16).max + 1  # class indices are kept as int16


def plain(name: str) -> str:
    """A name without blanks around it and in Unicode's composed form: macOS hands out an "é" as two code points."""
    return unicodedata.normalize("NFC", name).strip()


class ClassNames:
    """The classes that a config names, in the order of the model's outputs.

    names: each its own; those that occur twice have their index behind them, "crane (134)". Two are the same where they
    look alike: blanks around a name and Unicode's normal form do not tell them apart.

    Raises InputError where there are none.
    """

    def __init__(self, given: Sequence[str], address: str) -> None:
        if not given:
            raise InputError(f"{address}: `classes` is empty; name the model's outputs in order, or leave it out")
        self._address = address
        occurrences = Counter(map(plain, given))
        self.names = tuple(name if occurrences[plain(name)] == 1 else f"{name} ({index})" for index, name in enumerate(given))
        self._indices: dict[str, list[int]] = {}
        for index, name in enumerate(given):
            self._indices.setdefault(plain(name), []).append(index)
        for index, name in enumerate(self.names):
            if name != given[index] and self._indices.setdefault(plain(name), [index]) != [index]:
                raise InputError(f"{address}: `classes` names {name!r} beside {given[index]!r} twice; give each its own name")

    def find(self, name: str) -> list[int]:
        """The indices of the classes of that name: none where it is no class, several where its name occurs twice."""
        return self._indices.get(plain(name), [])

    def only(self, indices: Sequence[int], what: str) -> int:
        """The one index of what `find` found. Raises InputError where there are several. what: "row 3 has label 'crane'"."""
        if len(indices) > 1:
            readings = ", ".join(f"{index} = {self.names[index]!r}" for index in indices)
            raise InputError(f"{self._address}: {what}, which may be any of the classes {readings}; write which of these it is")
        return indices[0]


def named_classes(spec: DatasetSpec) -> tuple[str, ...] | None:
    """The names in `spec.classes`, each its own; None where they are not given. Raises InputError where there are none."""
    return None if spec.classes is None else ClassNames(spec.classes, spec.path).names


def numbered_classes(labels: np.ndarray, address: str) -> tuple[str, ...]:
    """("0", …, "largest label") for integer labels (N,), −1 = unknown.

    Raises InputError: no label is known, or there would be more classes than an audit can hold.
    """
    count = int(labels.max()) + 1
    if count < 1:
        raise InputError(f"{address}: no label is known, so the classes are not either; name them in `classes`")
    if count > MOST_CLASSES:
        raise InputError(f"{address}: label {count - 1} asks for more than {MOST_CLASSES} classes; mend the labels")
    return tuple(map(str, range(count)))


def check_labels(labels: np.ndarray, classes: tuple[str, ...], address: str, place: str, first: int) -> None:
    """Raises InputError where an integer label (N,) is neither −1 nor the index of a class.

    place: what the message calls the label's place, "row" say; first: the number of the first one.
    """
    outside = np.flatnonzero((labels < -1) | (labels >= len(classes)))
    if outside.size:
        raise InputError(
            f"{address}: {place} {outside[0] + first} has label {labels[outside[0]]}, outside the "
            f"{len(classes)} classes (0 = {classes[0]!r} to {len(classes) - 1} = {classes[-1]!r}); "
            "mend the label, or name every class in `classes`"
        )


def empty_classes(classes: tuple[str, ...], labels: np.ndarray) -> tuple[str, ...]:
    """The classes that no label (N,) is of; none where no label is known at all."""
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    return tuple(name for name, count in zip(classes, counts.tolist(), strict=True) if not count) if counts.any() else ()


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate most like `name` whatever the case; else the list of candidates, cut at ten."""
    names = list(candidates)
    by_folded = {candidate.casefold(): candidate for candidate in names}
    close = get_close_matches(name.casefold(), by_folded, n=1)
    if close:
        return f"the nearest is {by_folded[close[0]]!r}"
    return f"there are {', '.join(map(repr, names[:10]))}{' …' if len(names) > 10 else ''}"
