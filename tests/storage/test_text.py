"""Text of others: what controls a terminal, a page or a parser is written out, all else is left as it is."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.text import printable, printable_all, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("\x00\x01\x1b[31m\x7f\x9b", r"\x00\x01\x1b[31m\x7f\x9b"),
        ("a\nb\tc\r\nd", r"a\x0ab\x09c\x0d\x0ad"),
        ("abc\u202egnp.exe\u2066", r"abc\u202egnp.exe\u2066"),
        ("\udce9t\ufffe\uffff\u2028", r"\udce9t\ufffe\uffff\u2028"),
        ("été 猫 👩\u200d🔬 عربي", "été 猫 👩\u200d🔬 عربي"),
    ],
)
def test_what_controls_others_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_ends_of_lines_may_stay() -> None:
    assert printable("a\r\n\tb\n\rc\x1b", lines=True) == "a\n\tb\n" + r"\x0dc\x1b"


@given(st.text(), st.booleans())
def test_nothing_that_controls_is_left_and_nothing_else_is_changed(text: str, lines: bool) -> None:
    shown = printable(text, lines)
    assert all(unicodedata.category(character) not in {"Cc", "Cs"} for character in shown if not (lines and character in "\n\t"))
    shown.encode()
    plain = "".join(character for character in text if unicodedata.category(character)[0] not in "CZ")
    assert printable(plain, lines) == plain


def test_all_texts_of_a_document() -> None:
    document = {"a\x01": ["b\x02", {"c": "d\x1b\n"}, 1, None, True], "e": 1.5}
    assert printable_all(document) == {r"a\x01": [r"b\x02", {"c": "d\\x1b\n"}, 1, None, True], "e": 1.5}


@pytest.mark.parametrize(("listed", "shown"), [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b …")])
def test_a_long_list_is_cut(listed: list[str], shown: str) -> None:
    assert shorten(listed, 2) == shown
