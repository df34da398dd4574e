"""The pages in a real browser: themes, print, keyboard, filters, accessibility. Skipped where there is no Chromium."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_core_python.selenium import Axe
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from auditor.colour_maps import over_image
from reports.comparison import compare
from reports.pages.comparison import write_comparison
from reports.pages.folder import write_folder
from reports.pages.index import write_index
from reports.pages.report import write_report
from tests.reports.pages.test_folder import draw
from tests.reports.stores import SCRIPT, SMALL, Content, make_store
from tests.reports.test_comparison import AFTER, BEFORE, CLASSES, EARLIER

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--no-first-run", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
PAGES = ("report", "comparison", "index", "gallery")
SERIOUS = ("serious", "critical")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="there is no Chromium with its driver: install 'chromium' and 'chromium-driver'"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    store = tmp_path_factory.mktemp("pages")
    run = make_store(store, SMALL)
    before = make_store(store, Content(CLASSES, BEFORE, run_id=EARLIER))
    after = make_store(store, Content(CLASSES, AFTER, run_id="20261120T040000Z-digits-0002"))
    folder = write_folder(run, store / "folder", draw, ["#ff0000", "#00ff00", "#0000ff"])
    return {
        "report": write_report(run),
        "comparison": write_comparison(compare(before, after), [], {}),
        "index": write_index(store),
        "gallery": folder.parent / "gallery" / "label-0-1.html",
    }


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """As a reader finds it: light, 900 pixels wide. Fails where a page had a word on its console, or asked for anything."""
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.set_window_size(900, 1200)
    show_theme(chromium, "light")
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    yield chromium
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def show_theme(browser: webdriver.Chrome, theme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def unfold(browser: webdriver.Chrome, anchor: str) -> None:
    """As a reader does it: by a click on a section's heading."""
    browser.find_element(By.CSS_SELECTOR, f"#{anchor} > details > summary").click()


