"""The gated linear: y = W x + b + B (w * (A x)), a LoRA layer with one weight per rank.

Shapes: N samples (any leading dimensions), D in features, O out features, R ranks.
A is (R, D), B is (O, R), the gate w is (R,). W is (O, D) in nn.Linear and (D, O) in transformers' Conv1D.
"""

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from codyra.tuner.compat import BaseTuner, LoraLayer, LoraLinear, LoraVariant
from codyra.tuner.config import CodyraConfig, GateInit
from codyra.tuner.fused import GatedProduct, Operands, operands
from codyra.tuner.products import as_rows


class Gate(nn.Module):
    """The rank weights of one adapter in one layer: `weight`, shape (R,).

    A module and not a bare parameter, because sharding wraps modules that own a trainable `weight`.
    `proximal` tells whether a ProximalStep was ever attached to it.
    """

    proximal = False

    def __init__(self, r: int, init: GateInit, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(r, device=device, dtype=dtype))
        if init == "normal":
            nn.init.normal_(self.weight)
        else:
            nn.init.ones_(self.weight)

    def forward(self, low_NR: Tensor) -> Tensor:
        return low_NR * self.weight


class GatedVariant(LoraVariant):
    """What PEFT asks of a LoRA variant: how to start, run forward, merge and unmerge."""

    @staticmethod
    def init(module: "GatedLinear", adapter_name: str, config: CodyraConfig, **kwargs: Any) -> None:
        like = module.lora_A[adapter_name].weight
        r = module.r[adapter_name]
        module.lora_gate[adapter_name] = Gate(r, config.gate_init, like.device, like.dtype)

    @staticmethod
    def forward(
        module: "GatedLinear", active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        low_NR = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))
        delta_NO = module.lora_B[active_adapter](module.lora_gate[active_adapter](low_NR))
        scale = module.scaling[active_adapter]  # 1 unless PEFT's own rescaling helpers changed it
        return result + (delta_NO if scale == 1 else delta_NO * scale)

    @staticmethod
    def merge_safe(module: "GatedLinear", active_adapter: str, orig_weight: Tensor) -> Tensor:
        check_mergeable(module.get_base_layer())
        return _add_and_cast_once(orig_weight, module.get_delta_weight(active_adapter))

    @staticmethod
    def merge_unsafe(module: "GatedLinear", active_adapter: str, orig_weight: Tensor) -> None:
        orig_weight.data = GatedVariant.merge_safe(module, active_adapter, orig_weight.data)

    @staticmethod
    def unmerge(module: "GatedLinear", active_adapter: str, orig_weight: Tensor) -> Tensor:
        return _add_and_cast_once(orig_weight.data, -module.get_delta_weight(active_adapter))


def _add_and_cast_once(weight: Tensor, delta: Tensor) -> Tensor:
    """weight + delta in the wider dtype, at least float32, cast once: bf16 sums swallow small updates."""
    wide = torch.promote_types(weight.dtype, delta.dtype)
    return (weight.to(wide) + delta.to(wide)).to(weight.dtype)


def check_mergeable(layer: nn.Module) -> None:
    """Refuse a base layer of bitsandbytes: every merge into quantised weights rounds all of them again.

    Raises:
        ValueError: it is one.
    """
    if type(layer).__module__.startswith("bitsandbytes"):
        raise ValueError(
            f"nothing is merged into quantised weights ({type(layer).__name__}): save "
            "codyra.TaskUpdate.from_model(model, prox=...) and merge it into the model in 16 or 32 bit"
        )


