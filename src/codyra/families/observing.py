"""What linears of a network read while it runs: the inputs that methods make statistics of."""

# Shapes: N rows, L positions, D features; P the positions that are no padding
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Visitor = Callable[[str, Tensor], None]
"""Takes the name of a linear and its input (P, D)."""


@contextmanager
def observed_inputs(
    net: nn.Module, modules: Sequence[str], visit: Visitor, mask_NL: Tensor | None = None
) -> Iterator[dict[str, str]]:
    """While this is open, `visit` is given what these modules read, without gradients; nothing is held on to.

    A tensor that several modules read is given once, under the name of the first of them. Dropout, that of adapters
    included, is off.

    Args:
        mask_NL: 0 where the text of the next forward pass is padding; None where nothing is.

    Yields:
        {module: the first that reads the same tensor}, of the modules that have run.
    """
    first_of: dict[str, str] = {}
    read: list[tuple[weakref.ref[Tensor], str]] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        x: Tensor = args[0]
        for other, first in read:
            if other() is x:
                first_of[name] = first
                return
        read.append((weakref.ref(x), name))
        first_of[name] = name
        x_PD = x.detach().flatten(0, -2)
        # Some networks flatten rows and positions themselves; some have dropped the padding before.
        if mask_NL is not None and len(x_PD) == mask_NL.numel():
            x_PD = x_PD[mask_NL.flatten().bool()]
        visit(name, x_PD)

    hooks = [net.get_submodule(name).register_forward_pre_hook(partial(note, name)) for name in modules]
    try:
        with _in_eval_mode(net), torch.no_grad():
            yield first_of
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _in_eval_mode(net: nn.Module) -> Iterator[None]:
    training = [module for module in net.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
