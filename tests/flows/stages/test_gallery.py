"""The gallery's pictures, from what a real run stored, against the model's own responses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from auditor import Clear
from auditor.colour_maps import binary_heatmap, clear_map, palette
from flows.cli.app import app
from flows.config import planned_config
from flows.runtime.progress import Progress
from flows.stages.gallery import draw_all
from flows.stages.map_renderer import open_renderer
from reports.parts.cards import KINDS, picture_path
from storage.datasets.formats import open_dataset
from storage.datasets.preprocessing import normalize, prepare
from storage.models.sources import load_model
from storage.runs.lookup import published_runs
from storage.runs.run import Run
from tests.reports.page import parse


@pytest.fixture
def run(finished: Path) -> Run:
    (found,) = published_runs(finished)
    return found


def read_peaks(run: Run) -> dict[int, float]:
    """Of the samples in the run's gallery."""
    content = json.loads((run.gallery / "gallery.json").read_text())
    return {sample["sample_index"]: sample["peak"] for sample in content["samples"]}


def read_picture(path: Path) -> np.ndarray:
    """On black."""
    picture = Image.open(path).convert("RGBA")
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, picture).convert("RGB")).astype(int)


def test_pictures_are_those_of_the_models_own_responses(run: Run) -> None:
    """Within two levels of 255 for float16 and translucency.

    But for pixels of the heatmap at which the label and another are as good as equal.
    """
    config = planned_config(run)
    dataset, model = open_dataset(config.dataset), load_model(config.model)
    content = json.loads((run.gallery / "gallery.json").read_text())
    assert content["other_color"] == "#ffa6ff"
    drawn = {sample["sample_index"]: sample["peak"] for sample in content["samples"]}
    assert len(drawn) > 5
    for index, peak in drawn.items():
        samples = dataset.read(index, index + 1)
        pixels, _ = prepare(samples.images, config.input)
        clear = Clear(model, config.method.rule)
        responses = torch.cat([part for _, part in clear.responses(torch.from_numpy(normalize(pixels, config.input)))], 1)
        best, winner = responses.max(1)
        label = int(samples.labels[0])
        rest = torch.cat([responses[:, :label], responses[:, label + 1 :]], 1).amax(1)
        expected = {
            "input": np.repeat(pixels[0, 0][..., None], 3, 2),
            "clear": clear_map(torch.where(best > 0, winner, -1), best.clamp(min=0), palette(10))[0].numpy(),
            "heatmap": binary_heatmap(responses[:, label], rest)[0].numpy(),
        }
        positive = best[best > 0].double().numpy()
        assert peak == pytest.approx(np.quantile(positive, 0.99, method="higher"), rel=1e-3)
        for kind, wanted in expected.items():
            difference = np.abs(read_picture(picture_path(run.gallery, index, kind)) - wanted.astype(int)).max(2)
            assert (difference > 2).mean() < (0.005 if kind == "heatmap" else 1e-9), kind


def test_all_samples_are_drawn_as_those_of_the_gallery(run: Run, tmp_path: Path) -> None:
    """Chosen over two chunks of the arrays, with gaps."""
    config = planned_config(run)
    renderer = open_renderer(run, config, open_dataset(config.dataset))
    gallery = {
        sample["sample_index"]: sample["peak"] for sample in json.loads((run.gallery / "gallery.json").read_text())["samples"]
    }
    labels = open_dataset(config.dataset).read(0, 300).labels
    peaks = draw_all(tmp_path, renderer, {index: int(labels[index]) for index in gallery}, Progress())
    assert peaks == gallery
    assert len(list(tmp_path.iterdir())) == 3 * len(gallery)
    for index in gallery:
        for kind in KINDS:
            assert np.array_equal(
                read_picture(picture_path(tmp_path, index, kind)), read_picture(picture_path(run.gallery, index, kind))
            )


def test_report_in_a_folder_shows_every_sample(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    arguments = ["report", run.run_id, "--store", str(run.store), "--folder", str(folder)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(folder / "index.html")
    pages = [parse(path.read_text(encoding="utf-8")) for path in sorted((folder / "gallery").glob("*.html"))]
    shown = [card.attributes["id"] for page in pages for card in page.all("article")]
    assert sorted(shown) == sorted(f"sample-{index}" for index in range(300))
    for page in pages:
        for image in page.all("img"):
            assert (folder / "gallery" / image.attributes["src"]).is_file()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "is not an empty folder" in again.stderr
