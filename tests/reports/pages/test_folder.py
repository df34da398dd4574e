"""A report with all images of its run, of a store without maps: pictures are drawn by who is asked to."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from reports.pages.folder import write_folder
from reports.parts.cards import picture_path
from storage.errors import InputError
from storage.runs.run import Run
from tests.reports.page import Page, parse, plain
from tests.reports.stores import KINDS, Content, make_store, sample

COLORS = ["#ff0000", "#00ff00"]


def draw(folder: Path, shown: Mapping[int, int]) -> dict[int, float]:
    """Sample 7 has no picture of its input."""
    for index in shown:
        for kind in KINDS:
            if (index, kind) != (7, "input"):
                Image.new("RGB", (4, 4)).save(picture_path(folder, index, kind))
    return {index: index + 0.5 for index in shown}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """230 samples of label a, of which the even are dominated by b; three of b; two without a label."""
    rows = [sample(index, 0, 0, 0.5, 1 - index % 2, (index / 256, 0.25, 0.25)) for index in range(230)]
    rows += [sample(index, 1, 1, 0.5, None, (None, None, None)) for index in range(230, 233)]
    rows += [sample(index, None, 1, 0.5, 0, (0.5, 0.5, None)) for index in range(233, 235)]
    return make_store(tmp_path_factory.mktemp("store"), Content(["a", "b"], rows))


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "report"
    assert write_folder(run, place, draw, COLORS) == place / "index.html"
    return place


def page(folder: Path, name: str) -> Page:
    return parse((folder / "gallery" / name).read_text(encoding="utf-8"))


def test_samples_are_paged_by_label_and_dominant_class(folder: Path) -> None:
    names = ["label-0-1.html", "label-0-2.html", "label-0-3.html", "label-1-1.html", "label-none-1.html"]
    assert sorted(path.name for path in (folder / "gallery").glob("*.html")) == names
    shown = [[card.attributes["id"] for card in page(folder, name).all("article")] for name in names]
    assert [len(cards) for cards in shown] == [100, 100, 30, 3, 2]
    odd = [f"sample-{index}" for index in range(229, 0, -2)]
    even = [f"sample-{index}" for index in range(228, -1, -2)]
    assert [card for cards in shown[:3] for card in cards] == odd + even


def test_every_link_leads_somewhere(folder: Path) -> None:
    for path in folder.rglob("*.html"):
        for link in parse(path.read_text(encoding="utf-8")).all("a"):
            file, _, anchor = link.attributes["href"].partition("#")
            target = path.parent / file if file else path
            assert target.is_file()
            ids = {element.attributes.get("id") for element in parse(target.read_text(encoding="utf-8")).elements}
            assert not anchor or anchor in ids


def test_cells_of_the_report_lead_to_where_they_begin(folder: Path) -> None:
    report = parse((folder / "index.html").read_text(encoding="utf-8"))
    links = [link.attributes["href"] for link in report.all("a") if link.text == "All images of the cell"]
    assert links == [
        "gallery/label-0-1.html#cell-0-0",
        "gallery/label-0-2.html#cell-0-1",
        "gallery/label-1-1.html#cell-1-none",
        "gallery/label-none-1.html#cell-none-0",
    ]


def test_a_card_has_what_the_report_says_of_a_sample(folder: Path) -> None:
    (card,) = [card for card in page(folder, "label-0-1.html").all("article") if card.attributes["id"] == "sample-229"]
    text = plain(card.text)
    assert "label a prediction a (50.0 %) dominant class a" in text
    assert "full brightness response 230" in text
    assert card.attributes["data-dominant"] == "0"


def test_a_missing_picture_leaves_a_place(folder: Path) -> None:
    missing = [path.name for path in (folder / "gallery").glob("*.html") if page(folder, path.name).all("p", class_="missing")]
    assert missing == ["label-0-2.html"]


def test_pages_lead_to_their_neighbours(folder: Path) -> None:
    links = {link.attributes.get("rel"): link.attributes["href"] for link in page(folder, "label-0-2.html").all("a")}
    assert (links["prev"], links["next"]) == ("label-0-1.html", "label-0-3.html")
    ends = [
        {link.attributes.get("rel") for link in page(folder, name).all("a")} for name in ("label-0-1.html", "label-none-1.html")
    ]
    assert ["prev" in ends[0], "next" in ends[0], "prev" in ends[1], "next" in ends[1]] == [False, True, True, False]


def test_a_folder_that_is_in_use_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        write_folder(run, tmp_path, draw, COLORS)
    with pytest.raises(InputError, match="is not an empty folder"):
        write_folder(run, tmp_path / "mine.txt", draw, COLORS)
    with pytest.raises(InputError, match="cannot be made"):
        write_folder(run, tmp_path / "mine.txt" / "below", draw, COLORS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
