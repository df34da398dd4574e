"""The report's size, the time to write it, and the time until it can be used: python -m tests.bench.bench_report

On made-up runs as large as the report is meant for, with pictures of 224 × 224 pixels that hardly compress.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from selenium import webdriver

from reports.gates.gate import Gate
from reports.gates.judging import judge
from reports.pages.report import write_report
from reports.parts.cards import KINDS, picture_path
from reports.parts.charts import start_engine
from reports.parts.gallery import Gallery, GallerySample, choose_samples
from storage.runs.run import Run
from storage.sql.read_only import connect
from tests.reports.stores import Content, Row, make_store, response, sample
from tests.reports.test_browser import CHROMIUM, DRIVER, FLAGS

GALLERY_SAMPLES = 8
LOADS = 5
CASES = ((10_000, 10, 3e6), (50_000, 1_000, 6e6))
"""Images, classes, and bytes that the report may have."""
GATES = [Gate("accuracy", min=0.999), Gate("agreement", min=0.999), Gate("class_accuracy", min=0.999), Gate("failed", max=0.1)]


def make_run(folder: Path, images: int, classes: int) -> Run:
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    responses: list[Row] = []
    for index in range(images):
        label = int(generator.integers(classes))
        prediction = label if generator.random() < 0.8 else int(generator.integers(classes))
        dominant = prediction if generator.random() < 0.6 else int(generator.integers(classes))
        first, second, third = sorted(generator.dirichlet([2, 1, 1]), reverse=True)
        rows.append(sample(index, label, prediction, float(generator.random()), dominant, (first, second, third)))
        responses += [response(index, dominant, first), response(index, (dominant + 1) % classes, second)]
    names = [f"class {number}, with a name of usual length" for number in range(classes)]
    run = make_store(folder, Content(names, rows, responses, gates=GATES))
    draw(run, classes)
    return run


def draw(run: Run, classes: int) -> None:
    """Pictures of smooth noise with grain, of the samples that an audit would choose."""
    generator = np.random.default_rng(1)
    run.gallery.mkdir()
    with connect(run.store, [run.run_id]) as connection:
        choices = choose_samples(connection, run.run_id, GALLERY_SAMPLES, 0, classes, judge(GATES, run, None))
    for index in {choice.sample_index for choice in choices}:
        for kind in KINDS:
            coarse = Image.fromarray(generator.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((224, 224))
            grain = generator.normal(0, 12, (224, 224, 3))
            Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
                picture_path(run.gallery, index, kind)
            )
    samples = [
        GallerySample(sample_index=choice.sample_index, reason=choice.reason, peak=1.0, gates=choice.gates) for choice in choices
    ]
    colors = [f"#{number * 16007 % 0xFFFFFF:06x}" for number in range(classes)]
    (run.gallery / "gallery.json").write_text(Gallery(colors=colors, samples=samples).model_dump_json())


def load_secs(page: Path, folder: Path) -> float:
    """Median seconds from the address to a page that is drawn and answers."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    drawn = """
        const done = arguments[0];
        requestAnimationFrame(() => setTimeout(() => done(performance.now())));
    """
    times = []
    for _ in range(LOADS):
        driver.get("about:blank")
        driver.get(page.as_uri())
        times.append(driver.execute_async_script(drawn) / 1000)
    driver.quit()
    return statistics.median(times)


def main() -> None:
    table = Table(title="The report, with pictures of 224 × 224 pixels")
    for title in ("images", "classes", "cards", "MB", "allowed", "s to write", "allowed", "s until used", "allowed"):
        table.add_column(title, justify="right")
    start_engine()
    for images, classes, room in CASES:
        with tempfile.TemporaryDirectory() as folder:
            run = make_run(Path(folder) / "store", images, classes)
            started = time.perf_counter()
            page = write_report(run)
            written = time.perf_counter() - started
            size = page.stat().st_size
            cards = page.read_text(encoding="utf-8").count('<article class="card" id=')
            used = load_secs(page, Path(folder) / "profile")
        figures = (f"{size / 1e6:.2f}", f"{room / 1e6:.0f}", f"{written:.1f}", "10", f"{used:.2f}", "1.5")
        table.add_row(f"{images:,}", f"{classes:,}", str(cards), *figures)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
