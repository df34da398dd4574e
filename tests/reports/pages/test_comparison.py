"""The comparison's page and JSON, read back."""

import json
from pathlib import Path

import pytest

from reports.comparison import Comparison, compare
from reports.gates.gate import Gate
from reports.gates.judging import judge
from reports.pages.comparison import Drawing, as_json, chosen_flips, render, say_chance, say_comparison, write_comparison
from reports.parts.cards import Swatch
from reports.parts.layers import Layer, Picture
from storage.runs.run import read_plan
from tests.reports.page import Page, parse, plain
from tests.reports.stores import SCRIPT, Content, make_store
from tests.reports.test_comparison import AFTER, BEFORE, CLASSES, EARLIER

URI = "data:image/png;base64,AAAA"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    store = tmp_path_factory.mktemp("store")
    before = make_store(store, Content(CLASSES, BEFORE, run_id=EARLIER))
    return compare(before, make_store(store, Content(CLASSES, AFTER)))


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> Page:
    judgements = judge([Gate("accuracy", max_drop=0.01), Gate(SCRIPT, "SELECT 1", max=0)], comparison.after, comparison.before)
    drawings = {1: Drawing([Picture("after", "CLEAR map", (Layer(URI),))], [Swatch("#ff0000", SCRIPT)], (1.25, 2.5))}
    return parse(render(comparison, judgements, drawings))


def test_it_begins_with_what_differs(page: Page, comparison: Comparison) -> None:
    (sentence,) = page.all("p", class_="verdict")
    assert plain(sentence.text) == plain(say_comparison(comparison))
    assert say_comparison(comparison).startswith(
        "Of 6 images in both runs, 1 went from right to wrong and 1 from wrong to right (p = 1); 2 kept "
        "their prediction on other evidence."
    )
    (judged,) = page.all("p", class_="status gates failed")
    assert judged.text == "gates failed"


@pytest.mark.parametrize(
    ("p_value", "said"), [(1.0, "p = 1"), (0.001, "p = 0.001"), (0.0123456, "p = 0.0123"), (1e-103, "p < 0.001")]
)
def test_chance_is_said_as_readers_expect(p_value: float, said: str) -> None:
    assert say_chance(p_value) == said


def test_tables_say_before_and_after(page: Page) -> None:
    gates = page.table("The later run's gates")
    assert [row[:2] for row in gates] == [[SCRIPT, "✗ failed"], ["accuracy", "✓ passed"]]
    figures = {row[0]: row[1:] for row in page.table("Means over")}
    assert figures["accuracy"][:4] == ["5", "0.8000", "0.8000", "0.0000"]
    assert figures["accuracy"][5] == "no clear move"
    (worse,) = page.table("Images right before")
    assert worse == ["0", "b", SCRIPT, f"{SCRIPT} → dog", SCRIPT]
    other = page.table("Images same prediction")
    assert [row[4] for row in other] == ["cat → dog", "(none) → cat"]
    assert page.table("Images of the later run alone") == [["5", "g"]]
    drift = {row[0]: row[1:] for row in page.table("Class by class")}
    assert drift["dog"][0] == "1 → 1"


def test_pictures_are_in_the_page(page: Page) -> None:
    assert [image.attributes["src"] for image in page.all("img")] == [URI]
    assert all(not (element.attributes.get("src") or "").startswith("http") for element in page.elements)
    assert not page.all("script")


def test_full_brightness_is_stated_for_both_maps(page: Page) -> None:
    cards = page.all("article")
    assert [plain(card.text).count("response 1.25 → 2.5") for card in cards] == [0, 0, 1, 0]


def test_json_is_read_back(comparison: Comparison) -> None:
    document = json.loads(as_json(comparison, []))
    assert (document["schema"], document["before"], document["after"]) == (
        "clear-audit/comparison/1",
        comparison.before.run_id,
        comparison.after.run_id,
    )
    assert document["outcome"] == "not judged"
    assert {figure["name"]: figure["difference"] for figure in document["figures"]}["accuracy"] == 0
    assert "bootstrap" in document["figures"][0]["method"]
    assert [flip["after_index"] for flip in document["flips"]["other_evidence"]] == [1, 6]
    assert document["added"][0]["sample_id"] == "g"


def test_written_whole_in_its_place(comparison: Comparison) -> None:
    path = write_comparison(comparison, [], {})
    assert path == comparison.after.store / "reports" / f"{EARLIER}--{comparison.after.run_id}.html"
    assert {found.name for found in path.parent.iterdir()} == {path.name, path.with_suffix(".json").name}


def test_first_of_each_kind_are_shown(tmp_path: Path) -> None:
    flipped = [row | {"prediction": 1, "is_correct": False} for row in BEFORE if row["label"] == 0] * 1
    many = [row | {"content_hash": str(i), "sample_index": i} for i, row in enumerate(flipped * 5)]
    right = [row | {"prediction": 0, "is_correct": True} for row in many]
    before = make_store(tmp_path, Content(CLASSES, right, run_id=EARLIER))
    chosen = chosen_flips(compare(before, make_store(tmp_path, Content(CLASSES, many))))
    assert [flip.after_index for flip in chosen["right_to_wrong"]] == list(range(8))


def test_other_classes_are_said(tmp_path: Path) -> None:
    before = make_store(tmp_path, Content([*CLASSES, "old"], BEFORE, run_id=EARLIER))
    after = make_store(tmp_path, Content([*CLASSES, *(f"new {number}" for number in range(6))], AFTER))
    shown = "'new 0', 'new 1', 'new 2', 'new 3', 'new 4' …"
    assert say_comparison(compare(before, after)).endswith(
        f" The runs have other classes: 1 before alone ('old') and 6 after alone ({shown})."
    )
    assert "other classes" not in say_comparison(compare(after, after))


def test_maps_of_two_rules_are_not_compared_in_silence(tmp_path: Path) -> None:
    before = make_store(tmp_path, Content(CLASSES, BEFORE, run_id=EARLIER))
    after = make_store(tmp_path, Content(CLASSES, AFTER))
    assert "by rule" not in say_comparison(compare(before, after))
    for run, rule in ((before, "linear"), (after, "gradient")):
        plan = read_plan(run)
        config = plan.config | {"method": {"rule": rule}}
        run.plan.write_text(plan.model_copy(update={"config": config}).model_dump_json(), encoding="utf-8")
    said = say_comparison(compare(before, after))
    assert said.endswith(" The maps are by rule 'linear' before and by 'gradient' after: what moved of them may be the rule.")
