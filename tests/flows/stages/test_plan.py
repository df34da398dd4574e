"""A run is planned once: what was decided for it holds when it is gone on with."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import Client

import auditor.clear
import flows.stages.plan
from auditor import CannotFold, UnsupportedModel
from flows.config import AuditConfig, load_config
from flows.runtime.progress import Progress
from flows.runtime.worker import AuditWorker, Work
from flows.stages.plan import Planned, draft_plan, plan_run, say_missing
from storage.datasets.folder import FolderSpec
from storage.datasets.formats import open_dataset
from storage.errors import InputError
from storage.runs.lookup import list_runs
from storage.runs.plan import Trigger
from storage.runs.run import read_plan

TRIGGER = Trigger(kind="python", flow_run_id="f0")


class Heard(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.said: list[str] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@dataclass(frozen=True)
class Ready:
    """A cluster that has started. facts: of its workers."""

    client: Client
    work: Work
    facts: dict[str, Any] = field(
        default_factory=lambda: {"class_count": 10, "torch": torch.__version__, "device": "cpu", "notes": []}
    )

    def wait(self) -> tuple[Client, dict[str, Any]]:
        return self.client, self.facts


def plan(client: Client, config: AuditConfig, work: Work, store: Path, heard: Heard | None = None, **facts: Any) -> Planned:
    """With workers that know of no operator yet."""
    work = replace(work, method=config.method)
    client.register_plugin(AuditWorker(work))
    ready = Ready(client, work)
    ready.facts.update(facts)
    try:
        return plan_run(config, store, open_dataset(config.dataset), ready, heard or Heard(), TRIGGER)  # type: ignore[arg-type]
    finally:
        client.unregister_worker_plugin(work.key)


@pytest.fixture
def config(digits_config: Path) -> AuditConfig:
    return load_config(digits_config, (), {})


def test_what_is_passed_over_is_planned_and_said(config: AuditConfig, tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.heic", "b/3.heic", "list.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    dataset = open_dataset(FolderSpec("folder", str(tmp_path)))
    draft = draft_plan(config, dataset)
    assert (draft.passed_over, draft.empty_classes) == ({".heic": 2, ".csv": 1}, ["b"])
    assert list(say_missing(dataset)) == [
        "dataset: 3 files with other suffixes (.heic 2, .csv 1) passed over: they are not audited",
        "dataset: classes without an image: 1 ('b')",
    ]
    assert list(say_missing(open_dataset(config.dataset))) == []


def with_settings(digits_config: Path, *settings: str) -> AuditConfig:
    return load_config(digits_config, settings, {})


def test_a_run_that_is_worth_it_is_planned_with_an_operator(
    client: Client, config: AuditConfig, digits_work: Work, tmp_path: Path
) -> None:
    heard = Heard()
    planned = plan(client, config, digits_work, tmp_path, heard)
    found = read_plan(planned.run).examination
    assert found is not None
    assert found.fold is not None
    assert found.fold["rows"] == 490
    assert found.fold_deviation is not None
    assert 0 < found.fold_deviation < 1e-5
    assert (found.sample_count, found.precision_agreement_frac, found.fold_reason) == (64, None, None)
    assert planned.fold is not None
    assert planned.fold.path.is_file()
    assert heard.stages == ["examining", "folding"]
    (said,) = heard.said
    assert said.startswith(
        "maps: a fixed operator, from the classes back to the output of 'max_pool2d', makes them (6.15 MB, 490 "
    )
    assert f"deviates from the network by at most {found.fold_deviation:.1e} of the peak" in said


def test_a_run_in_less_than_float32_says_how_far_it_agrees(
    client: Client, digits_config: Path, digits_work: Work, tmp_path: Path
) -> None:
    heard = Heard()
    config = with_settings(digits_config, "method.precision=bfloat16", "compute.operator_gb=0")
    found = plan(client, config, digits_work, tmp_path, heard).plan.examination
    assert found is not None
    assert found.precision_agreement_frac is not None
    assert 0.9 < found.precision_agreement_frac < 1
    assert (found.fold, found.fold_reason) == (None, "compute.operator_gb is 0")
    assert heard.said == [
        "maps: each class is sent back for each image, without a fixed operator: compute.operator_gb is 0",
        f"precision: bfloat16 has the dominant class of float32 at {100 * found.precision_agreement_frac:.2f} % of the pixels of "
        "the first 64 images",
    ]


def test_a_run_whose_rule_conserves_says_how_much_arrives(
    client: Client, digits_config: Path, digits_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, config = Heard(), with_settings(digits_config, "method.rule=lrp_epsilon")
    found = read_plan(plan(client, config, digits_work, tmp_path, heard).run).examination
    assert found is not None
    assert found.conservation is not None
    assert f"adds up to {found.conservation.kept:.3g} of what a class sends back" in heard.said[-1]
    assert f"most at operation {found.conservation.operation}: {found.conservation.taken:.3g}" in heard.said[-1]

    monkeypatch.setattr("auditor.conservation.LEAST_ARRIVED", 1e9)
    with pytest.raises(UnsupportedModel, match="rule 'lrp_epsilon' says nothing of this model: of what the classes send back, "):
        plan(client, config, digits_work, tmp_path / "refused")
    assert list_runs(tmp_path / "refused") == []


@pytest.mark.parametrize("setting", ["method.top_k=3", "compute.operator_gb=0.006", "method.rule=guided"])
def test_a_run_for_which_it_is_not_worth_it_says_why(
    client: Client, digits_config: Path, digits_work: Work, tmp_path: Path, setting: str
) -> None:
    heard = Heard()
    planned = plan(client, with_settings(digits_config, setting), digits_work, tmp_path, heard)
    found = planned.plan.examination
    assert planned.fold is None
    assert found is not None
    assert found.fold is None
    assert found.fold_reason is not None
    reasons = {"method.top_k=3": "× 3 of", "compute.operator_gb=0.006": "6 MB are allowed", "method.rule=guided": "rule 'guided'"}
    assert reasons[setting] in found.fold_reason
    # Of rules that depend on the input nobody expects an operator.
    assert [found.fold_reason in said for said in heard.said] == ([] if setting == "method.rule=guided" else [True])
    assert not (tmp_path / "operators").exists()


def test_how_the_model_was_read_is_said_and_kept(client: Client, digits_config: Path, digits_work: Work, tmp_path: Path) -> None:
    heard, config = Heard(), with_settings(digits_config, "compute.operator_gb=0")
    planned = plan(client, config, digits_work, tmp_path, heard, notes=["its 'logits' are taken as the scores"])
    assert heard.said[0] == "model: its 'logits' are taken as the scores"
    found = read_plan(planned.run).examination
    assert found is not None
    assert found.notes == ["its 'logits' are taken as the scores"]


def test_an_operator_that_deviates_is_a_reason_not_to_use_it(
    client: Client, digits_config: Path, digits_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deviate(*_: object) -> None:
        raise CannotFold("folded responses deviate from plain ones by 1.0e-02 of the peak")

    with monkeypatch.context() as broken:
        broken.setattr(auditor.clear, "verify", deviate)
        planned = plan(client, with_settings(digits_config), digits_work, tmp_path)
    reason = "folded responses deviate from plain ones by 1.0e-02 of the peak"
    assert planned.fold is None
    assert planned.plan.examination is not None
    assert planned.plan.examination.fold is None
    assert planned.plan.examination.fold_reason == reason

    # Another run does not build it for nothing, until it is told to.
    heard = Heard()
    again = plan(client, with_settings(digits_config, "name=again"), digits_work, tmp_path, heard)
    assert again.fold is None
    assert "folding" not in heard.stages
    assert f"{reason}; so it was when it was last built" in heard.said[0]
    (refusal,) = (tmp_path / "operators").glob("*.refused")
    refusal.unlink()
    assert plan(client, with_settings(digits_config, "name=told"), digits_work, tmp_path).fold is not None


@pytest.mark.parametrize("settings", [(), ("compute.operator_gb=0",)], ids=["folded", "not"])
def test_a_run_that_is_gone_on_with_does_as_it_was_planned(
    client: Client,
    digits_config: Path,
    digits_work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
) -> None:
    """Nothing is examined again, though now all would be decided otherwise; an operator that is gone is built again."""
    config = with_settings(digits_config, *settings)
    first = plan(client, config, digits_work, tmp_path)
    if first.fold is not None:
        first.fold.path.unlink()
    monkeypatch.setattr(flows.stages.plan, "examine", None)
    monkeypatch.setattr(flows.stages.plan, "why_not", lambda *_: "now it is not worth it")
    second = plan(client, config, digits_work, tmp_path)
    assert second.run == first.run
    assert second.fold == first.fold
    assert json.loads(second.plan.model_dump_json()) == json.loads(first.plan.model_dump_json())
    assert second.fold is None or second.fold.path.is_file()
    assert len(list_runs(tmp_path)) == 1


def test_another_limit_of_memory_is_another_run(client: Client, digits_config: Path, digits_work: Work, tmp_path: Path) -> None:
    one = plan(client, with_settings(digits_config, "compute.operator_gb=0"), digits_work, tmp_path)
    two = plan(client, with_settings(digits_config, "compute.operator_gb=1"), digits_work, tmp_path)
    assert one.run != two.run


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "report.seed=1",
            r"^dataset '.*images\.idx' has 10 classes and model\.factory 'flows\.demo\.allcnn:build' has 11 outputs: "
            r"name the model's classes, in the order of its outputs, in dataset\.classes$",
        ),
        (
            'dataset.classes=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]',
            r"^dataset\.classes names 10 classes and model\.factory 'flows\.demo\.allcnn:build' has 11 outputs: "
            r"name all 11 of the model's, in the order of its outputs, there$",
        ),
    ],
)
def test_classes_that_are_not_the_models_are_named_before_anything_is_hashed(
    client: Client,
    digits_config: Path,
    digits_work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    message: str,
) -> None:
    monkeypatch.setattr(flows.stages.plan, "draft_plan", None)
    with pytest.raises(InputError, match=message):
        plan(client, with_settings(digits_config, setting), digits_work, tmp_path, class_count=11)
    assert not list(tmp_path.iterdir())


def test_what_was_done_to_make_the_model_fit_is_said(
    client: Client, digits_config: Path, digits_work: Work, tmp_path: Path
) -> None:
    heard = Heard()
    note = "of weights 'm.pt', 'module.' is taken out of its names"
    plan(client, with_settings(digits_config, "compute.operator_gb=0"), digits_work, tmp_path, heard, notes=[note])
    assert heard.said[0] == f"model: {note}"
