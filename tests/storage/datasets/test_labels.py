"""What labels mean: each case is written out by hand, with what a person would read in it."""

import unicodedata
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.datasets.labels import read_labels, whole_number
from storage.datasets.manifest import ManifestSpec
from storage.errors import InputError

ONE_TO_ELEVEN = [str(number) for number in range(1, 12)]
TWELVE = tuple(str(number) for number in range(1, 13))
LETTERS = tuple("abcdefghijkl")


def read(
    labels: Sequence[object] | pa.Array, classes: tuple[str, ...] | None = None, is_typed: bool = False
) -> tuple[list[int], tuple[str, ...]]:
    array = labels if isinstance(labels, pa.Array) else pa.array(labels)
    found, names = read_labels(pa.chunked_array([array]), ManifestSpec("manifest", "list.csv", classes), is_typed)
    assert found.dtype == np.int64
    return found.tolist(), names


def refusal(labels: Sequence[object] | pa.Array, classes: tuple[str, ...] | None = None, is_typed: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        read(labels, classes, is_typed)
    return str(caught.value)


@pytest.mark.parametrize(
    "written",
    [
        ["0", "2", None, "10"],
        ["0.0", "2.0", None, "10.0"],  # pandas' integer column with a gap
        ["0.0", "2.0", "nan", "10.0"],
        ["0", "2", "NaN", "10"],
        ["0", "2", "None", "10"],
        ["0", "2", "NA", "10"],
        ["0", "2", "<NA>", "10"],
        ["0", "2", "null", "10"],
        ["0", "2", "N/A", "10"],
        ["0", "2", " ", "10"],
        ["0", "2", "-1", "10"],
        ["0", "2", "-1.0", "10"],
        [" 0", " 2 ", "", "\t10"],
        ["0", "\u00a02", "", "10\r"],
        ["0,0", "2,0", "", "10,0"],  # where a comma is the decimal point
        ["0.", "2.", "", "10."],
        ["0.000000000000000000e+00", "2.000000000000000000e+00", "", "1.000000000000000000e+01"],  # numpy.savetxt
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [None, LETTERS])
def test_whole_numbers_are_indices_however_they_are_written(written: list[str | None], classes: tuple[str, ...] | None) -> None:
    labels, names = read(written, classes)
    assert labels == [0, 2, -1, 10]
    assert names == (classes or tuple(str(index) for index in range(11)))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 2, None, 10], pa.uint8()),
        pa.array([0, 2, -1, 10], pa.int64()),
        pa.array([0.0, 2.0, None, 10.0]),
        pa.array([0.0, 2.0, float("nan"), 10.0]),
        pa.array([0.0, 2.0, None, 10.0], pa.float32()),
        pa.array([Decimal("0.00"), Decimal("2.00"), None, Decimal("10.00")]),
        pa.array(["0", "2", None, "10"]),
    ],
    ids=lambda column: str(column.type),
)
def test_a_table_with_types(column: pa.Array) -> None:
    assert read(column, LETTERS, is_typed=True)[0] == [0, 2, -1, 10]


def test_names_are_names_of_the_config_or_sorted() -> None:
    assert read(["dog", None, "cat"]) == ([1, -1, 0], ("cat", "dog"))
    assert read([" dog", "", "cat "]) == ([1, -1, 0], ("cat", "dog"))
    assert read(["dog", "-1", "cat"]) == ([1, -1, 0], ("cat", "dog"))
    assert read(["dog", "nan", "cat"], ("dog", "bird", "cat")) == ([0, -1, 2], ("dog", "bird", "cat"))
    assert read(["none", "scratch", "none"], ("none", "scratch"))[0] == [0, 1, 0]
    assert read([True, False, None]) == ([1, 0, -1], ("False", "True"))
    assert read(["30", "stop"], ("stop", "30"))[0] == [1, 0]
    composed, decomposed = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    assert read([decomposed, composed, "hiver"]) == ([1, 1, 0], ("hiver", composed))
    assert read([decomposed], ("hiver", composed))[0] == [1]


def test_numbers_that_are_names_and_can_be_nothing_else() -> None:
    assert read(ONE_TO_ELEVEN, TWELVE[:11])[0] == list(range(11))
    assert read([*ONE_TO_ELEVEN, "12"], TWELVE)[0] == list(range(12))
    assert read([f"{number}.0" for number in TWELVE], TWELVE)[0] == list(range(12))
    assert read(pa.array(range(1, 13)), TWELVE, is_typed=True)[0] == list(range(12))
    assert read(["0", "3"], TWELVE)[0] == [0, 3], "0 is no name, so these are indices"
    assert read(["7", "3"], tuple(map(str, range(10))))[0] == [7, 3], "both readings are the same"
    assert read(ONE_TO_ELEVEN, TWELVE, is_typed=True)[0] == list(range(11)), "the table says that they are text"
    assert read(["1", "2"], ("01", "02"))[0] == [0, 1], "as a program that takes them for numbers writes them"
    assert read(["01", "12"], tuple(f"{number:02d}" for number in range(1, 13)))[0] == [0, 11]
    assert read(["1e3", "stop"], ("stop", "1e3"))[0] == [1, 0]
    assert read(["1", "01", "x"], ("x", "1", "01"))[0] == [1, 2, 0], "each is a name to the letter"


