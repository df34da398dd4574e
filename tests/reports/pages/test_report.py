"""The report as a file and as a page."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from reports.comparison import compare
from reports.gates.exports import as_junit, as_markdown
from reports.gates.gate import Gate
from reports.gates.judging import judge
from reports.pages import report
from reports.pages.comparison import write_comparison
from reports.pages.index import write_index
from reports.pages.report import render, write_report
from reports.pages.template import TEMPLATES
from storage.runs.run import Run
from tests.reports.page import Page, heading, parse
from tests.reports.stores import QUOTES, SAMPLES, SCRIPT, SMALL, make_store


def test_written_whole_in_its_place(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    path = write_report(run)
    first = path.read_text(encoding="utf-8")
    assert path == tmp_path / "reports" / "20261121T030000Z-digits-4f2a.html"
    assert write_report(run).read_text(encoding="utf-8") == first
    assert list(path.parent.iterdir()) == [path]


def test_same_run_same_page(small_run: Run, small_html: str) -> None:
    assert render(small_run) == small_html


def test_no_script_but_our_own_and_nothing_that_acts(small_html: str, small_page: Page) -> None:
    (script,) = small_page.all("script")
    assert script.text.strip() == (TEMPLATES / "script.js").read_text(encoding="utf-8").strip()
    assert small_html.lower().count("<script") == 1
    assert SCRIPT in small_page.elements[0].text
    assert QUOTES in small_page.elements[0].text
    acting = [name for element in small_page.elements for name in element.attributes if name.startswith("on")]
    assert acting == []
    assert not {element.name for element in small_page.elements} & {"iframe", "object", "embed", "link", "base"}


def test_no_request_leaves_the_page(small_html: str, small_page: Page) -> None:
    targets = [
        value
        for element in small_page.elements
        for name, value in element.attributes.items()
        if name in {"src", "href", "xlink:href", "srcset", "action", "poster"}
    ]
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith(("data:", "#"))] == []
    assert re.findall(r"url\([^#]|@import", small_html) == []


def test_links_lead_somewhere_and_ids_are_unique(small_page: Page) -> None:
    ids = [element.attributes["id"] for element in small_page.elements if "id" in element.attributes]
    links = [element.attributes["href"] for element in small_page.all("a")]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in links} <= set(ids)
    named = [section.attributes["aria-labelledby"] for section in small_page.all("section")[1:]]
    assert set(named) <= set(ids)
    # The skip, the gates, suspects and the way to the gallery; the contents; cells of the chart and the table; cells' images and
    # ways to the gallery; cards that stand elsewhere.
    assert len(links) == (1 + 1 + 6 + 1) + 11 + 8 + 4 + (9 + 8) + 5


def test_landmarks_and_language(small_html: str, small_page: Page) -> None:
    counts = {name: len(small_page.all(name)) for name in ("header", "main", "nav", "footer", "h1")}
    assert counts == dict.fromkeys(counts, 1)
    assert small_html.startswith("<!doctype html>\n")
    assert small_page.all("html")[0].attributes["lang"] == "en"


def test_headings_skip_no_level(small_page: Page) -> None:
    levels = [int(element.name[1]) for element in small_page.elements if re.fullmatch(r"h[1-6]", element.name)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_pictures_and_charts_have_words(small_page: Page) -> None:
    images = [*small_page.all("img"), *small_page.all("svg", role="img")]
    charts = [
        div
        for div in small_page.all("div", class_="scroll")
        if div.attributes["role"] == "img" or "Heat map" in div.attributes["aria-label"]
    ]
    assert len(images) == 6 + 6 + 5 * 9
    assert all((image.attributes.get("alt") or image.attributes["aria-label"]).strip() for image in images)
    assert len(charts) == 1, "no class is ranked, and that of the cells ranks none"
    assert len(small_page.all("svg")) == 1 + 6 + 5 * 9 + 1
    assert all(chart.attributes["aria-label"].strip() for chart in charts)
    assert len(small_page.all("figcaption")) == len(small_page.all("figure")) == 1 + 6 + 6 + 5 * 9


def test_tables_have_captions_and_headed_rows_and_columns(small_page: Page) -> None:
    assert len(small_page.all("table")) == len(small_page.all("caption")) == len(small_page.tables()) == 14 + 8
    assert {cell.attributes.get("scope") for cell in small_page.all("th")} == {"row", "col"}
    rows = small_page.all("tr")
    heads = [cell for cell in small_page.all("th") if cell.attributes["scope"] == "row"]
    assert len(heads) == len(rows) - len(small_page.all("thead"))


def test_sections_are_in_the_order_of_a_decision(small_page: Page) -> None:
    order = [section.attributes["id"] for section in small_page.all("section")]
    assert order[:3] == ["verdict", "suspects", "review"], "the first screen"
    found = ["gates", "run", "not-evaluated", "accuracy", "confusion", "where", "evidence", "gallery", "failures"]
    assert order[3:] == [*found, "method", "provenance"]


def test_the_first_screen_answers_in_order(small_page: Page) -> None:
    (audited,) = small_page.all("p", class_="audited")
    (contents,) = small_page.all("nav")
    headings = small_page.all("h2")
    said = ["Can these maps be trusted?", "Can this model be trusted?", "Images to look at first", "Sign-off"]
    assert [element.text for element in headings[:4]] == said
    places = [small_page.elements.index(element) for element in (audited, *headings[:4], contents)]
    assert places == sorted(places)
    (review,) = small_page.all("section", id="review")
    assert review.text.split()[1:5] == ["Reviewer", "Date", "Decision", "Comment"]


def test_all_but_the_first_screen_is_folded(small_page: Page) -> None:
    folds = small_page.all("details", class_="fold")
    titles = [section.attributes["id"] for section in small_page.all("section")[3:]]
    assert len(folds) == len(titles)
    assert not [fold for fold in folds if "open" in fold.attributes]
    topics = {section.title for section in report.SECTIONS}
    findings = [heading(small_page, anchor) for anchor in titles]
    assert not set(findings) & topics, "what was found, not what it is about"


def test_the_contents_name_the_sections_below_them(small_page: Page) -> None:
    (contents,) = small_page.all("nav")
    shown = [section for section in report.SECTIONS if small_page.all("section", id=section.anchor)]
    assert [line.strip() for line in contents.text.splitlines() if line.strip()] == [section.title for section in shown]
    links = [link.attributes["href"] for link in small_page.all("a")]
    first = links.index(f"#{shown[0].anchor}", links.index("#gallery"))
    assert links[first : first + len(shown)] == [f"#{section.anchor}" for section in shown]


def test_a_section_without_content_is_left_out(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = [
        replace(section, make_content=lambda _: None) if section.anchor == "failures" else section for section in report.SECTIONS
    ]
    monkeypatch.setattr(report, "SECTIONS", sections)
    page = parse(render(small_run))
    assert [section.attributes["id"] for section in page.all("section")][-4:] == ["evidence", "gallery", "method", "provenance"]
    assert "Failures" not in page.all("nav")[0].text
    assert not page.all("a", href="#failures")


def test_method_says_how_the_maps_were_read_and_what_speaks_against_them(small_page: Page) -> None:
    (method,) = small_page.all("section", id="method")
    assert "Only positive response is sent back: max(z, 0) & no more." in method.text
    for said in ("Nie", "Adebayo", "Sixt", "linear", "float32", "mean over the run 0.25", "mean over the run 0.75"):
        assert said in method.text


def test_the_report_does_not_decide(small_html: str) -> None:
    assert "complian" not in small_html.lower()
    assert "supplies evidence for a decision" in small_html


@pytest.mark.parametrize("broken", ["<main><p></main>", "<main>", "<main></main></p>"])
def test_unbalanced_pages_are_noticed(broken: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parse(broken)


def test_charts_are_loaded_only_when_drawn() -> None:
    code = "import sys, reports.pages.report; print(sorted({'altair', 'vl_convert', 'PIL', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


HOSTILE = ["\x01cat\x00", "\x1b]0;owned\x07dog", "bird\u202e"]
"""Names of classes on which the chart library ends the process, a terminal is taken over, and text turns round."""


def test_what_controls_others_is_written_out_wherever_it_is_shown(tmp_path: Path) -> None:
    samples = [row | {"sample_id": f"{row['sample_id']}\x1b\x00"} for row in SAMPLES]
    failures = [row | {"reason": "because\x1b[2J\x00"} for row in SMALL.failures]
    content = replace(SMALL, classes=HOSTILE, samples=samples, failures=failures, gates=[Gate("g\x01", "SELECT '\x1b'", min=1)])
    run = make_store(tmp_path, content)
    made = [write_report(run), write_index(tmp_path)]
    other = make_store(tmp_path, replace(content, run_id="20261122T030000Z-digits-4f2b"))
    judgements = judge(content.gates, other, run)
    made.append(write_comparison(compare(run, other), judgements, {}))
    for path in made:
        html = path.read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html), path
    html = made[0].read_text(encoding="utf-8")
    for name in (r"\x01cat\x00", r"\x1b]0;owned\x07dog", r"bird\u202e"):
        assert html.count(name) > 3
    assert r"because\x1b[2J\x00" in html
    assert ElementTree.fromstring(as_junit(run, judgements)).get("errors") == "1"
    assert r"g\\x01" in as_markdown(run, None, judgements)
    sql = "SELECT sample_id FROM samples"
    for arguments, shown in ((["show", run.run_id], r"\x1b]0;owned\x07dog"), (["query", sql], r"\x1b\x00")):
        command = [sys.executable, "-m", "flows.cli", *arguments, "--store", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert shown in done.stdout
        assert not re.search("[\x00-\x08\x0b-\x1f]", done.stdout)


@pytest.mark.parametrize("damage", ["label", "times", "cells"])
def test_a_run_that_does_not_fit_together_is_one_sentence(tmp_path: Path, damage: str) -> None:
    run = make_store(tmp_path, SMALL)
    if damage == "times":
        record = json.loads(run.manifest.read_text())
        run.manifest.write_text(json.dumps(record | {"finished_at": "0001-01-01T00:00:00+23:59"}))
    else:
        table, column, value = ("samples", "label", 99) if damage == "label" else ("evidence", "label_energy_frac_mean", [1.0])
        rows = pq.read_table(run.table(table), partitioning=None)
        field = rows.schema.field(column)
        values = pa.array([value] * len(rows), field.type)
        pq.write_table(rows.set_column(rows.schema.names.index(column), field, values), run.table(table))
    done = CliRunner().invoke(app, ["report", "--store", str(tmp_path)])
    assert done.exit_code == 2
    assert f"run '{run.run_id}' cannot be shown (" in done.stderr
    assert "'clear-audit verify' says what of it is damaged" in done.stderr
