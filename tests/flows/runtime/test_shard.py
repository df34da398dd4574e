"""A shard of hostile samples: each that cannot be measured is one row of `failures`, and the others are measured."""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from PIL import Image
from torch import nn

import flows.analyses.runner
from auditor import Clear
from flows.analyses.runner import run_unit
from flows.runtime.worker import AuditWorker, Work
from storage.datasets.folder import FolderSpec
from storage.datasets.idx import IdxSpec
from storage.models.sources import load_model
from storage.runs.commits import read_commits
from storage.runs.plan import Unit
from storage.runs.run import MAPS
from tests.flows.conftest import Digits, write_idx
from tests.flows.units import JOBS, begin_run


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(path: Path, _: bytes) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def not_a_number(path: Path, _: bytes) -> None:
    Image.fromarray(np.full((28, 28), np.nan, np.float32)).save(path, "TIFF")


HOSTILE: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "bomb": (bomb, "decompression bomb"),
    "cut": (lambda path, whole: path.write_bytes(whole[:-40]), "damaged or truncated"),
    "empty": (lambda path, _: path.touch(), "empty"),
    "link": (lambda path, _: path.symlink_to("/dev/zero"), "leads out of the dataset's folder"),
    "nan": (not_a_number, "floating-point pixels"),
    "other": (lambda path, _: path.write_bytes(b"\x80\x04cos\nsystem\n"), "not an image"),
    "pipe": (lambda path, _: os.mkfifo(path), "not a file"),
    "shape": (lambda path, _: Image.new("L", (28, 29)).save(path), "29×28 pixels where the model takes 28×28"),
}