class GatedLinear(LoraLinear):
    """A linear with gated adapters: `lora_A`, `lora_B` and `lora_gate`, keyed by adapter name.

    The linear is an nn.Linear, a Conv1D, or one of bitsandbytes in 8 or 4 bit, into which nothing can be merged.
    """

    adapter_layer_names = (*LoraLayer.adapter_layer_names, "lora_gate")
    fused = True
    """Whether `forward` may take one step of autograd for all parts; `GatedLinear.fused = False` shows each of them."""
    smallest_fused = 2**25
    """Multiplications N * D * O of the base; below it a step of our own takes longer than the parts do."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: CodyraConfig, **kwargs: Any) -> None:
        super().__init__(base_layer, adapter_name, config=config, **kwargs)
        # The type of the layer, not the user, knows how its weight lies.
        self.fan_in_fan_out = isinstance(self.get_base_layer(), Conv1D)

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: int, config: CodyraConfig, **kwargs: Any
    ) -> None:
        """Add one adapter. PEFT calls this from its own constructor, hence the container is made here."""
        if "lora_gate" not in self._modules:
            self.lora_gate = nn.ModuleDict()
        # alpha = r also where rank_pattern changes r: the update has no alpha/r scale.
        super().update_layer(adapter_name, r, lora_alpha=r, config=config, **kwargs)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., D) to (..., O): in one step where that gives the same (fused.py), else part by part."""
        found = None if args or kwargs else self._operands(x)
        if found is None:
            return super().forward(x, *args, **kwargs)
        W_OD, b_O, A_RD, gate_R, B_OR = found
        y_NO = GatedProduct.apply(as_rows(x), W_OD, b_O, A_RD, gate_R, B_OR)
        return y_NO.view(*x.shape[:-1], self.out_features)

    def _operands(self, x: Tensor) -> Operands | None:
        """What is multiplied in one step; None where the parts are called one by one."""
        if not self.fused or x.is_nested or x.numel() * self.out_features < self.smallest_fused:
            return None
        adapter = self._only_adapter()
        found = None if adapter is None else operands(self, adapter)
        if found is None or self.scaling[adapter] == 1:
            return found
        W_OD, b_O, A_RD, gate_R, B_OR = found
        return W_OD, b_O, A_RD, gate_R * self.scaling[adapter], B_OR

    def _only_adapter(self) -> str | None:
        """The adapter that computes, where it is one that is not merged."""
        if self.disable_adapters or self.merged:
            return None
        here = [adapter for adapter in self.active_adapters if adapter in self.lora_A]
        return here[0] if len(here) == 1 else None

    def resolve_lora_variant(self, *, config: CodyraConfig, **kwargs: Any) -> GatedVariant:
        return GatedVariant()

    def factors(self, adapter: str) -> tuple[Tensor, Tensor, Tensor]:
        """A (R, D), B (O, R) and the gate (R,) times PEFT's scaling, each at least float32."""
        parts: list[Any] = [part[adapter].weight for part in (self.lora_A, self.lora_B, self.lora_gate)]
        A_RD, B_OR, gate_R = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts)
        return A_RD, B_OR, gate_R * self.scaling[adapter]

    def get_delta_weight(self, adapter: str) -> Tensor:
        """B diag(w) A, laid out like the base weight, in the wider of float32 and the adapter's dtype."""
        A_RD, B_OR, gate_R = self.factors(adapter)
        delta_OD = (B_OR * gate_R) @ A_RD
        return delta_OD.T if self.fan_in_fan_out else delta_OD

    def _get_base_layer_device_and_dtype(
        self, base_layer: nn.Module
    ) -> tuple[torch.device | None, torch.dtype | None]:
        # PEFT gives an adapter the dtype this returns: never below float32, and float64 on a float64 base.
        device, dtype = super()._get_base_layer_device_and_dtype(base_layer)
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
            dtype = torch.promote_types(dtype, torch.float32)
        return device, dtype


def plain_network(model: nn.Module) -> nn.Module:
    """The user's own network under PEFT's and data-parallel wrappers; its names are the base model's."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:  # torch.compile; asking for its type would import the compiler
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, PeftModel):
            model = model.get_base_model()
        elif isinstance(model, BaseTuner):
            model = model.model
        else:
            return model


def named_gates(model: nn.Module) -> Iterator[tuple[str, Gate]]:
    """Every gate of the model, in the order of its modules: ("<module>.lora_gate.<adapter>", gate)."""
    for name, module in plain_network(model).named_modules():
        if isinstance(module, Gate):
            yield name, module
