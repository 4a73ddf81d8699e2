"""The model that a penalty distils from, in the place of the one that is trained; no second network is held.

`previous` is the model as the task found it: adapters are switched off, and where the weights themselves are trained
those from before the task, which full fine-tuning keeps anyway, take their place. `pretrained` is the base model.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from codyra.methods.context import TaskContext
from codyra.tuner import adapters_off

Teacher = Literal["previous", "pretrained"]


@contextmanager
def teaching(ctx: TaskContext, teacher: Teacher) -> Iterator[None]:
    """While this is open, the network of `ctx` computes what the teacher does, without gradients.

    What is trained keeps its values and its part in graphs that were built before.
    """
    weights = ctx.state.get("before", {}) if teacher == "previous" else _pretrained(ctx)
    with torch.no_grad(), adapters_off(ctx.net), _in_place(ctx.net, weights):
        yield


def plain_parameter(net: nn.Module, name: str) -> nn.Parameter:
    """The parameter that has this name in the plain network, also where an adapter sits on its layer."""
    module, _, own_name = name.rpartition(".")
    layer = net.get_submodule(module)
    return (layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer).get_parameter(own_name)


def _pretrained(ctx: TaskContext) -> Mapping[str, Tensor]:
    """The base weights on the network's device; on a CPU they are those of the context itself."""
    if "pretrained" not in ctx.state:
        device = next(ctx.net.parameters()).device
        ctx.state["pretrained"] = {name: weight.to(device) for name, weight in ctx.base.items()}
    placed: dict[str, Tensor] = ctx.state["pretrained"]
    return placed


@contextmanager
def _in_place(net: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let parameters point to these tensors, and back; nothing is copied."""
    parameters = {name: plain_parameter(net, name) for name in weights}
    own = {name: parameter.data for name, parameter in parameters.items()}
    # Autocast remembers the bfloat16 form of a parameter, whatever it points to.
    torch.clear_autocast_cache()
    try:
        for name, weight in weights.items():
            parameters[name].data = weight
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
        torch.clear_autocast_cache()