def test_each_hostile_sample_is_one_row_of_failures(
    digits_work: Work, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images" / "0"
    images.mkdir(parents=True)
    Image.fromarray(digits.pixels[0]).save(images / "a-good.png")
    whole = (images / "a-good.png").read_bytes()
    (images / "z-good.png").write_bytes(whole)
    for name, (make, _) in HOSTILE.items():
        make(images / f"{name}.png", whole)
    spec = FolderSpec("folder", str(tmp_path / "images"), classes=tuple("0123456789"))
    worker = AuditWorker(replace(digits_work, dataset=spec, input=replace(digits_work.input, resize="none")))
    monkeypatch.setattr(flows.analyses.runner, "this_worker", lambda key: worker)
    run, plan = begin_run(tmp_path / "store", 10, 16)

    counts = run_unit("digits", run, plan, None, JOBS, Unit(0, 0, 10))

    assert counts == {"processed": 2, "failed": len(HOSTILE)}
    attempt = run.attempts / read_commits(run, MAPS)[0].attempt
    failures = pq.read_table(attempt / "failures.parquet").to_pylist()
    assert [row["sample_id"] for row in failures] == [f"0/{name}.png" for name in sorted(HOSTILE)]
    for row, name in zip(failures, sorted(HOSTILE), strict=True):
        assert HOSTILE[name][1] in row["reason"]
        assert row["stage"] == ("prepare" if name == "shape" else "read")
    measured = pq.read_table(attempt / "samples.parquet").to_pylist()
    assert [row["sample_index"] for row in measured] == [0, 9]
    assert measured[0]["prediction"] == digits.labels[0]


PICKY = """
from torch import nn
from flows.demo import allcnn

class Picky(nn.Sequential):
    def forward(self, images):
        if (images.mean((1, 2, 3)) > {limit}).any():
            raise ValueError("too bright")
        return super().forward(images)

def build():
    return Picky(*allcnn.build())
"""


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_samples_that_the_model_raises_on_are_failures_and_the_others_are_measured(
    digits_work: Work, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """In batches of five, of which some have none, some a few; and where all are."""
    brightness = digits.pixels[:16].mean((1, 2)) / 255
    limit = float(np.quantile(brightness, share)) - (0 if share else 1)
    (tmp_path / "picky_of_tests.py").write_text(PICKY.format(limit=limit))
    model = replace(digits_work.model, factory="picky_of_tests:build")
    run, plan = begin_run(tmp_path / "store", 16, 16)
    taken = [index for index in range(16) if brightness[index] <= limit]

    def rows(work: Work, shard: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        worker = AuditWorker(work)
        monkeypatch.setattr(flows.analyses.runner, "this_worker", lambda key: worker)
        counts = run_unit("digits", run, plan, None, JOBS, Unit(shard, 0, 16))
        attempt = run.attempts / read_commits(run, MAPS)[shard].attempt
        measured, failed = (pq.read_table(attempt / f"{name}.parquet").to_pylist() for name in ("samples", "failures"))
        assert counts == {"processed": len(measured), "failed": len(failed)}
        return measured, failed

    measured, failed = rows(replace(digits_work, model=model, folder=str(tmp_path), batch_samples=5), 0)
    whole, _ = rows(digits_work, 1)
    assert [row["sample_index"] for row in measured] == taken
    assert [row["sample_index"] for row in failed] == [index for index in range(16) if index not in taken]
    assert {(row["stage"], row["reason"]) for row in failed} == {
        ("compute", "the model raised ValueError: too bright (picky_of_tests.py, line 8)")
    }
    for row in measured:
        expected = whole[row["sample_index"]]  # type: ignore[call-overload]
        assert (row["sample_id"], row["prediction"]) == (expected["sample_id"], expected["prediction"])


class LogOfMean(nn.Sequential):
    """Adds 0 · log(mean) to each image: NaN to a black one, nothing to any other."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images + 0 * images.mean((1, 2, 3), keepdim=True).log())


@pytest.mark.parametrize("black", [[1, 4], [0, 1, 2, 3, 4, 5]])
def test_an_image_whose_scores_are_not_finite_is_a_failure(
    digits_work: Work, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, black: list[int]
) -> None:
    pixels = digits.pixels[:6].copy()
    pixels[black] = 0
    write_idx(tmp_path, Digits(pixels, digits.labels[:6]))
    dataset = IdxSpec("idx", str(tmp_path / "images.idx"), str(tmp_path / "labels.idx"), classes=tuple("0123456789"))
    model = load_model(digits_work.model)
    assert isinstance(model, nn.Sequential)
    attempts = {}
    for name, made in {"spoiled": LogOfMean(*model), "sound": model}.items():
        worker = AuditWorker(replace(digits_work, dataset=dataset, batch_samples=4))
        worker.clear = Clear(made)
        monkeypatch.setattr(flows.analyses.runner, "this_worker", lambda key, worker=worker: worker)
        run, plan = begin_run(tmp_path / name, 6, 16)
        counts = run_unit("digits", run, plan, None, JOBS, Unit(0, 0, 6))
        attempts[name] = run.attempts / read_commits(run, MAPS)[0].attempt
    assert counts == {"processed": 6, "failed": 0}

    spoiled, sound = attempts["spoiled"], attempts["sound"]
    failures = pq.read_table(spoiled / "failures.parquet").to_pylist()
    assert [row["sample_index"] for row in failures] == black
    assert {(row["stage"], row["reason"]) for row in failures} == {("compute", "the model's scores are not finite")}
    for table in ("samples", "responses"):
        others = pq.read_table(sound / f"{table}.parquet").filter(~pc.field("sample_index").isin(black))
        for row, expected in zip(pq.read_table(spoiled / f"{table}.parquet").to_pylist(), others.to_pylist(), strict=True):
            assert row == pytest.approx(expected)
    found, wanted = (np.asarray(zarr.open_group(attempts[name] / "maps.zarr", mode="r")["dominant_class"]) for name in attempts)
    assert (found[black] == -1).all()
    assert (np.delete(found, black, 0) == np.delete(wanted, black, 0)).all()
