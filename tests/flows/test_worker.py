"""A worker and its model: a module and a program, and what is said where one does not take the dataset's images."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from distributed import Client
from torch import nn

from auditor import UnsupportedModel
from flows.worker import AuditWorker, Work, warm_up
from storage.errors import InputError
from storage.models import ModelSpec, load_model

BATCH = ({0: torch.export.Dim("batch")},)


def save_program(path: Path, work: Work, shapes: Any = BATCH, strict: bool = False) -> ModelSpec:
    """The work's module as a program."""
    model = load_model(work.model)
    assert isinstance(model, nn.Module)
    program = torch.export.export(model, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=shapes, strict=strict)
    torch.export.save(program, path)
    return ModelSpec(program=str(path))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rule", ["linear", "guided"])
def test_a_programs_maps_are_those_of_its_module(digits_work: Work, tmp_path: Path, strict: bool, rule: str) -> None:
    spec = save_program(tmp_path / "m.pt2", digits_work, strict=strict)
    work = replace(digits_work, rule=rule, batch_samples=16)
    module, program = (AuditWorker(replace(work, model=model)) for model in (digits_work.model, spec))
    first, second = (worker.on_first_images(worker.clear) for worker in (module, program))
    torch.testing.assert_close(second.logits, first.logits)
    assert (first.dominant_class != second.dominant_class).float().mean() < 1e-4
    assert (first.dominant_response - second.dominant_response).abs().max() < 1e-5 * first.dominant_response.max()


def test_the_head_and_the_reduction_reach_the_engine(digits_work: Work) -> None:
    named = AuditWorker(replace(digits_work, head="15", reduction="l2"))
    assert named.clear.method.reduction == "l2"
    assert named.on_first_images(named.clear).logits.shape == (64, 10)
    with pytest.raises((UnsupportedModel, ValueError), match="nonesuch"):
        AuditWorker(replace(digits_work, head="nonesuch")).clear(torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize(("side", "expected"), [(28, 64), (112, 64), (224, 16), (512, 3), (2048, 1)])
def test_large_images_are_measured_few_at_once(digits_work: Work, side: int, expected: int) -> None:
    """Unless the config says, or nothing is kept of a forward pass; the first images are as many as ever."""
    unsaid = replace(digits_work, batch_samples=None, input=replace(digits_work.input, channels=3, height=side, width=side))
    worker = AuditWorker(unsaid)
    assert worker.measured_size.samples == expected
    worker.clear.operator = SimpleNamespace(shortcut=None)  # type: ignore[assignment]
    assert worker.measured_size.samples == expected
    worker.clear.operator = SimpleNamespace(shortcut="to the class responses")  # type: ignore[assignment]
    assert worker.measured_size.samples == 64
    assert AuditWorker(replace(unsaid, batch_samples=48)).measured_size.samples == 48
    assert len(AuditWorker(replace(digits_work, batch_samples=None)).first_pixels) == 64


def test_a_program_of_another_batch_says_how_to_export_it(digits_work: Work, tmp_path: Path) -> None:
    spec = save_program(tmp_path / "m.pt2", digits_work, shapes=None)
    with pytest.raises(InputError) as caught:
        _ = AuditWorker(replace(digits_work, model=spec)).clear
    assert str(caught.value) == (
        f"model.program '{tmp_path / 'm.pt2'}' takes batches of exactly 2 images, and the audit gives it 1 to 64 "
        "(compute.batch_samples): export it with a dynamic batch dimension, dynamic_shapes=({0: torch.export.Dim('batch')},)"
    )


def test_a_program_of_other_images_names_the_keys(digits_work: Work, tmp_path: Path) -> None:
    spec = save_program(tmp_path / "m.pt2", digits_work)
    with pytest.raises(
        InputError, match=r"takes images of 1 × 28 × 28, and the config says 3 × 28 × 30: correct input\.channels"
    ):
        _ = AuditWorker(replace(digits_work, model=spec, input=replace(digits_work.input, channels=3, width=30))).clear


def test_a_module_that_cannot_take_the_images_is_named(client: Client, digits_work: Work) -> None:
    work = replace(digits_work, key="other-channels", input=replace(digits_work.input, channels=3))
    client.register_plugin(AuditWorker(work))
    with pytest.raises(InputError, match=r"model\.factory 'flows\.demo\.allcnn:build' cannot take an image of 3 × 28 × 28"):
        client.submit(warm_up, work.key, pure=False).result()
    client.unregister_worker_plugin(work.key)


BINARY = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 6), nn.ReLU(), nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 1, 1), nn.Flatten())
"""


def test_warm_up_says_how_the_model_is_read(client: Client, digits_work: Work, tmp_path: Path) -> None:
    (tmp_path / "one_score.py").write_text(BINARY)
    for work, notes in (
        (digits_work, []),
        (
            replace(digits_work, key="one-score", model=ModelSpec("one_score:build", search_path=str(tmp_path))),
            ["one score is read"],
        ),
    ):
        client.register_plugin(AuditWorker(work))
        facts = client.submit(warm_up, work.key, pure=False).result()
        client.unregister_worker_plugin(work.key)
        assert facts["class_count"] == (2 if notes else 10)
        assert [note.split(" as ")[0] for note in facts["notes"]] == notes
