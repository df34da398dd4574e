"""What a person can mend, said in one sentence that names the thing, the place and the way out."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A dataset, model, store or query is not as it must be. The message says what, where, and what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Of the names that are known, the one that was most likely meant."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]
