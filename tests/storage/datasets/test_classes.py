import unicodedata

import numpy as np
import pytest

from storage.datasets.classes import ClassNames, check_labels, empty_classes, named_classes, nearest, numbered_classes
from storage.datasets.idx import IdxSpec
from storage.errors import InputError

ÉTÉ, ÉTÉ_OF_MACOS = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))


def test_names_that_occur_twice_get_their_index() -> None:
    classes = ClassNames(("crane", "maillot", "heron", "crane ", "maillot"), "here")
    assert classes.names == ("crane (0)", "maillot (1)", "heron", "crane  (3)", "maillot (4)")
    assert classes.find("heron") == [2]
    assert classes.find("crane") == [0, 3]
    assert classes.find("maillot (4)") == [4]
    assert classes.find("Heron") == []
    with pytest.raises(InputError, match=r"row 7 has label 'x', which may be any of the classes 0 = 'crane \(0\)', 3 = 'crane"):
        classes.only([0, 3], "row 7 has label 'x'")
    assert classes.only([2], "") == 2


def test_a_name_that_another_gets_by_its_index_is_an_error() -> None:
    with pytest.raises(InputError, match=r"`classes` names 'crane \(0\)' beside 'crane' twice"):
        ClassNames(("crane", "crane", "crane (0)"), "here")


@pytest.mark.parametrize("given", [ÉTÉ, ÉTÉ_OF_MACOS])
@pytest.mark.parametrize("asked", [ÉTÉ, ÉTÉ_OF_MACOS, f" {ÉTÉ}", f"{ÉTÉ_OF_MACOS}\t"])
def test_names_that_look_alike_are_the_same(given: str, asked: str) -> None:
    assert ClassNames(("a", given), "here").find(asked) == [1]


def test_classes_without_a_name_are_an_error() -> None:
    assert named_classes(IdxSpec("idx", "here", None, ("a", "b", "a"))) == ("a (0)", "b", "a (2)")
    assert named_classes(IdxSpec("idx", "here")) is None
    with pytest.raises(InputError, match="here: `classes` is empty"):
        named_classes(IdxSpec("idx", "here", None, ()))


def test_integer_labels_and_the_classes_that_they_index() -> None:
    assert numbered_classes(np.array([1, -1, 2]), "here") == ("0", "1", "2")
    check_labels(np.array([-1, 0, 1]), ("a", "b"), "here", "row", 1)
    with pytest.raises(InputError, match="here: row 3 has label 2, outside the 2 classes"):
        check_labels(np.array([-1, 0, 2]), ("a", "b"), "here", "row", 1)


def test_classes_that_no_label_is_of() -> None:
    assert empty_classes(("a", "b", "c"), np.array([-1, 2, 2])) == ("a", "b")
    assert empty_classes(("a", "b"), np.array([0, 1])) == ()
    assert empty_classes(("a", "b"), np.array([-1])) == (), "of a dataset without labels nothing is known"


def test_the_nearest_name_or_all() -> None:
    assert nearest("CATT", ["dog", "Cat"]) == "the nearest is 'Cat'"
    assert nearest("zebra", ["dog", "cat"]) == "there are 'dog', 'cat'"
    assert nearest("zebra", map(str, range(11))).endswith("'9' …")
