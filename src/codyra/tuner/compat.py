"""The one file that touches PEFT surface which PEFT does not promise to keep. Written against peft 0.21.2.

What is private or declared unstable there, and why it is needed here:
- `LoraVariant`: the hook into forward, merge and unmerge of a LoRA layer.
- `peft.mapping.PEFT_TYPE_TO_*`: `register_peft_method` refuses every name outside PEFT's own enum.
- `_maybe_include_all_linear_layers`: what "all-linear" will expand to, so that it can be checked beforehand.
- `BaseTunerLayer._disable_adapters`: PEFT's own switch also changes what requires a gradient.
- `OSFLayer._osf_*`: the bases that OSF projects gradients with, which its factors are projected with as well.
- `RankAllocator.exp_avg_ipt`, `exp_avg_unc`, `ipt` and AdaLoRA's `rank_pattern`: what a checkpoint inside a task holds.
- `NonDynamicallyQuantizableLinear` (torch): the type of MultiheadAttention.out_proj; its forward never runs.
Overridden by name in layer.py and model.py: `LoraLayer.resolve_lora_variant`, `LoraLayer.update_layer`,
`BaseTunerLayer._get_base_layer_device_and_dtype`, `LoraModel._prepare_model`, `LoraModel._create_new_module`; called by
name by PEFT in quick_gelu.py: `unload_and_optionally_merge_module`.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

import torch
from peft import LoraConfig, PeftType
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.lora.layer import LoraVariant
from peft.tuners.osf import OSFLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

__all__ = [
    "CODYRA",
    "BaseTuner",
    "BaseTunerLayer",
    "LoraLayer",
    "LoraLinear",
    "LoraModel",
    "LoraVariant",
    "NonDynamicallyQuantizableLinear",
    "adalora_state",
    "adapters_off",
    "expand_targets",
    "project_osf_factors",
    "register",
    "set_adalora_state",
]


class CodyraPeftType(str, Enum):  # noqa: UP042 - PEFT cuts its status tables out of str(Enum)
    """PEFT keys its tables by string enums, and transformers reads `.value`: a bare string would not do."""

    CODYRA = "CODYRA"


CODYRA = CodyraPeftType.CODYRA


def register(config_class: type[LoraConfig], model_class: type[LoraModel]) -> None:
    """Make peft and transformers know the type CODYRA; harmless when repeated."""
    if CODYRA.value in PeftType.__members__:
        warnings.warn(
            "peft has a tuner named CODYRA itself; in this process codyra's takes its place", stacklevel=2
        )
    PEFT_TYPE_TO_CONFIG_MAPPING[CODYRA] = config_class
    PEFT_TYPE_TO_TUNER_MAPPING[CODYRA] = model_class
    PEFT_TYPE_TO_PREFIX_MAPPING[CODYRA] = model_class.prefix


def expand_targets(config: LoraConfig, model: nn.Module) -> LoraConfig:
    """A copy of `config` in which "all-linear" is replaced by the names PEFT would choose."""
    return _maybe_include_all_linear_layers(copy.copy(config), model)


@contextmanager
def adapters_off(net: nn.Module) -> Iterator[None]:
    """While this is open, layers compute without their adapters, which keep their values and gradients."""
    layers = [module for module in net.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


@torch.no_grad()
def project_osf_factors(layer: OSFLayer, adapter: str) -> None:
    """Put U_low (O, R) and V_low (R, D) back at a right angle to the frozen directions, as OSF does with gradients.

    Where the factor is square these directions are not kept: there the start of U_low or V_low spans the complement.
    """
    factors = layer.osf_svd_params[adapter]
    U_OR, V_RD = factors["U_low"], factors["V_low"]
    if adapter in layer._osf_U_high:
        frozen_OK = layer._osf_U_high[adapter]
        U_OR.sub_(frozen_OK @ (frozen_OK.T @ U_OR))
    else:
        free_OR = layer._osf_U_low_init[adapter]
        U_OR.copy_(free_OR @ (free_OR.T @ U_OR))
    if adapter in layer._osf_V_high:
        frozen_KD = layer._osf_V_high[adapter]
        V_RD.sub_((V_RD @ frozen_KD.T) @ frozen_KD)
    else:
        free_RD = layer._osf_V_low_init[adapter]
        V_RD.copy_((V_RD @ free_RD.T) @ free_RD)


def adalora_state(tuner: AdaLoraModel) -> dict[str, Tensor]:
    """What AdaLoRA's allocation has gathered until now, by names of its parts and layers."""
    allocator, chosen = tuner.rankallocator, tuner.peft_config["default"].rank_pattern or {}
    return {
        **{f"sensitivity/{name}": average for name, average in allocator.exp_avg_ipt.items()},
        **{f"uncertainty/{name}": average for name, average in allocator.exp_avg_unc.items()},
        **{f"chosen/{name}": torch.tensor(kept) for name, kept in chosen.items()},
    }


def set_adalora_state(tuner: AdaLoraModel, state: Mapping[str, Tensor]) -> None:
    """Continue from what `adalora_state` gave."""
    parts: dict[str, dict[str, Tensor]] = {"sensitivity": {}, "uncertainty": {}, "chosen": {}}
    device = next(tuner.parameters()).device
    for key, value in state.items():
        part, name = key.split("/", 1)
        parts[part][name] = value.to(device)
    allocator = tuner.rankallocator
    allocator.exp_avg_ipt, allocator.exp_avg_unc = parts["sensitivity"], parts["uncertainty"]
    allocator.ipt = dict(allocator.exp_avg_ipt)  # overwritten at the next step; its names say what is there
    chosen = {name: kept.tolist() for name, kept in parts["chosen"].items()}
    tuner.peft_config["default"].rank_pattern = chosen or None
