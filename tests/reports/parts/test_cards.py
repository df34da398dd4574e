"""Cards of the gallery, as the report shows them."""

import base64
from itertools import combinations
from pathlib import Path

import pytest
import torch

from auditor.colour_maps import palette
from reports.pages.report import render
from reports.parts.cards import Names, make_legend
from storage.runs.run import Run
from tests.reports.page import Page, parse, plain
from tests.reports.stores import KINDS, SCRIPT, SMALL, Content, draw_gallery, make_store, many_classes

SUSPECTS = 6


def card(page: Page, beginning: str) -> str:
    (text,) = [plain(element.text) for element in page.all("article") if plain(element.text).startswith(beginning)]
    return text


def pictures_of(page: Page) -> list[list[tuple[str, bool]]]:
    """What lies in each picture of the gallery, the lowest first: an address, and whether it is greyed."""
    addresses = {f"#{element.attributes['id']}": element.attributes["href"] for element in page.all("image")}
    found: list[list[tuple[str, bool]]] = []
    for element in page.elements:
        if element.name == "svg":
            found.append([])
        elif element.name in ("image", "use"):
            address = element.attributes["href"]
            found[-1].append((addresses[address] if element.name == "use" else address, "filter" in element.attributes))
    return [layers for layers in found if layers]


def test_each_sample_has_its_image_its_maps_on_it_and_its_maps_alone(small_page: Page, small_run: Run) -> None:
    drawn = dict.fromkeys(index for index, _ in SMALL.drawn)
    expected = []
    for index in drawn:
        files = [small_run.gallery / f"{index:06d}-{kind}.png" for kind in KINDS]
        image, *maps = ("data:image/png;base64," + base64.b64encode(file.read_bytes()).decode() for file in files)
        expected += [
            [(image, False)],
            *([(image, True), (drawn, False)] for drawn in maps),
            *([(drawn, False)] for drawn in maps),
        ]
    assert pictures_of(small_page)[SUSPECTS:] == expected
    uris = [element.attributes["href"] for element in small_page.all("image")]
    assert len(uris) == 3 * len(drawn), "each drawing is in the page once"


def test_words_beside_the_pictures(small_page: Page) -> None:
    text = card(small_page, "Sample 1 <img 1>")
    assert "label cat prediction cat (75.0 %)" in text
    assert f"dominant class {SCRIPT} energy for the prediction 25.0 % energy for the label 25.0 %" in text
    assert "full brightness response 1.25" in text
    assert f"CLEAR map, alone {SCRIPT} 75.0 % cat 25.0 % label cat" in text


def test_what_differs_is_marked(small_page: Page) -> None:
    marked = [plain(element.text) for element in small_page.all("dd", class_="differs")]
    # Samples 1 and 6: dominant class; 2 and 5: prediction; 9 and 7: dominant class; 8 has no label to differ from.
    assert marked == [SCRIPT, "cat", f"{SCRIPT} (93.8 %)", 'Ünï & "quotes" (68.8 %)', "(none)", "(none)"]


def test_a_sample_without_label_and_map(small_page: Page) -> None:
    text = card(small_page, "Sample 9")
    assert f"label (no label) prediction {SCRIPT} (31.2 %) dominant class (none)" in text
    alts = [picture.attributes.get("aria-label") for picture in small_page.all("svg", role="img")]
    assert (
        f"Binary heatmap: evidence for the prediction {SCRIPT}, from red to white, and the strongest for any other class." in alts
    )


def test_legend_names_every_class_in_its_color(small_page: Page) -> None:
    legend = small_page.all("ul", class_="swatches")[0]
    assert plain(legend.text) == f'cat {SCRIPT} Ünï & "quotes"'
    colors = [element.attributes["style"] for element in small_page.all("i") if "class" not in element.attributes]
    assert colors[:3] == ["background:#008040", "background:#608040", "background:#c08040"]


def test_a_missing_picture_leaves_a_place(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    (run.gallery / "000006-heatmap.png").unlink()
    page = parse(render(run))
    assert len(page.all("svg", role="img")) == SUSPECTS + 5 * 9 - 2
    assert len(page.all("p", class_="missing")) == 1


def test_legend_of_many_classes_names_those_that_are_seen(tmp_path: Path) -> None:
    content = many_classes(60)
    run = make_store(tmp_path, content)
    draw_gallery(run, Content(content.classes, content.samples, drawn=[(4, "random"), (40, "random")]))
    page = parse(render(run))
    (gallery,) = page.all("section", id="gallery")
    assert plain(page.all("ul", class_="swatches")[-1].text) == "class-005 class-041"
    assert "more" not in gallery.text.split("Colours of the classes")[1].split("Opacity")[0]


HUES = [f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}" for red, green, blue in palette(30).tolist()]


def test_a_legend_lists_twelve_at_most_and_no_two_alike() -> None:
    """Of thirty classes, the more energy the higher their index: those with most, but for colours like one that is listed."""
    names = Names([f"class-{index}" for index in range(30)], HUES)
    shares = [{"class_index": index, "dominant_energy_frac": index / 30} for index in range(30)]
    legend, note = make_legend(names, [], shares)
    assert len(legend) <= 12
    assert legend[-1].name == "class-29"
    colors = [tuple(bytes.fromhex(swatch.color[1:])) for swatch in legend]
    nearest = min(max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in combinations(colors, 2))
    assert nearest >= 60
    assert note.startswith(f"{30 - len(legend)} more classes are seen")


@pytest.mark.parametrize("classes", [1, 2, 10, 12])
def test_of_few_classes_all_that_are_seen_are_listed(classes: int) -> None:
    colors = [f"#{bytes(row).hex()}" for row in (palette(classes) * 255).round().to(torch.uint8).tolist()]
    names = Names([str(index) for index in range(classes)], colors)
    facts = [{"dominant_class": index} for index in range(classes)]
    assert make_legend(names, [*facts, {"dominant_class": None}], []) == (names.swatches, "")
    assert make_legend(names, facts[:1], []) == (names.swatches[:1], "")
