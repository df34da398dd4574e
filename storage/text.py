"""Text of others, as labels, names of files and messages are, made fit to be shown."""

import re
from collections.abc import Sequence
from typing import Any

HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What controls a terminal, turns the direction of text, ends a line unseen, or is no character at all."""


def printable(text: str, lines: bool = False) -> str:
    r"""The text with what controls whoever shows it written out, as \x1b or \u202e.

    lines: keeps the ends of lines, and tabs.
    """
    text = text.replace("\r\n", "\n") if lines else text
    return HIDDEN.sub(lambda found: found[0] if lines and found[0] in "\n\t" else written_out(found[0]), text)


def written_out(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable_all(value: Any) -> Any:
    """What JSON can hold, all of its texts printable."""
    if isinstance(value, str):
        return printable(value, lines=True)
    if isinstance(value, dict):
        return {printable_all(key): printable_all(inner) for key, inner in value.items()}
    return [printable_all(inner) for inner in value] if isinstance(value, list) else value


def shorten(listed: Sequence[str], most: int) -> str:
    """The first `most` of a list, with a sign where there are more."""
    return ", ".join(listed[:most]) + (" …" if len(listed) > most else "")
