"""Operations written out in smaller ones, so that the tape sees each of their parts."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.errors import UnsupportedModel
from auditor.operations.attention import multi_head_attention
from auditor.operations.calls import Call, is_among
from auditor.operations.rule_table import works_in_place

WITH_TERM = frozenset({"addmm", "addmv", "baddbmm"})
"""A product plus a term; where the term and one of the factors are constants, it is a layer as it stands."""


def glu(input: Tensor, dim: int = -1) -> Tensor:
    values, gate = input.chunk(2, dim)
    return values * gate.sigmoid()


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * (tensor1 * tensor2)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * (tensor1 / tensor2)


def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    between: Tensor = input + weight * (end - input)
    return between


def add_product(input: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """`addmm`, `addmv` and `baddbmm`."""
    product = first @ second if alpha == 1 else alpha * (first @ second)
    return product + (input if beta == 1 else beta * input)


def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * input + alpha * (batch1 @ batch2).sum(0)


def lstm(values: Tensor, states: Any, weights: Any, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Hochreiter & Schmidhuber 1997, as `torch.nn.LSTM` has it: the gates are sigmoids of layers."""

    def step(here: Tensor, before: tuple[Tensor, Tensor], kernels: list[Tensor]) -> tuple[Tensor, Tensor]:
        inner, outer, *biases = kernels
        entering, kept, new, shown = (F.linear(here, inner, *biases[:1]) + F.linear(before[0], outer, *biases[1:])).chunk(4, -1)
        cell = kept.sigmoid() * before[1] + entering.sigmoid() * new.tanh()
        return shown.sigmoid() * cell.tanh(), cell

    output, (hidden, cells) = recur("lstm", step, values, tuple(states), weights, *rest)
    return output, hidden, cells


def gru(values: Tensor, state: Tensor, weights: Any, *rest: Any) -> tuple[Tensor, Tensor]:
    """Cho et al. 2014, as `torch.nn.GRU` has it."""

    def step(here: Tensor, before: tuple[Tensor], kernels: list[Tensor]) -> tuple[Tensor]:
        inner, outer, *biases = kernels
        entering, held = F.linear(here, inner, *biases[:1]).chunk(3, -1), F.linear(before[0], outer, *biases[1:]).chunk(3, -1)
        reset, update = (entering[0] + held[0]).sigmoid(), (entering[1] + held[1]).sigmoid()
        new = (entering[2] + reset * held[2]).tanh()
        return (update * before[0] + (1 - update) * new,)

    output, (hidden,) = recur("gru", step, values, (state,), weights, *rest)
    return output, hidden


def recur(
    name: str,
    step: Callable[..., Any],
    values: Any,
    states: tuple[Tensor, ...],
    weights: Any,
    *rest: Any,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A recurrent network, layer after layer, along the sequence and back. values: (T, N, K), or (N, T, K).

    states: each (layers · directions, N, H). weights: of each layer and direction two matrices, then two biases.
    rest: has_biases, num_layers, dropout, train, bidirectional, batch_first. Returns (T, N, H · directions) and the last states.
    """
    if len(rest) != 6 or not isinstance(rest[0], bool):
        raise UnsupportedModel(
            f"operation '{name}' of packed sequences has no answer under any rule: give it a batch of one length"
        )
    has_biases, layers, dropout, train, bidirectional, batch_first = rest
    directions, each = 2 if bidirectional else 1, 4 if has_biases else 2
    if len(weights) != layers * directions * each:
        raise UnsupportedModel(f"operation '{name}' with projections has no answer under any rule: write it out")
    if train and dropout > 0:
        raise UnsupportedModel(f"operation '{name}' is in training mode: call model.eval() where the model is built")
    sequence = list(values.unbind(1 if batch_first else 0))
    last: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        found = []
        for direction in range(directions):
            place = layer * directions + direction
            kernels = list(weights[place * each : (place + 1) * each])
            state, outputs = tuple(part[place] for part in states), []
            for here in reversed(sequence) if direction else sequence:
                state = step(here, state, kernels)
                outputs.append(state[0])
            found.append(outputs[::-1] if direction else outputs)
            last.append(state)
        sequence = [torch.cat(parts, -1) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True)]
    return torch.stack(sequence, 1 if batch_first else 0), tuple(torch.stack(parts) for parts in zip(*last, strict=True))


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    "multi_head_attention_forward": multi_head_attention,
    **{function.__name__: function for function in (glu, addcmul, addcdiv, lerp, addbmm, lstm, gru)},
    **dict.fromkeys(WITH_TERM, add_product),
}


def is_composite(call: Call) -> bool:
    if call.name in WITH_TERM:
        return len(call.differentiable_operands) > 1 or is_among(call.argument(0, "input"), call.differentiable_operands)
    return call.name in WRITTEN_OUT


def write_out(call: Call) -> Any:
    """To be called inside the tape, which then sees the parts."""
    result = WRITTEN_OUT[call.name](*call.arguments, **call.keywords)
    return call.arguments[0].copy_(result) if works_in_place(call.function) else result
