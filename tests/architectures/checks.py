"""What a rule makes of a network, and whether that is right: by a reference, and by what must not matter.

All comparisons are in float64 where the network runs in it, except `float32` itself.
"""

import copy
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import auditor
from auditor import Clear, UnsupportedModel
from auditor.operations.rule_table import RULES
from tests.architectures.zoo import Architecture, Network, build
from tests.auditor import autograd_graph
from tests.auditor.autograd_graph import NoReference
from tests.auditor.rewriting import deviation, noops, without_biases

TOLERANCES = {"reference": 1e-4, "logits": 1e-4, "batch": 1e-4, "noops": 1e-4, "exported": 1e-2, "output": 1e-2, "float32": 1e-1}
"""The largest deviation that is rounding, for each check: Σ |found − expected| / Σ |expected| of a map. Rectifiers of a network
in float32 may fall to the other side, which moves a map more than rounding."""
TOLERANCES_IN_FLOAT32 = TOLERANCES | {"reference": 1e-2, "logits": 1e-3, "batch": 1e-1, "noops": 1e-2}
MOST_IN_FLOAT64 = 100_000_000
"""Parameters; a larger network is compared in float32."""
KEPT = (0.5, 1.5)
"""Of LRP, without biases: between which shares of the class response its map must add up to."""

AUDITOR = Path(auditor.__file__).parent

Record = dict[str, Any]


def examine(architecture: Architecture, rules: list[str], quick: bool) -> Iterator[tuple[str, Record]]:
    """Yields facts of the network under "", then for each rule its outcome and checks. seconds: of a processor's time.

    quick: whether a rule answers, and whether that is right by the reference, in float32; nothing else.
    """
    started = time.process_time()
    network = build(architecture)
    precision = "float64" if not quick and runs_in_float64(network) else "float32"
    program = None if quick else exported(network)
    yield (
        "",
        {
            "parameters": sum(parameter.numel() for parameter in network.model.parameters()),
            "size": network.images.shape[-1],
            "precision": precision,
            "exported": "" if program is None else program if isinstance(program, str) else "yes",
            "is_quick": quick,
            "seconds": round(time.process_time() - started, 2),
        },
    )
    examination = Examination(network, precision, program, quick)
    for rule in rules:
        started = time.process_time()
        record = outcome(lambda rule=rule: examination.judge(rule))  # type: ignore[misc]
        yield rule, record | {"seconds": round(time.process_time() - started, 2)}


def outcome(judge: Callable[[], Record]) -> Record:
    try:
        return judge()
    except UnsupportedModel as error:
        return {"outcome": "refused", "message": str(error)}
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return {"outcome": "memory", "message": str(error)}
        return raw(error)
    except Exception as error:
        return raw(error)


def raw(error: Exception) -> Record:
    where = traceback.extract_tb(error.__traceback__)[-1]
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if AUDITOR in Path(frame.filename).parents]
    place = f"{(ours or [where])[-1].name} of {(ours or [where])[-1].filename.rpartition('/')[2]}"
    return {"outcome": "exception", "message": f"{type(error).__name__}: {error}, in {place}"}


