"""A rule that is tried on a worker, against the same measures without one; one that has no maps says why."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor import Clear
from auditor.trust.assess import pilot
from flows.runtime import pilot as runtime
from flows.runtime.pilot import PilotUnit, measure_unit
from flows.runtime.worker import AuditWorker, Work
from tests.flows.conftest import Digits


@pytest.fixture
def worker(digits_work: Work, monkeypatch: pytest.MonkeyPatch) -> AuditWorker:
    made = AuditWorker(digits_work)
    monkeypatch.setattr(runtime, "this_worker", lambda key: made)
    return made


def test_it_is_measured_under_the_rule_that_is_tried(worker: AuditWorker, digits: Digits) -> None:
    indices = (5, 200, 17, 44)
    found = measure_unit("key", PilotUnit("guided", indices, 0))
    images = torch.from_numpy(digits.pixels[list(indices)] / np.float32(255))[:, None]
    expected = pilot(Clear(worker.clear.model, "guided"), images, 0)
    assert (found.rule, found.refusal) == ("guided", None)
    assert found.values.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found.values[name], values[~values.isnan()].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


class Squared(nn.Module):
    """A transform of the response, to which no rule that shares has an answer."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.fft.fft2(images).real.flatten(1)[:, :10]


def test_a_rule_without_an_answer_says_so(worker: AuditWorker) -> None:
    worker.clear = Clear(Squared(), "gradient")
    found = measure_unit("key", PilotUnit("lrp_zplus", (0, 1), 0))
    assert found.values == {}
    assert found.refusal is not None
    assert "rule 'lrp_zplus' has no answer" in found.refusal
