"""The run's operator: built by one worker or by all, found again, rebuilt where it is damaged, and never used unverified."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import Client

import flows.runtime.operator
from auditor import CannotFold, Clear
from auditor.folding.build import fold_rows
from auditor.folding.plan import FoldPlan, plan_fold
from flows.runtime.cluster import open_cluster
from flows.runtime.operator import Fold, adopt_planned, ensure_operator, make_fold, restore_plan
from flows.runtime.worker import AuditWorker, Work
from flows.sections import ComputeSection, MethodSection
from storage.errors import InputError
from storage.models.sources import load_model
from storage.operators import read_operator, write_operator
from tests.flows.conftest import Digits, write_deadly


@dataclass
class Heard:
    said: list[str] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)

    def progress(self, done: int, total: int) -> None:
        self.rows.append((done, total))


@dataclass(frozen=True)
class Found:
    """The demo's operator, worked out here: without workers, without files."""

    clear: Clear
    plan: FoldPlan
    tensor: torch.Tensor
    images: torch.Tensor


@pytest.fixture(scope="module")
def found(digits: Digits, digits_work: Work) -> Found:
    """Each row is one class sent back from one position: no cut but the demo's second pooling lies between."""
    clear = Clear(load_model(digits_work.model), digits_work.method.rule)
    images = torch.from_numpy(digits.pixels[:64] / torch.tensor(255.0).numpy())[:, None]
    plan = plan_fold(clear, images)
    rows = fold_rows(clear, images, plan, 0, plan.rows)
    return Found(clear, plan, rows.view(10, 49, -1), images)


@pytest.fixture
def fold(tmp_path: Path, found: Found, digits_work: Work) -> Fold:
    return make_fold(tmp_path, found.plan, digits_work, "m0", torch.__version__)


@pytest.fixture
def ensure(client: Client, digits_work: Work) -> Callable[[Fold, Heard], float]:
    """With workers that know of no operator yet."""
    client.register_plugin(AuditWorker(digits_work))

    def build(fold: Fold, heard: Heard, memory: float = inf) -> float:
        client.run(forget, digits_work.key)
        return ensure_operator(client, digits_work.key, fold, heard.said.append, heard.progress, memory)

    return build


def forget(key: str, dask_worker: Any) -> None:
    plugin = dask_worker.plugins[key]
    plugin.clear.operator, plugin.operator_path = None, None


def files(fold: Fold) -> list[str]:
    return [path.name for path in fold.path.parent.iterdir()]


def test_one_worker_builds_few_rows(fold: Fold, found: Found, ensure: Callable[[Fold, Heard], float]) -> None:
    heard = Heard()
    deviation = ensure(fold, heard)
    assert 0 < deviation < 1e-5
    torch.testing.assert_close(read_operator(fold.path, fold.facts, with_hash=True)["operator"], found.tensor)
    assert (heard.said, heard.rows) == ([], [])
    assert files(fold) == [fold.path.name]


