"""The pages in a real browser: no word on its console, both themes, print. Skipped where there is no Chromium."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports.comparison import compare
from reports.comparison_page import write_comparison
from reports.index import write_index
from reports.report import write_report
from storage.runs import Run
from tests.reports.stores import SMALL, Content, make_store
from tests.reports.test_comparison import AFTER, BEFORE, CLASSES, EARLIER

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--no-first-run", "--hide-scrollbars", "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
PAGES = ("report", "comparison", "index")
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install the package 'chromium'")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    store = tmp_path_factory.mktemp("pages")
    run: Run = make_store(store, SMALL)
    before = make_store(store, Content(CLASSES, BEFORE, run_id=EARLIER))
    after = make_store(store, Content(CLASSES, AFTER, run_id="20261120T040000Z-digits-0002"))
    return {
        "report": write_report(run),
        "comparison": write_comparison(compare(before, after), [], {}),
        "index": write_index(store),
    }


def browse(page: Path, folder: Path, arguments: Sequence[str]) -> str:
    """Opens a page; returns what the browser printed, and fails where the page had a word on its console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said
    return done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_page_is_read_whole_and_says_nothing_on_the_console(pages: dict[str, Path], name: str, tmp_path: Path) -> None:
    document = browse(pages[name], tmp_path, ["--dump-dom"])
    assert document.rstrip().endswith("</html>")
    assert "<main>" in document


@pytest.mark.parametrize("name", PAGES)
def test_each_theme_has_its_own_ground(pages: dict[str, Path], name: str, tmp_path: Path) -> None:
    grounds = {}
    for theme, arguments in (("light", []), ("dark", [DARK])):
        picture = tmp_path / f"{theme}.png"
        browse(pages[name], tmp_path, [*arguments, f"--screenshot={picture}", "--window-size=900,1200"])
        # Of most pixels, as text is thin.
        grounds[theme] = float(np.median(np.asarray(Image.open(picture).convert("L"))))
    assert grounds["light"] > 240
    assert grounds["dark"] < 40


@pytest.mark.parametrize("width", [500, 900])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_no_wider_than_the_window(pages: dict[str, Path], name: str, width: int, tmp_path: Path) -> None:
    """What is wide scrolls in its own frame: a probe beside the page sees the width that the page asks for."""
    probe = tmp_path / "probe.html"
    text = pages[name].read_text(encoding="utf-8")
    script = "<script>document.title = document.documentElement.scrollWidth - document.documentElement.clientWidth</script>"
    probe.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    document = browse(probe, tmp_path, ["--dump-dom", f"--window-size={width},900"])
    assert "<title>0</title>" in document


@pytest.mark.parametrize("name", PAGES)
def test_page_is_printed(pages: dict[str, Path], name: str, tmp_path: Path) -> None:
    path = tmp_path / "page.pdf"
    browse(pages[name], tmp_path, [f"--print-to-pdf={path}"])
    assert path.read_bytes().startswith(b"%PDF")
