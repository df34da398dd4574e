"""Hostile forms of what is harmless: bytes that are changed, JSON whose values are.

One seed is drawn for each input and the rest comes from it: hypothesis would take ten times as long to draw each choice.
"""

import json
import string
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st

PATHS = ["../../x", "/etc/passwd", "..", "", ".", "a/../../../x", "C:\\x", "\\\\host\\x", "a\0b", "~/x", "~nobody/x", "*"]
ODD = [
    "x" * 300,
    "$HOME",
    "{0.__class__}",
    "%s%n",
    "';--",
    "<script>",
    "\ud800",
    "é\u202e",
    "\n\r",
    "nan",
    "1e999",
    "s3://a:b@c/d",
]
TEXTS = PATHS + ODD
NUMBERS = [0, -1, 1, 2**31, 2**32, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 1e-320, float("inf"), float("nan")]
EXTREMES = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff"]

Made = TypeVar("Made")


def from_seed(make: Callable[[Random], Made]) -> st.SearchStrategy[Made]:
    return st.integers(0, 2**64 - 1).map(lambda seed: make(Random(seed)))


def some_text(random: Random) -> str:
    if random.random() < 0.7:
        return random.choice(TEXTS)
    letters = string.printable if random.random() < 0.5 else "".join(chr(random.randrange(0x11_0000)) for _ in range(8))
    return "".join(random.choices(letters, k=random.randrange(9)))


def some_value(random: Random, depth: int = 2) -> Any:
    """Any value that JSON can write, and Python's reader takes."""
    kind = random.randrange(8 if depth else 6)
    if kind < 2:
        return random.choice(NUMBERS)
    if kind < 4:
        return some_text(random)
    if kind == 4:
        return random.choice([None, True, False])
    if kind == 5:
        return random.getrandbits(random.randrange(1, 70))
    values = [some_value(random, depth - 1) for _ in range(random.randrange(4))]
    return values if kind == 6 else {some_text(random): value for value in values}


def change_bytes(whole: bytes, random: Random) -> bytes:
    """The bytes with up to four changes: one byte, a cut, junk put in, a part repeated, an extreme number."""
    content = bytearray(whole)
    for _ in range(random.randrange(5)):
        place = random.randrange(len(content) or 1)
        match random.choice(["byte", "byte", "number", "number", "cut", "junk", "repeat"]):
            case "byte":
                content[place : place + 1] = random.randbytes(1)
            case "number":
                number = random.choice(EXTREMES)
                content[place : place + len(number)] = number
            case "cut":
                del content[place:]
            case "junk":
                content[place:place] = random.randbytes(random.randrange(1, 9))
            case "repeat":
                content[place:place] = content[place : place + random.randrange(1, 65)]
    return bytes(content)


def places_of(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value within a value of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, item in inner for place in places_of(item, (*way, key)))]


def change_values(whole: dict[str, Any], random: Random) -> dict[str, Any]:
    """The object with up to three changes: another value, a key that is gone, a key too many."""
    content = json.loads(json.dumps(whole))
    for _ in range(random.randrange(4)):
        *way, key = random.choice([place for place in places_of(content) if place] or [("x",)])
        target = content
        for step in way:
            target = target[step]
        match random.choice(["value", "value", "value", "gone", "new"]):
            case "value":
                target[key] = some_value(random)
            case "gone" if isinstance(target, dict):
                target.pop(key, None)
            case "new" if isinstance(target, dict):
                target[some_text(random)] = some_value(random)
    return content


def change_json(whole: dict[str, Any], random: Random) -> bytes:
    """Mostly JSON, with hostile values; sometimes damaged."""
    text = json.dumps(change_values(whole, random), ensure_ascii=random.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    return change_bytes(content, random) if random.random() < 0.25 else content


TEXT = from_seed(some_text)


def changed_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    return from_seed(partial(change_bytes, whole))


def changed_values(whole: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return from_seed(partial(change_values, whole))


def changed_json(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return from_seed(partial(change_json, whole))