def test_all_workers_build_many_rows(
    fold: Fold, found: Found, ensure: Callable[[Fold, Heard], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.runtime.operator, "ROWS_ALONE", 489)
    monkeypatch.setattr(flows.runtime.operator, "ROWS_A_PART", 100)
    heard = Heard()
    ensure(fold, heard)
    torch.testing.assert_close(read_operator(fold.path, fold.facts, with_hash=True)["operator"], found.tensor)
    assert [total for _, total in heard.rows] == [490] * 5
    assert heard.rows[-1] == (490, 490)
    assert files(fold) == [fold.path.name], "the parts are swept"


def test_what_is_there_is_not_built_again(
    fold: Fold, ensure: Callable[[Fold, Heard], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure(fold, Heard())
    monkeypatch.setattr(flows.runtime.operator, "finish_operator", None)
    heard = Heard()
    assert ensure(fold, heard) == first
    assert heard.said == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Fold], object]] = {
    "data have changed": lambda fold: flip(fold.path),
    "cannot be read": lambda fold: fold.path.write_bytes(fold.path.read_bytes()[:-9]),
    "of another model or method": lambda fold: write_operator(
        fold.path, {"model": "m1"}, {"operator": torch.zeros(10, 49, 3136)}
    ),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_a_damaged_or_foreign_file_is_built_again_with_a_word(
    fold: Fold, found: Found, ensure: Callable[[Fold, Heard], float], reason: str
) -> None:
    write_operator(fold.path, fold.facts, {"operator": found.tensor})
    DAMAGES[reason](fold)
    heard = Heard()
    ensure(fold, heard)
    (said,) = heard.said
    assert said.startswith(f"operator '{fold.path}' is built again: it")
    assert reason in said.replace("its ", "")
    torch.testing.assert_close(read_operator(fold.path, fold.facts, with_hash=True)["operator"], found.tensor)


def test_an_operator_that_takes_more_than_is_allowed_is_neither_built_nor_used(fold: Fold, ensure: Callable[..., float]) -> None:
    with pytest.raises(CannotFold, match=r"the operator takes 0\.0 GB of memory, and 0\.0 GB are allowed"):
        ensure(fold, Heard(), 6e6)
    assert not fold.path.exists()
    ensure(fold, Heard())
    with pytest.raises(CannotFold, match=r"it takes 6\.15 MB of memory, and 6 MB are allowed \(compute\.operator_gb\)"):
        ensure(fold, Heard(), 6e6)


def test_an_error_of_a_part_is_raised_and_leaves_nothing(
    fold: Fold, ensure: Callable[[Fold, Heard], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(clear: Clear, images: torch.Tensor, plan: FoldPlan, start: int, stop: int) -> torch.Tensor:
        if start >= 300:
            raise ArithmeticError("a defect of row 300")
        return fold_rows(clear, images, plan, start, stop)

    monkeypatch.setattr(flows.runtime.operator, "ROWS_ALONE", 100)
    monkeypatch.setattr(flows.runtime.operator, "ROWS_A_PART", 50)
    monkeypatch.setattr(flows.runtime.operator, "fold_rows", fail)
    with pytest.raises(ArithmeticError, match="row 300"):
        ensure(fold, Heard())
    assert files(fold) == []


def test_an_operator_that_workers_die_of_is_none(tmp_path: Path, fold: Fold, digits_work: Work) -> None:
    # Where rows are built: of one image many times over.
    write_deadly(tmp_path / "deadly_build.py", "len(images) > 1 and (images == images[:1]).all()")
    model = replace(digits_work.model, factory="deadly_build:build")
    work = replace(digits_work, key="deadly-build", model=model, folder=str(tmp_path))
    with open_cluster(ComputeSection(workers=1, threads=1)) as cluster, Client(cluster, set_as_default=False) as client:
        client.register_plugin(AuditWorker(work))
        with pytest.raises(CannotFold, match="a worker died of putting it together, and so did another"):
            ensure_operator(client, work.key, fold, print, Heard().progress)
    assert not fold.path.exists()


def test_an_operator_that_deviates_is_not_kept(
    fold: Fold, ensure: Callable[[Fold, Heard], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> torch.Tensor:
        return 1.01 * fold_rows(*arguments)

    monkeypatch.setattr(flows.runtime.operator, "fold_rows", wrong)
    with pytest.raises(CannotFold, match="deviate"):
        ensure(fold, Heard())
    assert not fold.path.exists()


def test_a_worker_uses_the_file_as_it_is_mapped(fold: Fold, found: Found, digits_work: Work) -> None:
    worker = AuditWorker(digits_work)
    write_operator(fold.path, fold.facts, {"operator": found.tensor})
    adopt_planned(worker, fold)
    operator = worker.clear.operator
    assert operator is not None
    assert torch.equal(operator.tensor, found.tensor)
    assert str(fold.path) in Path("/proc/self/maps").read_text() or not Path("/proc/self/maps").exists()
    folded, plain = (clear(found.images).dominant_response for clear in (worker.clear, found.clear))
    assert (folded - plain).abs().max() < 1e-5 * plain.max()
    adopt_planned(worker, fold)
    assert worker.clear.operator is operator, "verified once"


def test_a_run_without_an_operator_uses_none(digits_work: Work) -> None:
    worker = AuditWorker(digits_work)
    adopt_planned(worker, None)
    assert worker.clear.operator is None


@pytest.mark.parametrize("reason", ["deviate from plain ones by", "cannot be read"])
def test_what_was_planned_and_fails_is_an_error_of_the_run(fold: Fold, found: Found, digits_work: Work, reason: str) -> None:
    worker = AuditWorker(digits_work)
    write_operator(fold.path, fold.facts, {"operator": found.tensor * 1.001})
    if reason == "cannot be read":
        fold.path.unlink()
    with pytest.raises(InputError, match=rf"planned with the operator '.*\.safetensors', which cannot be used .*{reason}"):
        adopt_planned(worker, fold)
    assert worker.clear.operator is None


def test_all_that_decides_the_operator_is_in_its_name(tmp_path: Path, found: Found, digits_work: Work) -> None:
    def path(plan: FoldPlan = found.plan, model: str = "m0", version: str = "2.13", **changes: Any) -> Path:
        return make_fold(tmp_path, plan, replace(digits_work, **changes), model, version).path

    others = [
        path(plan=replace(found.plan, step=3)),
        path(model="m1"),
        path(version="2.14"),
        path(input=replace(digits_work.input, width=29)),
        path(method=MethodSection(rule="deconv")),
        path(method=MethodSection(rule="linear", reduction="max")),
        path(method=MethodSection(rule="linear", head="9")),
        path(method=MethodSection(rule="linear", precision="bfloat16")),
    ]
    assert len({path(), *others}) == 1 + len(others)
    kept = MethodSection(rule="linear", top_k=3, kept_classes=5)
    assert path(key="other", method=kept, batch_samples=3, threads=4) == path()


def test_a_plan_comes_back_from_json_as_it_was(found: Found) -> None:
    assert restore_plan(json.loads(json.dumps(asdict(found.plan)))) == found.plan
