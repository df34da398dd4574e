"""The pictures of a comparison, from what a real run stored."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from auditor.colour_maps import PERCENTILE
from flows.cli.app import app
from flows.stages.comparison import draw_flips
from reports.comparison import Comparison, Flip, compare
from storage.runs.lookup import published_runs
from storage.runs.run import Run


@pytest.fixture
def comparison(finished: Path) -> Comparison:
    (run,) = published_runs(finished)
    return compare(run, run)


def flip(index: int) -> Flip:
    return Flip("other_evidence", index, index, str(index), "3", ("3", "3"), ("3", None))


def pixels(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def test_maps_are_those_of_the_runs_gallery(comparison: Comparison) -> None:
    """Which test_gallery compares with the model's own."""
    run: Run = comparison.after
    drawn = json.loads((run.gallery / "gallery.json").read_text())["samples"]
    indices = [sample["sample_index"] for sample in drawn]
    drawings = draw_flips(comparison, [flip(index) for index in indices])
    assert sorted(drawings) == sorted(set(indices))
    peaks = {sample["sample_index"]: sample["peak"] for sample in drawn}
    for index, drawing in drawings.items():
        names = [f"CLEAR map {when}{how}" for how in (", on the image", ", alone") for when in ("before", "after")]
        assert [picture.name for picture in drawing.pictures] == ["input", *names]
        expected = np.asarray(Image.open(run.gallery / f"{index:06d}-clear.png")).astype(int)
        for picture in drawing.pictures[1:3]:
            assert np.abs(pixels(picture.layers[-1].uri) - expected).max() <= 1
        shown = np.asarray(Image.open(run.gallery / f"{index:06d}-input.png")).astype(int)
        assert np.array_equal(pixels(drawing.pictures[0].layers[0].uri), shown)
        assert drawing.peaks == (peaks[index], peaks[index])
        assert [swatch.name for swatch in drawing.swatches] == ["3"]


def test_without_the_dataset_the_maps_are_left(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    from storage.errors import InputError

    def gone(spec: object) -> None:
        raise InputError("gone")

    monkeypatch.setattr("flows.stages.comparison.open_dataset", gone)
    drawings = draw_flips(comparison, [flip(7)])
    assert [picture.name for picture in drawings[7].pictures] == ["CLEAR map before", "CLEAR map after"]


def test_compare_writes_a_page_and_its_figures(finished: Path) -> None:
    (run,) = published_runs(finished)
    result = CliRunner().invoke(app, ["compare", "latest", "latest", "--store", str(finished)])
    assert result.exit_code == 0
    page, figures = (Path(line) for line in result.stdout.splitlines())
    assert "0 went from right to wrong" in result.stderr
    text = page.read_text(encoding="utf-8")
    assert "0 went from right to wrong" in text
    assert f"at most {100 - PERCENTILE} % of its positive responses exceed" in " ".join(text.split())
    assert json.loads(figures.read_text(encoding="utf-8"))["before"] == run.run_id


def test_compare_with_no_run_before(finished: Path) -> None:
    result = CliRunner().invoke(app, ["compare", "--store", str(finished)])
    assert result.exit_code == 2
    assert "there is no run before" in result.stderr
