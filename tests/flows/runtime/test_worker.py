"""A worker and its model: a module and a program, and what is said where one does not take the dataset's images."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client
from torch import nn

from auditor import UnsupportedModel
from flows.runtime.worker import AuditWorker, Work, warm_up
from flows.sections import MethodSection
from storage.errors import InputError
from storage.models.factories import FactorySpec
from storage.models.programs import ProgramSpec
from storage.models.sources import load_model

BATCH = ({0: torch.export.Dim("batch")},)


def save_program(path: Path, work: Work, shapes: Any = BATCH, strict: bool = False) -> ProgramSpec:
    """The work's module as a program."""
    model = load_model(work.model)
    assert isinstance(model, nn.Module)
    program = torch.export.export(model, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=shapes, strict=strict)
    torch.export.save(program, path)
    return ProgramSpec(str(path))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rule", ["linear", "guided"])
def test_a_programs_maps_are_those_of_its_module(digits_work: Work, tmp_path: Path, strict: bool, rule: str) -> None:
    spec = save_program(tmp_path / "m.pt2", digits_work, strict=strict)
    work = replace(digits_work, method=MethodSection(rule=rule), batch_samples=16)
    module, program = (AuditWorker(replace(work, model=model)) for model in (digits_work.model, spec))
    first, second = (worker.on_first_images(worker.clear) for worker in (module, program))
    torch.testing.assert_close(second.logits, first.logits)
    assert (first.dominant_class != second.dominant_class).float().mean() < 1e-4
    assert (first.dominant_response - second.dominant_response).abs().max() < 1e-5 * first.dominant_response.max()


def test_the_head_and_the_reduction_reach_the_engine(digits_work: Work) -> None:
    named = AuditWorker(replace(digits_work, method=MethodSection(rule="linear", head="15", reduction="l2")))
    assert named.clear.method.reduction == "l2"
    assert named.on_first_images(named.clear).logits.shape == (64, 10)
    with pytest.raises((UnsupportedModel, ValueError), match="nonesuch"):
        AuditWorker(replace(digits_work, method=MethodSection(rule="linear", head="nonesuch"))).clear(torch.zeros(1, 1, 28, 28))


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


NETWORKS = """
import sys
import torch
from torch import nn
from flows.demo import allcnn

class Network(nn.Sequential):
    def __init__(self):
        super().__init__(*allcnn.build())

class FixedSixteen(Network):
    def forward(self, x):
        return super().forward(x.view(16, 1, 28, 28))

class FixedOne(Network):
    def forward(self, x):
        return super().forward(x).reshape(1, 10)

class Sums(Network):
    def forward(self, x):
        return super().forward(x).sum(0, keepdim=True)

class Side32(Network):
    def forward(self, x):
        assert x.shape[-1] == 32, "only photographs of 32"
        return super().forward(x)

class NeverBlank(Network):
    def forward(self, x):
        if not x.any():
            raise ValueError("an empty image")
        return super().forward(x)

class Leaves(Network):
    def forward(self, x):
        sys.exit(4)

class Cuda(Network):
    def forward(self, x):
        return super().forward(x.to("cuda"))

class NoBright(Network):
    def forward(self, x):
        if (x.mean((1, 2, 3)) > BRIGHT).any():
            raise ValueError("too bright")
        return super().forward(x)

class Nothing(Network):
    def forward(self, x):
        if x.any():
            raise ValueError("not blank")
        return super().forward(x)
"""


def work_with(digits_work: Work, folder: Path, network: str, bright: float = 1.0) -> Work:
    """With a network of `NETWORKS`. bright: the mean above which `NoBright` refuses an image."""
    (folder / "nets_of_tests.py").write_text(f"BRIGHT = {bright}\n{NETWORKS}")
    return replace(digits_work, key=network, model=FactorySpec(f"nets_of_tests:{network}"), folder=str(folder))


def warmed(monkeypatch: pytest.MonkeyPatch, work: Work) -> dict[str, Any]:
    worker = AuditWorker(work)
    monkeypatch.setattr("flows.runtime.worker.this_worker", lambda key: worker)
    return warm_up(work.key)


def line(text: str) -> int:
    return 2 + next(number for number, source in enumerate(NETWORKS.splitlines()) if text in source)


