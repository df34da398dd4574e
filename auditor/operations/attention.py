"""Multi-head attention written out, so that the tape sees each of its parts."""

from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.errors import UnsupportedModel


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    average_attn_weights: bool = True,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """`torch.nn.functional.multi_head_attention_forward` for what image classifiers use: (T, N, E) in and out.

    The attention weights are returned where they are asked for, averaged over heads, (N, T, S).
    """
    unusual = (bias_k, bias_v, *(value for value in rest.values() if isinstance(value, Tensor)))
    if add_zero_attn or query.dim() != 3 or any(part is not None for part in unusual) or (training and dropout_p > 0):
        raise UnsupportedModel(
            "multi-head attention with extra keys, dropout or without a batch has no answer under any rule: "
            "write it out as scaled_dot_product_attention"
        )
    if use_separate_proj_weight or in_proj_weight is None:
        weights: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    sources = zip((query, key, value), weights, biases, strict=True)
    queries, keys, values = (heads(F.linear(source, weight, bias), num_heads) for source, weight, bias in sources)
    mask = joined_mask(attn_mask, key_padding_mask, queries)
    attended = F.scaled_dot_product_attention(queries, keys, values, mask)
    output = F.linear(attended.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    if not need_weights:
        return output, None
    scores = queries.detach() @ keys.detach().transpose(-2, -1) / queries.shape[-1] ** 0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return output, weights.mean(1) if average_attn_weights else weights


def joined_mask(mask: Tensor | None, padding: Tensor | None, queries: Tensor) -> Tensor | None:
    """What is added to the scores (N, heads, T, S) before the softmax; None where nothing is.

    mask: (T, S) or (N · heads, T, S). padding: (N, S). In boolean ones, True means that a place is ignored. queries: (N, heads,
    T, E).
    """
    parts = []
    if mask is not None:
        parts.append(mask if mask.dim() == 2 else mask.view(*queries.shape[:2], *mask.shape[1:]))
    if padding is not None:
        parts.append(padding[:, None, None])
    added = [
        torch.zeros_like(part, dtype=queries.dtype).masked_fill(part, -inf) if part.dtype == torch.bool else part
        for part in parts
    ]
    return sum(added[1:], added[0]) if added else None


def heads(values: Tensor, count: int) -> Tensor:
    """(T, N, E) to (N, heads, T, E / heads)."""
    return values.reshape(*values.shape[:2], count, -1).permute(1, 2, 0, 3)
