"""The fixed operator of a run: found in the store or built by the run's workers, and used by each of them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from distributed import Client

from auditor import CannotFold
from auditor.folding.build import fold_rows
from auditor.folding.operator import restore_operator
from auditor.folding.plan import FoldPlan
from flows.runtime.preflight import in_bytes
from flows.runtime.submit import submit_all, try_alone
from flows.runtime.worker import AuditWorker, Work, this_worker
from storage.errors import InputError
from storage.operators import (
    UnusableOperator,
    mark_used,
    operator_path,
    read_operator,
    read_rows,
    rows_folder,
    write_operator,
    write_rows,
)

ROWS_ALONE = 2000
"""Up to so many rows one worker builds, without a file between; more are built by all."""
ROWS_A_PART = 256
TRIES = 3
"""How often a worker may die of building a part before there is no operator; of putting the parts together, once less."""


@dataclass(frozen=True)
class Fold:
    """The operator of a run, for its workers. path: its file. facts: all that decides what is in it."""

    plan: FoldPlan
    path: Path
    facts: dict[str, Any]


def make_fold(store: Path, plan: FoldPlan, work: Work, model_hash: str, torch_version: str) -> Fold:
    facts = {
        "model": model_hash,
        "plan": asdict(plan),
        "input": [work.input.channels, work.input.height, work.input.width],
        "rule": work.method.rule,
        "precision": work.method.precision,
        "reduction": work.method.reduction,
        "head": work.method.head,
        "torch": torch_version,
    }
    return Fold(plan, operator_path(store, facts), facts)


def restore_plan(fields: dict[str, Any]) -> FoldPlan:
    """The operator of a plan that was read from JSON, which has no tuples. Raises InputError where it is none."""
    restored: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        return FoldPlan(**restored)
    except TypeError as error:
        raise InputError(f"the plan of the unfinished run has no operator that is known ({error}): remove its folder") from error


def ensure_operator(
    client: Client, key: str, fold: Fold, say: Callable[[str], None], progress: Callable[[int, int], None], memory: float = inf
) -> float:
    """The operator lies in the store, whole, and a worker has verified it; returns its deviation, relative to the peak.

    say: hears why a file is built again. progress: hears how many rows are done, of how many. memory: bytes that the
    operator may take. Raises CannotFold.
    """
    fault = client.submit(find_fault, fold, pure=False).result()
    if fault is None:
        if (size := fold.path.stat().st_size) > memory:
            raise CannotFold(f"it takes {in_bytes(size)} of memory, and {in_bytes(memory)} are allowed (compute.operator_gb)")
        mark_used(fold.path)
        return client.submit(use_operator, key, fold, pure=False).result()
    if fault:
        say(f"operator '{fold.path}' is built again: {fault}")
    if fold.plan.rows <= ROWS_ALONE:
        return have_finished(client, key, fold, None, memory)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, fold.plan.rows)

    with rows_folder(fold.path) as folder:

        def submit(start: int) -> Any:
            return client.submit(build_part, key, fold, folder, start, pure=False)

        def is_built(start: int) -> bool:
            return try_alone(lambda deaths: submit(start), count, TRIES)

        if not all(map(is_built, submit_all(client, submit, range(0, fold.plan.rows, ROWS_A_PART), count))):
            raise CannotFold(f"a worker died {TRIES} times of building it")
        return have_finished(client, key, fold, folder, memory)


def have_finished(client: Client, key: str, fold: Fold, folder: Path | None, memory: float) -> float:
    """Has a worker finish the operator, and a second one if the first dies of it. Raises CannotFold."""

    def submit(deaths: int) -> Any:
        return client.submit(finish_operator, key, fold, folder, memory, pure=False)

    deviations: list[float] = []
    if not try_alone(submit, deviations.append, TRIES):
        raise CannotFold("a worker died of putting it together, and so did another")
    return deviations[0]


def find_fault(fold: Fold) -> str | None:
    """What is wrong with the operator's file: nothing, None; empty where there is none."""
    if not fold.path.exists():
        return ""
    try:
        read_operator(fold.path, fold.facts, with_hash=True)
    except UnusableOperator as error:
        return str(error)
    return None


def build_part(key: str, fold: Fold, folder: Path, start: int) -> int:
    """Writes the rows from `start` on to the folder; returns how many."""
    worker = this_worker(key)
    stop = min(start + ROWS_A_PART, fold.plan.rows)
    write_rows(folder, start, worker.on_first_images(lambda images: fold_rows(worker.clear, images, fold.plan, start, stop)))
    return stop - start


def finish_operator(key: str, fold: Fold, folder: Path | None, memory: float) -> float:
    """Puts the rows of the folder together, or builds them all; verifies the operator and writes it. Raises CannotFold."""
    worker = this_worker(key)
    clear, plan = worker.clear, fold.plan
    parts = None if folder is None else [part.to(worker.device) for part in read_rows(folder)]
    rows = parts or [worker.on_first_images(lambda images: fold_rows(clear, images, plan, 0, plan.rows))]
    worker.on_first_images(lambda images: clear.use_rows(images, plan, rows, memory))
    assert clear.operator is not None
    write_operator(fold.path, fold.facts, clear.operator.tensors())
    clear.operator = None
    return use_operator(key, fold)


def use_operator(key: str, fold: Fold) -> float:
    """Has a worker use the operator's file, mapped, once it is verified; returns its deviation. Raises CannotFold."""
    return adopt(this_worker(key), fold)


def adopt(worker: AuditWorker, fold: Fold) -> float:
    tensors = {name: tensor.to(worker.device) for name, tensor in read_operator(fold.path, fold.facts).items()}
    operator = restore_operator(fold.plan, tensors)
    deviation = worker.on_first_images(lambda images: worker.clear.use(operator, images))
    worker.operator_path = fold.path
    return deviation


def adopt_planned(worker: AuditWorker, fold: Fold | None) -> None:
    """Has a worker use what the run planned to use. Raises InputError where it cannot: the run must not go on otherwise."""
    if fold is None or worker.operator_path == fold.path:
        return
    try:
        adopt(worker, fold)
    except (CannotFold, UnusableOperator) as error:
        raise InputError(
            f"the run was planned with the operator '{fold.path}', which cannot be used on this worker: {error}; "
            "remove the file, or plan without one by compute.operator_gb = 0"
        ) from error