@pytest.mark.parametrize("labels", [ONE_TO_ELEVEN, [f"{number}.0" for number in ONE_TO_ELEVEN], list(range(1, 12))], ids=str)
def test_numbers_that_may_be_names_or_indices(labels: list[object]) -> None:
    said = "row 1 has label '1', which is the name of class 0 and the index of class '2'; give the classes names in `classes`"
    assert said in refusal(labels, TWELVE).replace("'1.0'", "'1'")


def test_ones_and_zeros_lost() -> None:
    """Classes "01" … "12", and labels that a program has taken for the numbers 1 … 11."""
    assert "'1', which is the name of class 0 and the index of class '02'" in refusal(
        ONE_TO_ELEVEN, tuple(f"{number:02d}" for number in range(1, 13))
    )


@pytest.mark.parametrize("labels", [["01", "02"], ["1", "+2"], ["1e3", "2"]])
def test_numbers_in_a_way_in_which_names_are_written(labels: list[str]) -> None:
    assert "which may be the index" in refusal(labels)


def test_both_readings_may_come_to_the_same() -> None:
    assert read(["01", "00", "02"]) == ([1, 0, 2], ("0", "1", "2"))
    texts = [str(number) for number in range(12)]
    assert read(texts, is_typed=True) == (list(range(12)), tuple(texts)), "10 does not come before 2"
    assert "row 1 has label '1', which may be the index 1 or a name" in refusal(ONE_TO_ELEVEN, is_typed=True)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["0", "1", "x", "2"], None, "row 3 has label 'x', a name, and row 1 has label '0', an index; write one or the other"),
        (["x", "x", "1"], None, "row 1 has label 'x', a name, and row 3 has label '1', an index"),
        (["0", "1", "x", "2"], LETTERS, "row 3 has label 'x', which is not among the 12 classes"),
        (["cat", "1"], ("cat", "dog"), "row 2 has label '1', which is not among the 2 classes"),
        (["cat", "None"], None, "row 2 has label 'None', which may be a class or stand for no label; name the classes"),
        (["0", "1.5"], None, "row 2 has label '1.5', which is no class index; write whole class indices"),
        (["0.5", "1.5"], None, "row 1 has label '0.5', which is no class index"),
        (["0", "2"], ("cat", "dog"), "row 2 has label 2, outside the 2 classes"),
        (["0", "-2"], None, "row 2 has label -2, outside the 1 classes"),
        (
            ["crane"],
            ("crane", "crane"),
            r"row 1 has label 'crane', which may be any of the classes 0 = 'crane (0)', 1 = 'crane (1)'",
        ),
        ([None, ""], None, "no label is known"),
        (["nan", "-1"], None, "no label is known"),
    ],
    ids=str,
)
def test_what_cannot_be_read_in_one_way_is_named(labels: list[str | None], classes: tuple[str, ...] | None, message: str) -> None:
    assert message in refusal(labels, classes)


def test_labels_of_twins_are_read_by_their_index() -> None:
    assert read(["crane (1)", "heron"], ("crane", "crane", "heron"))[0] == [1, 2]
    assert read(["1", "2", "0"], ("crane", "crane", "heron"))[0] == [1, 2, 0]


@given(st.lists(st.integers(-1, 40) | st.none(), min_size=1, max_size=30))
def test_any_way_of_writing_integers_is_the_same(numbers: list[int | None]) -> None:
    if not any(number is not None and number >= 0 for number in numbers):
        return
    expected = [-1 if number is None else number for number in numbers]
    for written in ("{}", "{}.0", " {}", "{}.00 ", "{},0"):
        assert read([None if number is None else written.format(number) for number in numbers])[0] == expected
    assert read(pa.array(numbers, pa.float64()), is_typed=True)[0] == expected
    assert read(pa.array(numbers, pa.int16()), is_typed=True)[0] == expected


@pytest.mark.parametrize("text", ["", "x", "1.5", "1,000", "1_000", "0x1", "１", "1 2", "--1", "inf", "1e400", "9" * 30, "1.2.3"])
def test_what_is_no_integer(text: str) -> None:
    assert whole_number(text) is None
