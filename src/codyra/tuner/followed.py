"""When a step of autograd of our own must stand back, because more than one backward pass follows what is computed."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_followed() -> bool:
    """Whether the compiler, a tracer, torch.func or forward-mode differentiation looks at every operation."""
    return (
        torch.compiler.is_compiling()  # which fuses better what it can see through
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def is_one_of_many(grad: Tensor) -> bool:
    """Whether a backward pass gets several gradients at once (`is_grads_batched`, `jacobian(vectorize=True)`)."""
    return torch._C._functorch.is_legacy_batchedtensor(grad)


def refuse_second_derivatives(instead: str) -> None:
    """For backward passes whose result could not be differentiated again.

    Args:
        instead: what gives second derivatives, as the end of a sentence.

    Raises:
        RuntimeError: it will be (`create_graph=True`).
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"second derivatives are not computed here; for them say {instead}")
