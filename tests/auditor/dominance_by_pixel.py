"""Eq. 4 and 5 taken literally, the reference for every way in which they are worked out."""

import torch
from torch import Tensor


def dominance_by_pixel(responses: Tensor, names: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ĉ, int16, −1 where no response is positive, D ≥ 0 and the second strongest response ≥ 0, each (…).

    responses: (K, …). names: (K,), ascending, of the K classes; of equals, the first wins.
    """
    winners, strongest, seconds = [], [], []
    for pixel in responses.flatten(1).t().tolist():
        winner, best, second = -1, 0.0, 0.0
        for name, response in zip(names.tolist(), pixel, strict=True):
            if response > best:
                winner, best, second = name, response, best
            elif response > second:
                second = response
        winners.append(winner)
        strongest.append(best)
        seconds.append(second)
    shape = responses.shape[1:]
    best_response, second_response = (torch.tensor(values, dtype=responses.dtype).view(shape) for values in (strongest, seconds))
    return torch.tensor(winners, dtype=torch.int16).view(shape), best_response, second_response
