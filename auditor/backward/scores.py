"""The scores of the classes among what a model returns, and whether a head's are in the same order."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.backward.affine import AffineEnd, affine_end, keeps_values, run_through
from auditor.backward.history import Step
from auditor.backward.tape import Tape
from auditor.errors import UnsupportedModel
from auditor.operations.rule_table import LAYERS

PROBABILITIES = frozenset({"softmax", "log_softmax", "sigmoid", "expit", "logsigmoid", "log_sigmoid"})
MONOTONE = PROBABILITIES | {"tanh", "exp", "log"}
"""Functions that keep the order of the classes."""
ONE_SIDED = frozenset({"exp", "log", "hardsigmoid"})
"""Functions behind which 0 is no longer where it was."""
ONE_SCORE = (
    *((), ("tanh",), ("sigmoid",), ("expit",), ("logsigmoid",), ("log_sigmoid",)),
    *(("log", "sigmoid"), ("exp", "logsigmoid"), ("exp", "log_sigmoid")),
)
"""Functions that may stand behind one score, the last first: class 1 is where the score before them is above 0."""
KNOWN_NAMES = ("logits", "out")
"""Usual names of the scores in models that return several things."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE = 5e-2
"""How far two scores may be in the wrong order, relative to the largest of the batch, within rounding."""


@dataclass(frozen=True)
class Scores:
    """What of a model's output decides the classes.

    tensor: one response a class and sample, before the softmax or sigmoid behind it, if any; one a sample where `only` is set.
    only: the class, of two, that has that one response; None where each class has its own.
    notes: how the output was read, where that is not plain, in sentences.
    """

    tensor: Tensor
    only: int | None
    notes: tuple[str, ...]

    @property
    def class_count(self) -> int:
        return self.tensor.shape[1:].numel() if self.only is None else 2


def find_scores(tape: Tape, output: Any, samples: int) -> Scores:
    """The part of what a forward pass returned that decides the classes. Raises UnsupportedModel."""
    returned, notes = take_scores(output, samples)
    if not returned.is_floating_point():
        kind = str(returned.dtype).removeprefix("torch.")
        raise UnsupportedModel(f"the model returns {kind}, as if it had chosen a class: return the scores that it chooses by")
    tape.check_output(returned)
    tensor, only = before_monotone(tape, returned)
    check_chain(tape, returned, tensor)
    if returned.shape[1:].numel() == 1:
        only = 1
        notes += ("one score is read as two classes: class 1 above 0, a probability above ½; class 0 has no response",)
    elif only is not None:
        notes += (f"the two scores are p and 1 − p: class {only} has the response of p, and class {1 - only} has none",)
    return Scores(tensor, only, notes)


def take_scores(output: Any, samples: int) -> tuple[Tensor, tuple[str, ...]]:
    """The tensor of class scores, and, where the model returns several things, a sentence on which of them it is."""
    if isinstance(output, Tensor):
        return checked(output, samples), ()
    entries = entries_of(output)
    kind = type(output).__name__
    for name in KNOWN_NAMES:
        if isinstance(entries.get(name), Tensor):
            return checked(entries[name], samples), (f"the model returns {kind}: its '{name}' are taken as the scores",)
    scores = {name: value for name, value in entries.items() if is_scores(value, samples)}
    if not scores or len({value.shape[1:].numel() for value in scores.values()}) > 1:
        shapes = ", ".join(f"'{name}' {tuple(value.shape)}" for name, value in scores.items())
        found = f"of several shapes ({shapes})" if scores else "none"
        raise UnsupportedModel(
            f"the model returns {kind}: one tensor of class scores, (samples, classes), is needed, or one called 'logits', and "
            f"there are {found}: return the scores alone"
        )
    name = next(iter(scores))
    return scores[name], (f"the model returns {kind}: its '{name}' is taken as the scores",)


def entries_of(output: Any) -> dict[str, Any]:
    """What a model returned, by name, or by place where it has no names."""
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, tuple | list):
        return dict(zip(getattr(output, "_fields", map(str, range(len(output)))), output, strict=True))
    return {name: getattr(output, name) for name in KNOWN_NAMES if hasattr(output, name)}


