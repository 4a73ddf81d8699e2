"""Gradients beside those of a training step: of examples of this task or an earlier one, by `torch.autograd.grad`.

They leave `.grad` alone, and the hooks by which data-parallel training exchanges gradients do not fire.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from codyra.methods.context import TaskContext


def gradients(ctx: TaskContext, value: Tensor) -> dict[str, Tensor]:
    """Of a scalar by every trained parameter, by name; zeros where it does not depend on one."""
    trained = ctx.trained()
    found = torch.autograd.grad(value, list(trained.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(trained, found, strict=True))


@contextmanager
def without_dropout(net: nn.Module) -> Iterator[None]:
    """While this is open nothing is dropped: the same gradients in every pass and on every process."""
    dropping = [module for module in net.modules() if isinstance(module, nn.Dropout) and module.training]
    for module in dropping:
        module.eval()
    try:
        yield
    finally:
        for module in dropping:
            module.train()