def resize(browser: webdriver.Chrome, width: int) -> None:
    """Narrower than a window of the browser can be."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def visible_cards(browser: webdriver.Chrome) -> list[str]:
    cards = browser.find_elements(By.CSS_SELECTOR, "#gallery .card")
    return [card.get_attribute("id") or "" for card in cards if card.is_displayed()]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_has_no_serious_finding(pages: dict[str, Path], name: str, theme: str, browser: webdriver.Chrome) -> None:
    browser.get(pages[name].as_uri())
    show_theme(browser, theme)
    # What is folded away is looked at as well.
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = Axe().run(browser)
    assert found["passes"]
    serious = [
        (finding["id"], node["html"][:160], node["failureSummary"])
        for finding in found["violations"]
        if finding["impact"] in SERIOUS
        for node in finding["nodes"]
    ]
    assert serious == []


@pytest.mark.parametrize("name", PAGES)
def test_each_theme_has_its_own_ground(pages: dict[str, Path], name: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    grounds = {}
    for theme in ("light", "dark"):
        show_theme(browser, theme)
        browser.get(pages[name].as_uri())
        browser.save_screenshot(str(tmp_path / f"{theme}.png"))
        # Of most pixels, as text is thin.
        grounds[theme] = float(np.median(np.asarray(Image.open(tmp_path / f"{theme}.png").convert("L"))))
    assert grounds["light"] > 240
    assert grounds["dark"] < 40


@pytest.mark.parametrize("width", [400, 900])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_no_wider_than_the_window(pages: dict[str, Path], name: str, width: int, browser: webdriver.Chrome) -> None:
    """What is wide scrolls in its own frame, once unfolded as well."""
    resize(browser, width)
    browser.get(pages[name].as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth") == 0


@pytest.mark.parametrize("name", PAGES)
def test_page_is_printed(pages: dict[str, Path], name: str, browser: webdriver.Chrome) -> None:
    browser.get(pages[name].as_uri())
    printed: dict[str, Any] = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert printed["data"].startswith("JVBERi0"), "%PDF- in base64"


def test_filters_choose_cards(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    """Of nine cards; label, prediction and dominant class of each sample stand in `stores.SAMPLES`."""
    browser.get(pages["report"].as_uri())
    unfold(browser, "gallery")
    form = browser.find_element(By.ID, "filters")
    status = form.find_element(By.TAG_NAME, "output")
    assert status.text == "All 9 images are shown."
    Select(form.find_element(By.NAME, "label")).select_by_visible_text("cat")
    assert sorted(visible_cards(browser)) == ["sample-0", "sample-1", "sample-2"]
    Select(form.find_element(By.NAME, "dominant")).select_by_visible_text(SCRIPT)
    assert sorted(visible_cards(browser)) == ["sample-1", "sample-2"]
    Select(form.find_element(By.NAME, "prediction")).select_by_visible_text("cat")
    assert visible_cards(browser) == ["sample-1"]
    assert status.text == "1 of 9 images are shown."
    headings = [heading.text for heading in browser.find_elements(By.CSS_SELECTOR, ".group h3") if heading.is_displayed()]
    assert headings == ["Right, with evidence for another class"]
    form.find_element(By.TAG_NAME, "button").click()
    WebDriverWait(browser, 5).until(lambda _: status.text == "All 9 images are shown.")
    assert len(visible_cards(browser)) == 9
    Select(form.find_element(By.NAME, "dominant")).select_by_visible_text("(none)")
    assert sorted(visible_cards(browser)) == ["sample-7", "sample-9"]


def test_filter_by_gate(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    browser.get(pages["report"].as_uri())
    unfold(browser, "gallery")
    Select(browser.find_element(By.NAME, "gate")).select_by_visible_text("accuracy")
    assert sorted(visible_cards(browser)) == ["sample-2", "sample-5"], "predicted wrongly"


def test_from_a_cell_of_the_chart_to_a_sample_by_keyboard_alone(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    browser.get(pages["report"].as_uri())
    unfold(browser, "confusion")
    link = browser.find_element(By.CSS_SELECTOR, f"svg a[aria-label='Label cat, dominant class {SCRIPT}: 2 images']")
    browser.execute_script("arguments[0].focus()", link)
    assert browser.switch_to.active_element == link
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    cell = browser.find_element(By.ID, "cell-0-1")
    assert cell.is_displayed()
    for _ in range(9):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.get_attribute("hash") == "#sample-1":
            break
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    card = browser.find_element(By.ID, "sample-1")
    top = browser.execute_script("return arguments[0].getBoundingClientRect().top", card)
    assert 0 <= top < 1200


def test_from_a_cell_to_its_images_in_the_gallery(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    browser.get(pages["report"].as_uri() + "#cell-1-2")
    link = browser.find_element(By.CSS_SELECTOR, "#cell-1-2 a.to-gallery")
    assert link.is_displayed(), "its cell is opened where the address names it"
    link.send_keys(Keys.ENTER)
    assert visible_cards(browser) == ["sample-5"]
    assert browser.switch_to.active_element.get_attribute("name") == "label"


def test_a_sample_that_is_filtered_away_is_shown_where_a_link_leads_to_it(
    pages: dict[str, Path], browser: webdriver.Chrome
) -> None:
    browser.get(pages["report"].as_uri())
    unfold(browser, "gallery")
    Select(browser.find_element(By.NAME, "label")).select_by_visible_text("cat")
    browser.execute_script("location.hash = '#sample-9'")
    browser.implicitly_wait(2)
    assert browser.find_element(By.ID, "sample-9").is_displayed()


def test_the_first_stop_of_the_keyboard_leads_past_the_head(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    for page in pages.values():
        browser.get(page.as_uri())
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        first = browser.switch_to.active_element
        assert first.text == "Skip to the content"
        assert first.is_displayed()


def test_a_folders_pages_show_their_pictures(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    browser.get(pages["gallery"].as_uri())
    script = """
        const done = arguments[0];
        const drawn = [...document.querySelectorAll("svg image")];
        Promise.all(drawn.map((image) => image.decode())).then(() => done(drawn.map((image) => image.href.baseVal)));
    """
    addresses = browser.execute_async_script(script)
    assert len(addresses) == len(set(addresses)) == 9
    folder = pages["gallery"].parent
    assert {Image.open(folder / address).size for address in addresses} == {(4, 4)}


def test_folded_the_report_is_short(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    """The first screen, and a line or two for each section."""
    resize(browser, 1100)
    browser.get(pages["report"].as_uri())
    height = "return document.documentElement.scrollHeight"
    folded = browser.execute_script(height)
    assert folded < 4000
    browser.execute_script("document.querySelectorAll('details.fold').forEach((part) => { part.open = true; })")
    assert browser.execute_script(height) > 3 * folded


@pytest.mark.parametrize("anchor", ["gates", "gallery", "method", "cell-0-1", "sample-8"])
def test_an_address_opens_what_is_folded(pages: dict[str, Path], anchor: str, browser: webdriver.Chrome) -> None:
    def shown() -> bool:
        script = """
            const target = document.getElementById(arguments[0]);
            const inner = target.querySelector("p, td, dd, li");
            return inner.checkVisibility({contentVisibilityAuto: true}) && target.getBoundingClientRect().top < innerHeight;
        """
        return bool(browser.execute_script(script, anchor))

    browser.get(pages["report"].as_uri())
    assert not shown()
    browser.execute_script("location.hash = arguments[0]", anchor)
    WebDriverWait(browser, 5).until(lambda _: shown())
    browser.get("about:blank")
    browser.get(f"{pages['report'].as_uri()}#{anchor}")
    assert shown()


def test_a_link_opens_its_section_each_time(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    """Also where the address names it already, and the reader has folded it since."""
    browser.get(pages["report"].as_uri())
    link = browser.find_element(By.CSS_SELECTOR, "nav a[href='#gates']")
    fold = browser.find_element(By.CSS_SELECTOR, "#gates > details")
    for _ in range(2):
        link.send_keys(Keys.ENTER)
        WebDriverWait(browser, 5).until(lambda _: fold.get_attribute("open"))
        unfold(browser, "gates")
        assert not fold.get_attribute("open")


def test_print_has_everything_unfolded(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    browser.get(pages["report"].as_uri())
    height = "return document.querySelector('#gates table').getBoundingClientRect().height"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script(height) > 50, "by the style, where no script runs"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    folds = browser.find_elements(By.CSS_SELECTOR, "details.fold")
    assert all(fold.get_attribute("open") for fold in folds)
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert not any(fold.get_attribute("open") for fold in folds)


def test_the_slider_shows_the_image_under_its_map(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    """By the keyboard: at its least, the greyed image alone is left; all sliders of the page move together."""
    browser.get(pages["report"].as_uri())
    picture = browser.find_element(By.CSS_SELECTOR, "#suspects figure svg")

    def centre() -> tuple[int, ...]:
        shown = Image.open(io.BytesIO(picture.screenshot_as_png)).convert("RGB")
        found = shown.getpixel((shown.width // 2, shown.height // 2))
        assert isinstance(found, tuple)
        return tuple(map(int, found))

    before = centre()
    slider = browser.find_element(By.CSS_SELECTOR, "#suspects .opacity input")
    slider.send_keys(Keys.HOME)
    grey = round(0.13 * 20 + 0.43 * 80 + 0.04 * 120)
    assert centre() == pytest.approx((grey,) * 3, abs=1)
    assert browser.find_element(By.CSS_SELECTOR, "#gallery .opacity input").get_attribute("value") == "0"
    slider.send_keys(Keys.END)
    assert centre() == before


def test_a_picture_is_enlarged_by_keyboard_and_by_mouse(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    browser.get(pages["report"].as_uri())
    figure = browser.find_element(By.CSS_SELECTOR, "#suspects figure")
    button = figure.find_element(By.CSS_SELECTOR, "button.enlarge")
    assert button.accessible_name.startswith("Enlarge: CLEAR map of sample 1, label and prediction cat")
    small = figure.find_element(By.TAG_NAME, "svg").size["width"]
    button.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    assert dialog.is_displayed()
    drawn = dialog.find_element(By.TAG_NAME, "svg")
    assert drawn.size["width"] > 3 * small
    assert not dialog.find_elements(By.CSS_SELECTOR, "[id]"), "no name occurs twice in the page"
    assert dialog.find_element(By.CSS_SELECTOR, ".opacity input").is_displayed()
    serious = [finding["id"] for finding in Axe().run(browser)["violations"] if finding["impact"] in SERIOUS]
    assert serious == []
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.switch_to.active_element == button
    button.click()
    assert dialog.is_displayed()
    dialog.find_element(By.TAG_NAME, "button").click()
    assert not dialog.is_displayed()


def test_maps_lie_on_the_greyed_image(pages: dict[str, Path], browser: webdriver.Chrome) -> None:
    """What the browser makes of the layers, against the engine's own formula."""
    browser.get(pages["report"].as_uri() + "#sample-6")
    card = browser.find_element(By.ID, "sample-6")
    shown = [Image.open(io.BytesIO(svg.screenshot_as_png)) for svg in card.find_elements(By.CSS_SELECTOR, "svg")]
    centres = [picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2)) for picture in shown]
    layers = torch.tensor([0, 250, 120, 128], dtype=torch.uint8).view(1, 1, 1, 4)
    image = torch.tensor([120, 80, 120], dtype=torch.uint8).view(1, 1, 1, 3)
    on_image, alone = (over_image(layers, below).flatten().tolist() for below in (image, torch.zeros_like(image)))
    assert on_image != alone
    for centre, expected in zip(centres, [[120, 80, 120], on_image, on_image, alone, alone], strict=True):
        assert centre == pytest.approx(expected, abs=2)


def test_script_of_others_does_not_run(pages: dict[str, Path], browser: webdriver.Chrome, tmp_path: Path) -> None:
    """What would have got past escaping."""
    page = tmp_path / "page.html"
    text = pages["report"].read_text(encoding="utf-8")
    harm = "<script>document.title = 'harmed'</script><img src=x onerror=\"document.title = 'harmed'\">"
    page.write_text(text.replace("</main>", f"{harm}</main>"), encoding="utf-8")
    browser.get(page.as_uri())
    assert browser.title.startswith("digits")
    assert all("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_without_javascript_everything_can_be_read(pages: dict[str, Path], chromium: webdriver.Chrome) -> None:
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.get(pages["report"].as_uri() + "#cell-0-1")
        unfold(chromium, "gallery")
        assert len(visible_cards(chromium)) == 9
        assert not chromium.find_element(By.CSS_SELECTOR, ".opacity").is_displayed()
        assert not chromium.find_element(By.ID, "filters").is_displayed()
        assert chromium.find_element(By.ID, "cell-0-1").is_displayed(), "the browser opens what an address names"
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
