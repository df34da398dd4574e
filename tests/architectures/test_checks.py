"""The soak's checks tell a right answer from a wrong one, and what becomes of each is told."""

from typing import Any

import pytest
import torch

from auditor import UnsupportedModel
from auditor.operations.rule_table import RULES
from tests.architectures.checks import Examination, faults, outcome
from tests.architectures.page import details, failures, marks, page
from tests.architectures.zoo import Network
from tests.auditor import autograd_graph
from tests.auditor.families import family


@pytest.fixture
def examination() -> Examination:
    model, images = family("SE-ResNeXt")
    return Examination(Network(model.float(), images.float()), "float64", torch.export.export(model, (images.float(),)), False)


@pytest.mark.parametrize("rule", ["linear", "guided", "lrp_zplus"])
def test_right_answer_has_no_fault(examination: Examination, rule: str) -> None:
    record = examination.judge(rule)
    assert faults(record, "float64") == []
    assert set(record["checks"]) >= {"logits", "batch", "noops", "float32", "exported"}
    assert ("reference" in record["checks"]) == (rule != "lrp_zplus")


def test_answer_by_another_rule_is_wrong(examination: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    right = autograd_graph.responses
    monkeypatch.setattr(autograd_graph, "responses", lambda scores, images, classes, _: right(scores, images, classes, "deconv"))
    (fault,) = faults(examination.judge("linear"), "float64")
    assert fault.startswith("reference")


def test_class_responses_of_another_network_have_no_reference(examination: Examination) -> None:
    with torch.no_grad():
        examination.plain.classifier[-1].weight.mul_(1.5)  # type: ignore[union-attr, index]
    record = examination.judge("gradient")
    assert "z_L" in record["no_reference"]
    assert "reference" not in record["checks"]


def test_refusals_and_exceptions_are_told_apart() -> None:
    def fail(error: Exception) -> Any:
        raise error

    assert outcome(lambda: fail(UnsupportedModel("no answer"))) == {"outcome": "refused", "message": "no answer"}
    assert outcome(lambda: fail(KeyError("key")))["outcome"] == "exception"
    assert outcome(lambda: fail(RuntimeError("can't allocate memory")))["outcome"] == "memory"


def test_every_network_and_rule_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.architectures.page.version", lambda package: "1.0")
    right = {"outcome": "answers", "checks": {"reference": 1e-9, "noops": 0.0}}
    wrong = {"outcome": "answers", "checks": {"noops": float("nan")}}
    refused = {"outcome": "refused", "message": "operation 'fft' is not known"}
    lost = right | {"kept_without_biases": [0.3, 0.9]}
    line = {"source": "timm", "family": "resnet", "variant": "", "problem": "", "seconds": 1.0, "facts": {"precision": "float64"}}
    rules = list(RULES)
    lines = [
        line | {"name": "one", "rules": dict.fromkeys(rules, right)},
        line | {"name": "two", "rules": dict.fromkeys(rules, right) | {"guided": refused, "linear": wrong, "lrp_zplus": lost}},
        line | {"name": "three", "problem": "does not run", "rules": {}},
    ]
    assert marks(lines[1])["linear"] == "wrong"
    assert details(lines[1], "linear") == "noops nan"
    assert details(lines[1], "lrp_zplus") == "keeps 0.3 to 0.9"
    assert "guided 1: two" in failures(lines)
    text = page(lines)
    assert "| `guided` | 50.0 % | 1 | 0 | 1 | 0 | 0 | 0 | 0 |" in text
    assert "| `lrp_zplus` | 50.0 % | 1 | 1 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "| timm | resnet | one, two | 1 ✓ 1 ✗ | ✓ | ✓ | 1 ✓ 1 – | ✓ | ✓ | 1 ✓ 1 ≠ |" in text
