"""Hostile forms of what is harmless: bytes that are changed, JSON whose values are."""

import json
from typing import Any

from hypothesis import strategies as st

PATHS = [
    "../../x",
    "/etc/passwd",
    "..",
    "",
    ".",
    "a/../../../x",
    "C:\\x",
    "\\\\host\\x",
    "a\0b",
    "~/x",
    "~nobody/x",
    "x" * 300,
    "*",
]
TEXTS = [
    *PATHS,
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
NUMBERS = [0, -1, 1, 2**31, 2**32, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 1e-320, float("inf"), float("nan")]

TEXT = st.sampled_from(TEXTS) | st.text(max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def changed_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with up to four changes: one byte, a cut, junk put in, a part repeated, an extreme number."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["byte", "byte", "number", "number", "cut", "junk", "repeat"])):
            case "byte":
                content[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                number = draw(
                    st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff"])
                )
                content[place : place + len(number)] = number
            case "cut":
                del content[place:]
            case "junk":
                content[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "repeat":
                content[place:place] = content[place : place + draw(st.integers(1, 64))]
    return bytes(content)


def places_of(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value within a value of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, item in inner for place in places_of(item, (*way, key)))]


@st.composite
def changed_values(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """The object with up to three changes: another value, a key that is gone, a key too many."""
    content = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(0, 3))):
        *way, key = draw(st.sampled_from([place for place in places_of(content) if place] or [("x",)]))
        target = content
        for step in way:
            target = target[step]
        match draw(st.sampled_from(["value", "value", "value", "gone", "new"])):
            case "value":
                target[key] = draw(VALUE)
            case "gone" if isinstance(target, dict):
                target.pop(key, None)
            case "new" if isinstance(target, dict):
                target[draw(TEXT)] = draw(VALUE)
    return content


@st.composite
def changed_json(draw: st.DrawFn, whole: dict[str, Any]) -> bytes:
    """Mostly JSON, with hostile values; sometimes damaged."""
    text = json.dumps(draw(changed_values(whole)), ensure_ascii=draw(st.booleans()))
    content = text.encode("utf-8", "surrogatepass")
    return draw(changed_bytes(content)) if draw(st.integers(0, 3)) == 0 else content