class Examination:
    """A network, and what all rules are judged by. precision: of the comparisons. program: of torch.export, or why there is none.

    One class is sent back: of those, the one that both images speak for most.
    """

    def __init__(self, network: Network, precision: str, program: Any, quick: bool) -> None:
        self.network, self.precision, self.program, self.quick = network, precision, program, quick
        dtype = torch.float64 if precision == "float64" else torch.float32
        self.images = network.images.to(dtype=dtype, memory_format=torch.channels_last)
        self.plain = copy.deepcopy(network.model).to(dtype)
        with torch.no_grad():
            self.scores = self.plain(self.images)
        self.number = int(self.scores.amin(0).argmax())
        self.leaf = self.images.clone().requires_grad_()
        self.maps: dict[tuple[int, ...], Tensor] = {}

    def judge(self, rule: str) -> Record:
        """Raises whatever the rule raises."""
        model, images = self.network.model, self.network.images
        found, responses = self.send_back(model, rule, self.images)
        if not bool(found.isfinite().all()):
            return {"outcome": "not finite", "message": f"{int((~found.isfinite()).sum())} of {found.numel()} values"}
        record: Record = {"outcome": "answers", "places": list(responses.shape[2:])}
        checks: dict[str, float] = {"logits": deviation(responses.mean((2, 3))[None], self.scores[None])}
        record["checks"] = checks
        if rule in autograd_graph.RULES:
            try:
                checks["reference"] = deviation(found, self.reference(rule, responses))
            except NoReference as error:
                record["no_reference"] = str(error)
        if self.quick:
            return record
        self.compare_rewritten(record, rule, found)
        single = found
        if self.precision != "float32":
            single, _ = self.send_back(model, rule, images, "float32")
        if self.is_the_same_in_float32:
            checks["float32"] = deviation(single, found)
        if isinstance(self.program, torch.export.ExportedProgram):
            self.compare(record, "exported", lambda: (self.send_back(self.program, rule, images, "float32")[0], single))
        if self.network.original is not None:
            self.compare(record, "output", lambda: (self.send_back(self.network.original, rule, images, "float32")[0], single))
        if RULES[rule].shares:
            record["kept"] = share(found, responses[:, [self.number]])
            record["kept_without_biases"] = self.kept_without_biases(rule)
        return record

    @cached_property
    def is_the_same_in_float32(self) -> bool:
        """Whether autograd's own gradient is: of a network with large weights rounding makes another network."""
        if self.precision == "float32":
            return False
        gradients = []
        for dtype in (torch.float32, torch.float64):
            images = self.images.to(dtype).requires_grad_()
            scores = copy.deepcopy(self.network.model).to(dtype)(images)[:, self.number]
            gradients.append(torch.autograd.grad(scores.sum(), images)[0].double())
        return deviation(*gradients) <= TOLERANCES["float32"]

    def compare_rewritten(self, record: Record, rule: str, expected: Tensor) -> None:
        """An image by itself, contiguous, through a model with operations that do nothing; where that differs, each alone."""
        model, one = self.network.model, self.images[:1].contiguous()
        with noops(model):
            self.compare(record, "noops", lambda: (self.send_back(model, rule, one)[0], expected[:1]))
            if record["checks"].get("noops", inf) <= TOLERANCES["noops"]:
                record["checks"]["batch"] = record["checks"]["noops"]
                return
            self.compare(record, "noops", lambda: (self.send_back(model, rule, self.images)[0], expected))
        self.compare(record, "batch", lambda: (self.send_back(model, rule, one)[0], expected[:1]))

    def compare(self, record: Record, name: str, maps: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """What is answered for the model must be answered however it is written."""
        try:
            record["checks"][name] = deviation(*maps())
        except UnsupportedModel as error:
            record.setdefault("refused", {})[name] = str(error)

    def kept_without_biases(self, rule: str) -> list[float]:
        """Of one image and the class that the network without its biases gives it; nothing where it has none."""
        bare, image = without_biases(self.network.model), self.images[:1]
        with torch.no_grad():
            number = int(copy.deepcopy(bare).to(image.dtype)(image).argmax())
        found, responses = self.send_back(bare, rule, image, number=number)
        return share(found, responses[:, [number]])

    def send_back(
        self, model: Any, rule: str, images: Tensor, precision: str | None = None, number: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """R(x|c) of one class, (N, 1, H, W), and z_L, (N, C, h, w), both as `auditor` finds them. number: the class."""
        clear = Clear(model, rule, [self.number if number is None else number], precision=precision or self.precision)
        backprojection = clear.forward(images)
        found = torch.cat([responses for _, responses in backprojection.stream(clear.competing(backprojection))], 1)
        return found.double(), backprojection.class_responses.detach().double()

    def reference(self, rule: str, responses: Tensor) -> Tensor:
        """Raises NoReference."""
        places = tuple(responses.shape[2:])
        if places not in self.maps:
            self.maps[places] = autograd_graph.class_maps(self.plain, self.leaf, responses.to(self.leaf.dtype))
        return autograd_graph.responses(self.maps[places], self.leaf, [self.number], rule).double()


def share(maps: Tensor, responses: Tensor) -> list[float]:
    """What each map (N, K, H, W) adds up to over what entered, Σ max(z_c, 0): the least and the most where anything did."""
    entered, arrived = responses.clamp(min=0).sum((2, 3)), maps.sum((2, 3))
    shares = (arrived / entered)[entered > 0]
    return [float(shares.min()), float(shares.max())] if len(shares) else []


def runs_in_float64(network: Network) -> bool:
    if sum(parameter.numel() for parameter in network.model.parameters()) > MOST_IN_FLOAT64:
        return False
    model = copy.deepcopy(network.model).double()
    try:
        with torch.no_grad():
            return bool(model(network.images.double()).dtype == torch.float64)
    except (RuntimeError, TypeError, AssertionError):
        return False


def exported(network: Network) -> Any:
    """The model as a program of torch.export, or in words why there is none."""
    try:
        return torch.export.export(network.model, (network.images,))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"


def faults(record: Record, precision: str) -> list[str]:
    """What is wrong with a record's answer, each fault in words."""
    tolerances = TOLERANCES if precision == "float64" else TOLERANCES_IN_FLOAT32
    found = [f"{name} {value:.0e}" for name, value in record.get("checks", {}).items() if not value <= tolerances[name]]
    return found + [f"{name} is refused: {message}" for name, message in record.get("refused", {}).items()]


def loss(record: Record) -> str:
    """What is kept of the relevance where that is too little or too much, in words; else empty."""
    kept = record.get("kept_without_biases", [])
    return f"keeps {kept[0]:.2g} to {kept[1]:.2g}" if kept and not KEPT[0] <= kept[0] <= kept[1] <= KEPT[1] else ""
