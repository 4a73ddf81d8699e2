"""What linears of a network read while it runs: the inputs that methods make statistics of."""

# Shapes: N rows, L positions, D features; P the positions that are no padding
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def observed_inputs(
    net: nn.Module, modules: Sequence[str], mask_NL: Tensor | None = None
) -> Iterator[dict[str, Tensor]]:
    """While this is open, the inputs (P, D) of these modules, by name, once they have run; without gradients.

    A tensor that several modules read has one entry, under the name of the first of them.

    Args:
        mask_NL: 0 where the text of the next forward pass is padding; None where nothing is.
    """
    inputs: dict[str, Tensor] = {}
    read: list[Tensor] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach()
        # The tensors are held on to, so that no other can take the place of one of them in memory.
        if any(x.data_ptr() == other.data_ptr() and x.shape == other.shape for other in read):
            return
        read.append(x)
        padded = mask_NL is not None and x.shape[:-1] == mask_NL.shape
        inputs[name] = x[mask_NL.bool()] if padded and mask_NL is not None else x.flatten(0, -2)

    hooks = [net.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in modules]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def merged(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The positions of several forward passes together, module by module."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}
