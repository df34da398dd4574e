"""What is found of a model on the first samples, before a run is planned: it holds for the whole run."""

from dataclasses import dataclass
from math import isnan, nan

import torch
from distributed.system import MEMORY_LIMIT

from auditor import CannotFold, Conservation, agreement, measure_conservation
from auditor.backward.trace import few_at_a_time
from auditor.folding.plan import FoldPlan, plan_fold
from flows.runtime.worker import AuditWorker, this_worker

MEMORY_PART = 4
"""The operator may take this part of a machine's memory, or of a GPU's, where the config does not say."""


@dataclass(frozen=True)
class Finding:
    """Of `sample_count` samples: the agreement with float32 where the run is in less and any scores are finite, and the
    operator, or why there is none.

    memory: bytes that the operator may take. conservation: of the first few, under a rule that is to conserve relevance.
    """

    sample_count: int
    agreement: float | None
    fold: FoldPlan | None
    reason: str | None
    memory: float
    conservation: Conservation | None = None


def examine(key: str, operator_gb: float | None) -> Finding:
    """Examines the model on a worker. operator_gb: of the config. Raises UnsupportedModel, also where too little is conserved."""
    worker = this_worker(key)
    memory = allowed_memory(worker.device) if operator_gb is None else operator_gb * 1e9
    if not len(worker.first_pixels):
        return Finding(0, None, None, "no sample could be read", memory)
    is_exact = worker.work.method.precision == "float32"
    agreed = nan if is_exact else worker.on_first_images(lambda images: agreement(worker.clear, images))
    conserved = worker.on_first_images(lambda images: measure_conservation(worker.clear, few_at_a_time(images)[0]))
    fold, reason = find_fold(worker, memory)
    return Finding(len(worker.first_pixels), None if isnan(agreed) else agreed, fold, reason, memory, conserved)


def find_fold(worker: AuditWorker, memory: float) -> tuple[FoldPlan | None, str | None]:
    """The operator that the model has, or why it has none."""
    if not memory:
        return None, "compute.operator_gb is 0"
    try:
        return worker.on_first_images(lambda images: plan_fold(worker.clear, images)), None
    except CannotFold as error:
        return None, str(error)


def allowed_memory(device: torch.device) -> float:
    """Bytes: a part of the least of what a worker's operator would lie in."""
    on_gpu = [torch.cuda.mem_get_info(device)[1]] if device.type == "cuda" else []
    return min([MEMORY_LIMIT, *on_gpu]) / MEMORY_PART


def why_not(fold: FoldPlan, samples: int, competing: int, memory: float) -> str | None:
    """Why an operator that can be built is not worth it; None where it is.

    samples: of the dataset. competing: classes a sample. memory: bytes that it may take.
    """
    passes = samples * competing
    if 2 * fold.rows > passes:
        return (
            f"its {fold.rows:,} passes through the network pay only where it saves twice as many, and "
            f"{samples:,} samples × {competing:,} of their classes are {passes:,}"
        )
    if fold.memory > memory:
        return f"building it takes {in_bytes(fold.memory)} of memory, and {in_bytes(memory)} are allowed (compute.operator_gb)"
    return None


def in_bytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
