"""What a person can mend, said in one sentence that names the thing, the place and the way out."""

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """A dataset, model, store or query is not as it must be. The message says what, where, and what to do.

    It is one line that a terminal can show, whatever stands in the names that it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], message))


class StoreLost(RuntimeError):
    """A store is no longer ours to write, in the middle of a run. The message says why, in one line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Of the names that are known, the one that was most likely meant."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]
