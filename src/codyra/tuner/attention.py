"""Attention over short sequences in bfloat16 on CPUs, known to transformers as "codyra".

torch's own kernel takes five times as long there, most of it in the backward pass (docs/performance.md). Scores are
rounded to bfloat16, as in transformers' "eager". For anything else "codyra" is its "sdpa".
"""

# Shapes: N sequences, H heads, L positions, D features of a head
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from codyra.tuner.followed import is_followed, refuse_second_derivatives

NAME = "codyra"

LONGEST = 256
"""Positions; the probabilities (N, H, L, L), which torch's kernel never holds as a whole, are kept for the backward."""


class ShortAttention(torch.autograd.Function):
    """softmax(scale q k^T) v, all of one length, optionally without looking right. Second derivatives are refused."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
        """(N, H, L, D) three times to (N, H, L, D)."""
        with torch.autocast(q.device.type, enabled=False):  # it would make the softmax float32
            scores = (q * scale) @ k.mT
            if causal:
                right = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
                scores.masked_fill_(right, float("-inf"))
            shares = scores.softmax(dim=-1)
            ctx.save_for_backward(q, k, v, shares)
            ctx.scale = scale
            return shares @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives('set_attn_implementation("eager") of the network')
        q, k, v, shares = ctx.saved_tensors
        dscores = torch._softmax_backward_data(grad @ v.mT, shares, -1, shares.dtype).mul_(ctx.scale)
        return dscores @ k, dscores.mT @ q, shares.mT @ grad, None, None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: (N, H, L, D) three times to (N, L, H, D)."""
    if attention_mask is not None or dropout or not _gains(query, key):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return ShortAttention.apply(query, key, value, scale, causal).transpose(1, 2).contiguous(), None


def _gains(query: Tensor, key: Tensor) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.shape == key.shape  # neither a cache nor shared key heads
        and query.shape[2] <= LONGEST
        and torch.is_grad_enabled()
        and not is_followed()
    )


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def short_attention(net: nn.Module) -> Iterator[None]:
    """While this is open, a network of transformers that computes attention by "sdpa" does so by "codyra"."""
    if getattr(getattr(net, "config", None), "_attn_implementation", None) != "sdpa":
        yield
        return
    changed: Any = net
    modules: list[Any] = [module for module in net.modules() if hasattr(module, "config")]
    configs = {id(module.config): module.config for module in modules}
    before = [(config, config._attn_implementation) for config in configs.values()]
    changed.set_attn_implementation(NAME)
    try:
        for config, name in before:  # a tower may have another choice of the user's
            if name != "sdpa":
                config._attn_implementation = name
        yield
    finally:
        for config, name in before:  # the network's own is the first, and sets those of its towers
            config._attn_implementation = name
