"""What is found of a model on the first samples, and when an operator is worth it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client
from distributed.system import MEMORY_LIMIT

from auditor import Clear, measure_conservation
from auditor.folding.plan import FoldPlan, plan_fold
from flows.runtime.preflight import Finding, allowed_memory, examine, in_bytes, why_not
from flows.runtime.worker import AuditWorker, Work
from flows.sections import MethodSection
from storage.models.sources import load_model
from tests.flows.conftest import Digits

FOLD = FoldPlan(10, 7, 7, "image", -1, 18, (28, 28), None, rows=490, memory=2_000_000_000)


@pytest.mark.parametrize(
    ("samples", "competing", "memory", "reason"),
    [
        (98, 10, 2e9, None),
        (
            97,
            10,
            2e9,
            "its 490 passes through the network pay only where it saves twice as many, and "
            "97 samples × 10 of their classes are 970",
        ),
        (980, 1, 2e9, None),
        (979, 1, 2e9, "979 samples × 1 of their classes are 979"),
        (10_000, 1000, 2e9, None),
        (10_000, 1000, 2e9 - 1, "building it takes 2 GB of memory, and 2 GB are allowed (compute.operator_gb)"),
        (10_000, 1000, 5e8, "building it takes 2 GB of memory, and 500 MB are allowed (compute.operator_gb)"),
    ],
)
def test_an_operator_is_worth_it_where_it_saves_half_and_has_room(
    samples: int, competing: int, memory: float, reason: str | None
) -> None:
    found = why_not(FOLD, samples, competing, memory)
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


@pytest.mark.parametrize(("size", "text"), [(6_146_560, "6.15 MB"), (1e9, "1 GB"), (4.917e9, "4.92 GB"), (0, "0 MB")])
def test_sizes_in_words(size: float, text: str) -> None:
    assert in_bytes(size) == text


def test_a_quarter_of_the_memory_is_allowed() -> None:
    assert allowed_memory(torch.device("cpu")) == MEMORY_LIMIT / 4


def found_by_a_worker(client: Client, work: Work, operator_gb: float | None = 1.0, **changes: Any) -> Finding:
    work = replace(work, key=f"examined-{len(client.run(lambda dask_worker: list(dask_worker.plugins)))}", **changes)
    client.register_plugin(AuditWorker(work))
    try:
        finding: Finding = client.submit(examine, work.key, operator_gb, pure=False).result()
    finally:
        client.unregister_worker_plugin(work.key)
    return finding


def images_of(digits: Digits, samples: int) -> torch.Tensor:
    return torch.from_numpy(digits.pixels[:samples] / np.float32(255))[:, None]


def test_the_operator_of_the_model_is_found(client: Client, digits: Digits, digits_work: Work) -> None:
    plan = plan_fold(Clear(load_model(digits_work.model), "linear"), images_of(digits, 1))
    assert found_by_a_worker(client, digits_work) == Finding(64, None, plan, None, 1e9)
    assert found_by_a_worker(client, digits_work, None).memory == MEMORY_LIMIT / 4


def test_agreement_is_that_of_two_precisions_on_the_first_batch(client: Client, digits: Digits, digits_work: Work) -> None:
    found = found_by_a_worker(client, digits_work, method=MethodSection(rule="linear", precision="bfloat16"), batch_samples=8)
    model = load_model(digits_work.model)
    maps = [Clear(model, "linear", precision=name)(images_of(digits, 8)).dominant_class for name in ("bfloat16", "float32")]
    expected = (maps[0] == maps[1]).double().mean()
    assert 0.9 < expected < 1
    assert found.agreement == pytest.approx(float(expected), abs=1e-6)
    assert found.sample_count == 8
    assert found.fold is not None
    assert found.fold.memory == 10 * 49 * 64 * 49 * 2, "two bytes a value"


@pytest.mark.parametrize(
    ("operator_gb", "rule", "reason"),
    [(0.0, "linear", "compute.operator_gb is 0"), (1.0, "lrp_epsilon", "rule 'lrp_epsilon' depends on the input")],
)
def test_why_there_is_none(client: Client, digits_work: Work, operator_gb: float, rule: str, reason: str) -> None:
    found = found_by_a_worker(client, digits_work, operator_gb, method=MethodSection(rule=rule))
    assert (found.fold, found.sample_count) == (None, 64)
    assert found.reason is not None
    assert found.reason.startswith(reason)


def test_conservation_is_measured_on_the_first_samples(client: Client, digits: Digits, digits_work: Work) -> None:
    found = found_by_a_worker(client, digits_work, method=MethodSection(rule="lrp_zplus")).conservation
    assert found == measure_conservation(Clear(load_model(digits_work.model), "lrp_zplus"), images_of(digits, 64))
    assert found is not None
    assert 0.5 < found.kept <= 1


def test_nothing_is_found_where_no_sample_can_be_read(client: Client, digits_work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AuditWorker, "first_pixels", np.zeros((0, 1, 28, 28), np.uint8))
    found = found_by_a_worker(client, digits_work, method=MethodSection(rule="linear", precision="bfloat16"))
    assert found == Finding(0, None, None, "no sample could be read", 1e9)