@pytest.mark.parametrize(
    ("network", "message", "where"),
    [
        (
            "FixedSixteen",
            "raised RuntimeError: shape '[16, 1, 28, 28]' is invalid for input of size 784 ({}), given one image of 1 × 28 × 28: "
            "it takes 16 of them, so that a batch size is written into it; keep the first axis as it comes, as in 'x.flatten(1)'",
            "view(16",
        ),
        (
            "FixedOne",
            "raised RuntimeError: shape '[1, 10]' is invalid for input of size 20 ({}), given two images, and takes one: a batch "
            "size is written into it; keep the first axis as it comes, as in 'x.flatten(1)', or set compute.batch_samples = 1",
            "reshape(1",
        ),
        ("Sums", "returns 1 row of scores, given two images, and takes one: a batch size is written into it;", ""),
        (
            "Side32",
            "raised AssertionError: only photographs of 32 ({}), given one image of 1 × 28 × 28: it takes one of 1 × 32 × 32; "
            "correct input.channels, input.height and input.width",
            "== 32",
        ),
        (
            "Leaves",
            "raised SystemExit: 4 ({}), given one image of 1 × 28 × 28: correct the network, or input.channels, input.height and",
            "sys.exit",
        ),
        ("Cuda", "({}), given one image of 1 × 28 × 28: correct the network, or", 'x.to("cuda")'),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU 'Cuda' is no fault")
def test_what_a_network_raises_is_blamed_on_what_it_is(
    digits_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, message: str, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        warmed(monkeypatch, work_with(digits_work, tmp_path, network))
    assert str(caught.value).startswith(f"model.factory 'nets_of_tests:{network}' r")
    assert message.format(f"nets_of_tests.py, line {line(where)}") in str(caught.value)


def test_a_network_that_takes_no_blank_image_is_given_a_real_one(
    digits_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = warmed(monkeypatch, work_with(digits_work, tmp_path, "NeverBlank"))
    assert (facts["class_count"], facts["notes"]) == (10, [])


def test_a_network_of_one_image_is_taken_where_no_more_are_asked(
    digits_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warmed(monkeypatch, replace(work_with(digits_work, tmp_path, "FixedOne"), batch_samples=1))["class_count"] == 10


def test_warm_up_says_what_was_done_to_make_the_model_fit(
    digits_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(digits_work.model)
    assert isinstance(model, nn.Module)
    path = tmp_path / "m.pt"
    torch.save({f"net.{name}": value for name, value in model.state_dict().items()}, path)
    facts = warmed(monkeypatch, replace(digits_work, model=replace(digits_work.model, weights=str(path))))
    assert facts["notes"] == [f"of weights '{path}', 'net.' is taken off all of its names"]


def test_first_images_that_the_network_raises_on_are_left_out(digits_work: Work, tmp_path: Path) -> None:
    digits = AuditWorker(digits_work).first_pixels
    brightness = digits.mean((1, 2, 3)) / 255
    limit = float(np.median(brightness))
    worker = AuditWorker(work_with(digits_work, tmp_path, "NoBright", limit))
    logits = worker.on_first_images(worker.clear).logits
    assert len(logits) == (brightness <= limit).sum() == 32
    np.testing.assert_array_equal(worker.first_pixels, digits[brightness <= limit])
    nothing = AuditWorker(work_with(digits_work, tmp_path, "Nothing"))
    with pytest.raises(
        InputError, match=r"takes none of the dataset's first images: on one, it raised ValueError: not blank \(nets"
    ):
        nothing.on_first_images(nothing.clear)


def test_what_is_not_the_networks_own_fault_is_raised_as_it_is(digits_work: Work) -> None:
    worker = AuditWorker(digits_work)
    with pytest.raises(ZeroDivisionError):
        worker.on_first_images(lambda images: 1 // 0)


def test_a_module_that_cannot_take_the_images_is_named(client: Client, digits_work: Work) -> None:
    work = replace(digits_work, key="other-channels", input=replace(digits_work.input, channels=3))
    client.register_plugin(AuditWorker(work))
    with pytest.raises(InputError) as caught:
        client.submit(warm_up, work.key, pure=False).result()
    assert str(caught.value).startswith(
        "model.factory 'flows.demo.allcnn:build' raised RuntimeError: Given groups=1, weight of size"
    )
    assert str(caught.value).endswith(
        "given one image of 3 × 28 × 28: it takes one of 1 × 28 × 28; correct input.channels, input.height and input.width"
    )
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
            replace(digits_work, key="one-score", model=FactorySpec("one_score:build"), folder=str(tmp_path)),
            ["one score is read"],
        ),
    ):
        client.register_plugin(AuditWorker(work))
        facts = client.submit(warm_up, work.key, pure=False).result()
        client.unregister_worker_plugin(work.key)
        assert facts["class_count"] == (2 if notes else 10)
        assert [note.split(" as ")[0] for note in facts["notes"]] == notes


def test_float32_is_that_on_every_device(digits_work: Work) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert AuditWorker(digits_work).device.type in ("cpu", "cuda")
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
