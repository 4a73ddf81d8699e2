"""Training under FSDP2 or DeepSpeed: on a copy of the network, so that the plain one never belongs to a wrapper.

Both take over modules, parameters and optimizer and give nothing back. What a task trained is gathered from the copy
into the adapters of the plain network, and the loop goes on with that one as if nothing had been sharded.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.tensor import DTensor

from codyra.engine.config import TrainConfig
from codyra.errors import UserError
from codyra.families import Family
from codyra.methods import TaskContext

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
"""Where no process holds all parameters and moments."""


def set_up_sharding(accelerator: Accelerator, train: TrainConfig) -> None:
    """Hand the options of a run to the wrapper that accelerate's config asks for.

    Raises:
        UserError: under this config of accelerate, training would go wrong.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        refused = {
            "fsdp_version: 2": plugin.fsdp_version != 2,
            # Scoring needs the weights on every process.
            "fsdp_cpu_ram_efficient_loading: false": plugin.cpu_ram_efficient_loading,
            "fsdp_activation_checkpointing: false, and train.gradient_checkpointing=true in codyra's": (
                plugin.activation_checkpointing
            ),
        }
        _refuse("fsdp_config", refused)
        # Autocast as on one process; this policy would round adapters and the residual stream as well.
        plugin.mixed_precision_policy = None
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        settings = plugin.deepspeed_config
        refused = {
            "zero_stage: 2": plugin.zero_stage != 2,
            "offload_optimizer_device: none": plugin.offload_optimizer_device not in (None, "none"),
            "no optimizer and no scheduler": "optimizer" in settings or "scheduler" in settings,
            "train.precision=fp32 in codyra's (model.dtype=bfloat16 halves the weights)": train.precision
            != "fp32",
        }
        _refuse("deepspeed_config", refused)
        # DeepSpeed clips and steps inside `backward`, and wants to know a batch size that it has no use for.
        settings |= {"gradient_accumulation_steps": 1, "train_micro_batch_size_per_gpu": 1}
        settings["gradient_clipping"] = train.clip or 0.0


def _refuse(section: str, refused: Mapping[str, bool]) -> None:
    for remedy, wrong in refused.items():
        if wrong:
            raise UserError(f"{section} of accelerate's config: codyra trains right only with {remedy}")


@contextmanager
def trained_apart(family: Family, ctx: TaskContext, accelerator: Accelerator) -> Iterator[None]:
    """Put a copy of the network in the place of the plain one while it is trained sharded.

    What was trained is in the plain network afterwards, on every process.
    """
    if accelerator.distributed_type not in SHARDED:
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
