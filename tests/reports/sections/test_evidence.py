"""Mean evidence maps in the report."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from reports.pages.report import render
from tests.reports.page import Page, heading, parse, plain
from tests.reports.stores import SCRIPT, SMALL, Content, make_store, many_classes


def cards(page: Page) -> list[str]:
    (section,) = page.all("section", id="evidence")
    articles = [plain(article.text) for article in page.all("article") if "id" not in article.attributes]
    assert all(text in plain(section.text) for text in articles)
    return articles


def test_classes_stand_in_order_of_their_own_share(ranked_page: Page) -> None:
    """By hand: means of 3/4, 3/4, 3/4, 1/4, 1/4 over the ant's images, of 7/8 over the bee's; the cow's 1/8 is of two images."""
    said = cards(ranked_page)
    assert [text.split(" for the class")[0] for text in said] == ["ant", "bee", "cow"]
    assert [text.split("energy for the class ")[1].split(" full")[0] for text in said] == ["55.0 %", "87.5 %", "12.5 %"]
    assert heading(ranked_page, "evidence") == "Class ant has least evidence of its own: 55.0 % of the energy in its images"
    (section,) = ranked_page.all("section", id="evidence")
    assert "1 class has fewer than 5 images and is not ranked" in section.text


def test_shares_by_hand(small_page: Page) -> None:
    """Means of 3/4, 1/4, 1/4 over the cat's images, of 7/8, 3/8, 1/8 over the script's, of 1/8 over one image of `"quotes"`."""
    said = cards(small_page)
    assert [text.split(" for the class")[0] for text in said] == ["cat", SCRIPT, 'Ünï & "quotes"']
    shares = [(text.split("energy for the class ")[1].split(" full")[0], text.split("brightness ")[1]) for text in said]
    assert shares == [("41.7 %", "58.3 % in a cell"), ("45.8 %", "54.2 % in a cell"), ("12.5 %", "87.5 % in a cell")]


def test_pictures_are_the_shares_on_one_scale(small_page: Page) -> None:
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].split(",")[1]))))
        for image in small_page.all("img")[:2]
    ]
    expected = np.zeros((2, 28, 28, 3), int)
    # The cat's own share, of the others' 7/12: 5/7 of the way from black over red and yellow to white.
    expected[0, 0, 0] = [255, 255, round(255 * (3 * 5 / 7 - 2))]
    expected[1, 0, 27] = [255, 166, 255]
    assert np.array_equal(images, expected)


def test_of_many_classes_those_with_least_of_their_own_are_shown(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(30, images=5))))
    assert len(cards(page)) == 20
    assert cards(page)[0].startswith("class-000 ")
    (section,) = page.all("section", id="evidence")
    assert "Shown are the 20 of 30 classes with the lowest share of their own." in plain(section.text)


def test_without_labels_the_report_says_so(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, Content(["a", "b"], []))))
    (section,) = page.all("section", id="evidence")
    assert "This run has no mean evidence" in section.text


def test_without_the_table_the_report_says_so(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    run.table("evidence").unlink()
    page = parse(render(run))
    (section,) = page.all("section", id="evidence")
    assert "This run has no mean evidence" in section.text
    assert "mean_evidence" not in page.queries()
