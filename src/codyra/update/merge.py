"""The merge: theta_t = base + sum of updates, in the wider of float32 and the base's dtype, cast once.

Shapes: D in features, O out features, K kept ranks. An update of a linear is B_OK @ A_KD; nn.Linear holds its
weight as (O, D), transformers' Conv1D as (D, O).
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from codyra.errors import UserError
from codyra.tuner import ProximalStep, check_mergeable
from codyra.tuner.compat import BaseTuner, LoraLayer
from codyra.update.task_update import TaskUpdate


def compose(net: nn.Module, base: Mapping[str, Tensor], updates: Iterable[TaskUpdate]) -> dict[str, Tensor]:
    """base + ordered sum of the updates, in the wider of float32 and the base's dtype, cast once.

    Args:
        net: the plain network; only its layer types are read.
        base: {parameter name: tensor} of everything an update may touch.
        updates: iterated once. A "cumulative" update replaces the "cumulative" ones before it.

    Returns:
        Every name of `base`; a tensor that no update touches is the base's own, not a copy.

    Raises:
        UserError: an update touches what `net` or `base` lacks, has another shape, or has factors for what is no
            linear layer.
    """
    sums = _exact_sums(net, base, updates)
    # Each sum goes when it is cast: on a bf16 base all of them are twice as large as the result.
    return {
        name: sums.pop(name).to(weight.dtype) if name in sums else weight for name, weight in base.items()
    }


def add_updates(net: nn.Module, weights: Mapping[str, Tensor], updates: Iterable[TaskUpdate]) -> None:
    """What `compose` gives where nothing is cast, summed into the weights themselves: to the last bit the same.

    Args:
        net: as for `compose`.
        weights: {parameter name: tensor} of everything an update may touch, float32 or float64; changed in place.
        updates: iterated once; none of them is "cumulative".

    Raises:
        UserError: as `compose`; updates before that one are added.
    """
    sums = dict(weights)
    for update in updates:
        assert update.kind != "cumulative"
        if update.kind != "head":
            _add(net, weights, sums, update)


def rounding_loss(net: nn.Module, base: Mapping[str, Tensor], updates: Iterable[TaskUpdate]) -> float:
    """Share of the summed update dW lost in the cast of `compose`: 1 - <cast(base + dW) - base, dW> / |dW|^2.

    0.0 without updates and on a base of float32 or wider, where nothing is cast. Arguments as for `compose`.
    """
    if all(weight.dtype == _wide(weight.dtype) for weight in base.values()):
        return 0.0
    arrived = meant = 0.0
    for name, exact in _exact_sums(net, base, updates).items():
        for part, start in _pieces(exact, base[name]):
            wide = start.double()
            update = part.double() - wide
            arrived += float((update * (part.to(start.dtype).double() - wide)).sum())
            meant += float(update.square().sum())
    return 1 - arrived / meant if meant else 0.0


def distance(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the difference over all of `base`."""
    squares = [
        (part.double() - start.double()).square().sum()
        for name in base
        for part, start in _pieces(weights[name], base[name])
    ]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same 2^17 elements of each at a time: what is computed of them stays in the processor's cache."""
    return zip(*(tensor.reshape(-1).split(2**17) for tensor in tensors), strict=True)


Architecture = list[tuple[str, str, tuple[int, ...] | None]]


def architecture(net: nn.Module) -> Architecture:
    """Type of every module and shape of every parameter, by name: what a forward pass of a network costs."""
    modules = [(name, type(module).__qualname__, None) for name, module in net.named_modules()]
    return [*modules, *((name, "parameter", tuple(weight.shape)) for name, weight in net.named_parameters())]


def write_weights(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the plain network's parameters of the same names, in place."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            net.get_parameter(name).copy_(tensor)


def consolidate(model: nn.Module, prox: ProximalStep | None = None) -> nn.Module:
    """Prune, merge and unwrap: the plain network with updated weights, ready for the next `get_peft_model`.

    Ranks whose gate is zero add nothing, so pruning needs no step of its own. Each weight is computed in at
    least float32 and cast once; after many tasks on a bf16 base, composing stored updates loses less. As PEFT
    leaves it, no parameter of the network requires a gradient.

    Args:
        prox: when given, it is checked that it fired.

    Raises:
        UserError: `model` has no adapter.
        ValueError: its weights are quantised; keep `TaskUpdate.from_model` instead.
        RuntimeError: `prox` never fired.
    """
    if prox is not None:
        prox.check_fired()
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            check_mergeable(layer.get_base_layer())
    return _tuner(model).merge_and_unload()


def unwrap(model: nn.Module) -> nn.Module:
    """The plain network with the weights it had before the adapter, which is dropped.

    Raises:
        UserError: `model` has no adapter.
    """
    return _tuner(model).unload()


def _tuner(model: nn.Module) -> BaseTuner:
    for module in model.modules():
        if isinstance(module, BaseTuner):
            return module
    raise UserError(
        f"{type(model).__name__} has no adapter to take off; pass what peft.get_peft_model returned"
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _exact_sums(
    net: nn.Module, base: Mapping[str, Tensor], updates: Iterable[TaskUpdate]
) -> dict[str, Tensor]:
    """The weights before the cast, only of parameters that an update touches."""
    sums: dict[str, Tensor] = {}
    cumulative = None
    for update in updates:
        if update.kind == "cumulative":
            cumulative = update
        elif update.kind != "head":  # a head stands beside the network
            _add(net, base, sums, update)
    if cumulative is not None:
        _add(net, base, sums, cumulative)
    return sums


@torch.no_grad()
def _add(net: nn.Module, base: Mapping[str, Tensor], sums: dict[str, Tensor], update: TaskUpdate) -> None:
    modules = dict(net.named_modules())
    for name, (A_KD, B_OK) in update.factors.items():
        layer = modules.get(name)
        if isinstance(layer, LoraLayer):  # the next adapter may be in its place already
            layer = layer.get_base_layer()
        if not isinstance(layer, nn.Linear | Conv1D):
            there = "is missing" if layer is None else f"is {type(layer).__name__}, not a linear layer,"
            raise UserError(
                f"an update adapts {name}, which {there} in the base model; "
                "use the base model it was trained on"
            )
        left, right = (A_KD.T, B_OK.T) if isinstance(layer, Conv1D) else (B_OK, A_KD)
        weight = _accumulator(base, sums, f"{name}.weight", torch.Size((left.shape[0], right.shape[1])))
        weight.addmm_(left.to(weight), right.to(weight))
    for name, tensor in update.tensors.items():
        weight = _accumulator(base, sums, name, tensor.shape)
        weight.add_(tensor.to(weight))


def _accumulator(base: Mapping[str, Tensor], sums: dict[str, Tensor], name: str, shape: torch.Size) -> Tensor:
    if name not in base or base[name].shape != shape:
        there = f"has shape {tuple(base[name].shape)}" if name in base else "is missing"
        raise UserError(
            f"an update changes {name} of shape {tuple(shape)}, which {there} in the base model; "
            "use the base model it was trained on"
        )
    if name not in sums:
        sums[name] = base[name].detach().to(_wide(base[name].dtype), copy=True)
    return sums[name]
