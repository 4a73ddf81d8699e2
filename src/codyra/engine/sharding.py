"""Training under FSDP2 or DeepSpeed: on a copy of the network, so that the plain one never belongs to a wrapper.

Both take over modules, parameters and optimizer and give nothing back. What a task trained is gathered from the copy
into the adapters of the plain network, and the loop goes on with that one as if nothing had been sharded.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.tensor import DTensor

from codyra.errors import UserError
from codyra.families import Family
from codyra.methods import TaskContext

WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where every process holds all parameters and moments."""


def check_sharding(accelerator: Accelerator) -> None:
    """Look for settings of accelerate under which training would go wrong.

    Raises:
        UserError: there is one.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise UserError(
                "accelerate's config: FSDP 1 is not supported; set fsdp_version: 2 in its fsdp_config"
            )
        if plugin.cpu_ram_efficient_loading:
            raise UserError(
                "accelerate's config: every process needs the weights, to score with them; set "
                "fsdp_cpu_ram_efficient_loading: false in its fsdp_config"
            )
        if plugin.activation_checkpointing:
            raise UserError(
                "accelerate's config: set fsdp_activation_checkpointing: false in its fsdp_config and "
                "train.gradient_checkpointing=true in codyra's"
            )
        # Autocast as with one process; this policy would round the adapters and the residual stream as well.
        plugin.mixed_precision_policy = None


@contextmanager
def trained_apart(family: Family, ctx: TaskContext, accelerator: Accelerator) -> Iterator[None]:
    """Put a copy of the network in the place of the plain one while it is trained sharded.

    What was trained is in the plain network afterwards, on every process.
    """
    if accelerator.distributed_type in WHOLE:
        yield
        return
    plain, model, device = ctx.net, ctx.model, family.device
    family.to("cpu")
    ctx.net, ctx.model = copy.deepcopy((plain, model))
    family.net = ctx.net
    try:
        yield
        with torch.no_grad():
            for name, weight in ctx.net.named_parameters():
                if weight.requires_grad:
                    plain.get_parameter(name).copy_(whole(weight))
    finally:
        family.net, ctx.net, ctx.model = plain, plain, model
    family.to(device)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor whose shards the processes hold; every process takes part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