def is_scores(value: Any, samples: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (samples,) and is_flat(value)


def is_flat(scores: Tensor) -> bool:
    """Whether the shape is (N,) or (N, C), with any number of further axes of length 1."""
    return scores.dim() > 0 and scores.shape[2:].numel() == 1 and scores.shape[1:].numel() > 0


def checked(scores: Tensor, samples: int) -> Tensor:
    shape = tuple(scores.shape)
    if not is_flat(scores):
        raise UnsupportedModel(
            f"the model's output has shape {shape}: one score a class and sample, (samples, classes), is needed"
        )
    if scores.shape[0] != samples:
        raise UnsupportedModel(
            f"the model's output has shape {shape} for {samples} images: one score a class and sample is needed; "
            "a number of samples may be written into the model"
        )
    return scores


def before_monotone(tape: Tape, returned: Tensor) -> tuple[Tensor, int | None]:
    """What stands before the functions that keep the order of the classes, and, of two scores p and 1 − p, which class is p.

    What is done behind such a function is carried along where it keeps the order as well: classes chosen or in another order,
    all times one positive number. Raises UnsupportedModel where probabilities are worked on otherwise.
    """
    scores = returned
    while True:
        end = affine_end(tape, scores)
        makers = [step for tensor, step in end.begins if step is not None and is_flat(tensor) and is_monotone(step)]
        if not makers or len(makers) < len(end.begins) or end.has_layer:
            return scores, None
        carried = carried_before(tape, end, makers, scores)
        if carried is not None:
            scores, only = carried
            if only is not None:
                return scores, only
        elif any(step.name in PROBABILITIES for step in makers):
            raise UnsupportedModel(
                f"the model's scores are worked out from what '{makers[0].name}' gives, and not in its order: return the scores "
                f"before '{makers[0].name}'"
            )
        else:
            return scores, None


def check_chain(tape: Tape, returned: Tensor, scores: Tensor) -> None:
    """Raises UnsupportedModel where the scores are probabilities that something else was done to.

    Of one score, also where the threshold of class 1 is not known. scores: what stands before the functions that keep the order.
    """
    if returned.shape[1:].numel() > 1:
        names, spoiling = value_by_value(tape, scores), PROBABILITIES
    else:
        names, spoiling = value_by_value(tape, returned), PROBABILITIES | ONE_SIDED
        known = max((chain for chain in ONE_SCORE if tuple(names[: len(chain)]) == chain), key=len)
        names = names[len(known) :]
    found = next((name for name in names if name in spoiling), None)
    if found is not None:
        behind = f", and '{names[0]}' is behind that" if names[0] != found else ""
        raise UnsupportedModel(
            f"the model's scores are worked out from what '{found}' gives{behind}: return the scores before '{found}'"
        )


def value_by_value(tape: Tape, scores: Tensor) -> list[str]:
    """The operations between the last layer, or whatever else mixes values, and the scores, the last one first."""
    names, step = [], tape.history.maker(scores)
    while step is not None and step.kind not in LAYERS and len(step.sources) == 1 and is_flat(step.sources[0]):
        mixes_samples = "softmax" in step.name and not is_monotone(step)
        if step.kind != "reshape" and not mixes_samples:
            names.append(step.name)
        step = step.before[0]
    return names


def is_monotone(step: Step) -> bool:
    """Whether a step keeps, in each sample, the order of the classes."""
    if step.name not in MONOTONE or step.call.derived or len(step.sources) != 1:
        return False
    source, across = step.sources[0], step.call.argument(1, "dim") if "softmax" in step.name else None
    return across is None or source.dim() == 1 or (across % source.dim() > 0 and source.shape[across] == source.shape[1:].numel())


def carried_before(tape: Tape, end: AffineEnd, makers: list[Step], scores: Tensor) -> tuple[Tensor, int | None] | None:
    """`scores` without the monotone function; None where what stands behind that function does not keep its order.

    makers: the steps that are one such function of one tensor, called once or more. Of a sigmoid's p, 1 − p is the sigmoid of
    the negative.
    """
    monotone, before = makers[0], makers[0].sources[0]
    if any(maker.name != monotone.name or maker.sources[0] is not before for maker in makers):
        return None
    if keeps_values(end.steps):
        return before, None
    rows = run_through(end.steps, [tensor for tensor, _ in end.begins], scores)
    if rows is None:
        return None
    constant, matrix = rows[-1], torch.stack(torch.chunk(rows[:-2] - rows[-1], len(makers))).sum(0).round(decimals=9)
    factors, chosen = matrix.sum(0), matrix.abs().argmax(0)
    count, classes = matrix.shape
    if bool((matrix.count_nonzero(0) != 1).any()):
        return None
    shared = bool(((factors == factors[0]) & (factors > 0)).all()) and bool((constant == constant[0]).all())
    if shared and ("softmax" not in monotone.name or min(count, classes) > 1):
        return chosen_of(tape, before, chosen), None
    opposed = bool(((factors.abs() == 1) & (constant == (factors < 0))).all())
    if not opposed or monotone.name not in {"sigmoid", "expit"}:
        return None
    if count == 1 and classes == 2:
        return before, int(factors.argmax())
    return chosen_of(tape, before, chosen, factors.to(before.dtype)), None


def chosen_of(tape: Tape, before: Tensor, chosen: Tensor, signs: Tensor | None = None) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad(), tape:
        scores = before.reshape(len(before), before.shape[1:].numel())[:, chosen]
        return scores if signs is None else scores * signs


def check_order(logits: Tensor, dtype: torch.dtype, scores: Scores, name: str) -> None:
    """Raises UnsupportedModel where a named head does not order the classes of each sample as the model's output does.

    logits: (N, C), worked out in `dtype`. Between equals, and within its rounding, any order is right.
    """
    if not len(logits):
        return
    decisive = scores.tensor.detach().double().reshape(len(logits), -1)
    if scores.only is not None:
        decisive = with_silent_class(decisive, scores.only)
    ordered = decisive.gather(1, logits.argsort(1, descending=True))
    rise = (ordered[:, 1:] - ordered[:, :-1]).amax(1)
    largest = decisive.abs().nan_to_num(0, 0, 0).amax()
    wrong = rise.isfinite() & (rise > TOLERANCE.get(dtype, COARSE) * largest)
    if bool(wrong.any()):
        raise UnsupportedModel(
            f"head '{name}' does not decide as the model does: in {int(wrong.sum())} of {len(wrong)} images the average of its "
            "output orders the classes otherwise than what the model returns; name the module whose scores the model returns, or "
            "no head"
        )


def with_silent_class(responses: Tensor, only: int) -> Tensor:
    """Two classes along the axis of the one that has a response, axis 1; the other's are zeros."""
    pair = [responses, responses.new_zeros(responses.shape)]
    return torch.cat(pair if only == 0 else pair[::-1], 1)
