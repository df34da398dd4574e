"""Operations that are written out: the same numbers and gradients as torch's, and their ways back by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor import UnsupportedModel
from auditor.backward.tape import Tape

VALUES = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
OTHERS = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def network(make: Callable[..., nn.Module], **options: object) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    module = make(4, 3, **options).double().eval().requires_grad_(False)
    return lambda values: module(values)[0]


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.glu": lambda x: F.glu(x, 2),
    "addcmul of constants": lambda x: torch.addcmul(OTHERS, x, OTHERS, value=0.3),
    "addcmul of responses": lambda x: torch.addcmul(x, x.sigmoid(), x, value=0.3),
    "addcmul_": lambda x: (1 * x).addcmul_(x.sigmoid(), OTHERS),
    "addcdiv": lambda x: torch.addcdiv(x, x, 2 + OTHERS.abs(), value=-2),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "lerp by a gate": lambda x: torch.lerp(x, OTHERS, x.sigmoid()),
    "baddbmm": lambda x: torch.baddbmm(x, x @ x.mT, OTHERS, beta=0.5, alpha=2),
    "addmm": lambda x: torch.addmm(x[0], x[0] @ x[1].T, OTHERS[0]),
    "addbmm": lambda x: torch.addbmm(x[0], x @ x.mT, OTHERS),
    "LSTM": network(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True),
    "LSTM without biases, sequence first": network(nn.LSTM, bias=False),
    "GRU": network(nn.GRU, num_layers=2, bidirectional=True),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_written_out_is_the_same(name: str) -> None:
    """What it gives, and its gradient: outside of the tape, torch's own."""
    operation = OPERATIONS[name]
    plain, taped = (VALUES.clone().requires_grad_() for _ in range(2))
    expected = operation(plain)
    with Tape("gradient"):
        found = operation(taped)
    torch.testing.assert_close(found, expected)
    signal = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(torch.autograd.grad(found, taped, signal)[0], torch.autograd.grad(expected, plain, signal)[0])


def test_one_step_of_an_lstm_by_hand() -> None:
    """h = σ(o) tanh(σ(i) tanh(g)): what comes back meets both gates, held fixed under `linear`, and the layer of g."""
    torch.manual_seed(0)
    module = nn.LSTM(4, 3).double().requires_grad_(False)
    values = VALUES[:1, :1].clone().requires_grad_()
    signal = torch.tensor([[[0.5, -1.0, 2.0]]], dtype=torch.float64)
    with Tape("linear") as tape:
        output = module(values)[0]
    tape.check_path(output)
    layers = values.detach().flatten() @ module.weight_ih_l0.T + module.bias_ih_l0 + module.bias_hh_l0
    entering, _, _, shown = layers.chunk(4)
    arrived = signal.flatten() * shown.sigmoid() * entering.sigmoid()
    found = torch.autograd.grad(output, values, signal)[0].flatten()
    torch.testing.assert_close(found, arrived @ module.weight_ih_l0[6:9])


def test_sequences_of_several_lengths_are_an_error() -> None:
    module = nn.GRU(4, 3).double().requires_grad_(False)
    values = VALUES.clone().requires_grad_()
    packed = nn.utils.rnn.pack_padded_sequence(values, torch.tensor([2, 2, 2, 1, 1]))
    with pytest.raises(UnsupportedModel, match="operation 'gru' of packed sequences"), Tape("linear"):
        module(packed)


def test_projections_are_an_error() -> None:
    module = nn.LSTM(4, 3, proj_size=2).double().requires_grad_(False)
    with pytest.raises(UnsupportedModel, match="operation 'lstm' with projections"), Tape("linear"):
        module(VALUES.clone().requires_grad_())
