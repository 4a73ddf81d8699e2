"""The method as docs/method.md and golden/README.md state it, dense and slow: what the tuner
must equal. Used only by tests.

Shapes: D in features, O out features, R ranks. One entry per adapted layer in every list.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def thresholds(steps, dense_fraction, *, kappa_total=None, kappa_max=None, levels=50) -> list[float]:
    """kappa of every iteration t: the ramp of total shrink `kappa_total`, or the staircase up to `kappa_max`."""
    dense, index, kappa, kappas = dense_fraction * steps, 0, 0.0, []
    n = sum(t > dense for t in range(steps))
    stride = int((steps - dense) // levels)
    for t in range(steps):
        if kappa_total is not None:
            kappa = 2 * kappa_total / (n + 1) * (t - (steps - n) + 1) / n if t > dense else 0.0
        elif stride > 0 and t >= dense and t % stride == 0:
            index += 1
            kappa = kappa_max * min(levels - 1, index) / (levels - 1)
        kappas.append(kappa if t > dense else 0.0)
    return kappas


def shrink(w: float, kappa: float, operator: str) -> float:
    if operator == "soft":
        return math.copysign(max(abs(w) - kappa, 0.0), w)
    w = w - kappa if w > kappa else w
    w = w + kappa if w < -kappa else w
    return 0.0 if abs(w) < kappa else w


def effective(W_OD: Tensor, A_RD: Tensor, B_OR: Tensor, gate_R: Tensor) -> Tensor:
    return W_OD + sum(gate_R[i] * torch.outer(B_OR[:, i], A_RD[i]) for i in range(len(gate_R)))


def train(
    loss: Callable[[list[Tensor]], Tensor],
    W: list[Tensor],
    A: list[Tensor],
    w: list[Tensor],
    *,
    lr,
    kappas,
    operator,
):
    """Yields (loss before the update, A, B, w) after every iteration; `loss` is a function of the effective weights."""
    A, B, w = (
        [a.clone() for a in A],
        [o.new_zeros(len(o), len(g)) for o, g in zip(W, w, strict=True)],
        list(w),
    )
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in [*A, *B, *w]]
    for t, kappa in enumerate(kappas):
        rate = 0.5 * (1 + math.cos(math.pi * t / len(kappas))) * lr
        parameters = [p.detach().requires_grad_() for p in [*A, *B, *w]]
        n = len(W)
        A, B, w = parameters[:n], parameters[n : 2 * n], parameters[2 * n :]
        value = loss([effective(*layer) for layer in zip(W, A, B, w, strict=True)])
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            for p, g, (m, v) in zip(parameters, gradients, moments, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.9999).add_((1 - 0.9999) * g * g)
                p -= rate * (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.9999 ** (t + 1))).sqrt() + 1e-8)
            for gate in w:
                gate.copy_(
                    torch.tensor([shrink(x, kappa, operator) for x in gate.tolist()], dtype=gate.dtype)
                )
        yield value.item(), A, B, w
