"""A sentence for people is one line that a terminal can show, whatever it quotes."""

import pytest

from storage.errors import InputError, nearest


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("dataset 'é ü 漢' is ≥ 3", "dataset 'é ü 漢' is ≥ 3"),
        ("'a\nb\r\tc'", r"'a\nb\r\tc'"),
        ("\x1b[31mred\x07\x9b", r"\x1b[31mred\x07\x9b"),
        ("\u2028x\ud800", r"\u2028x\ud800"),
    ],
)
def test_what_is_no_text_is_shown_by_its_code(message: str, shown: str) -> None:
    assert str(InputError(message)) == shown
    assert str(InputError(message)).encode().decode().isprintable()


def test_the_nearest_name() -> None:
    assert nearest("smaples", ["runs", "samples"]) == "samples"
