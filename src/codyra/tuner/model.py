"""CodyraModel: which modules of a network are adapted, and which are refused before anything changes."""

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from codyra.tuner.compat import BaseTunerLayer, LoraModel, NonDynamicallyQuantizableLinear, expand_targets
from codyra.tuner.config import CodyraConfig
from codyra.tuner.layer import GatedLinear
from codyra.tuner.quick_gelu import make_lean

# These read the weights of their linears directly, so an adapter around such a linear would never be called.
_PACKED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
_PACKED_REMEDY = (
    "exclude it, or use a network with separate q, k, v linears (for an open_clip model: the Hugging Face "
    "CLIPModel of the same checkpoint)"
)


class CodyraModel(LoraModel):
    """PEFT's LoraModel with gated layers; made by `peft.get_peft_model(net, CodyraConfig(...))`.

    Raises:
        ValueError: a target is not a linear (packed attention, embedding, convolution); the network is unchanged
            then.
    """

    def _prepare_model(self, peft_config: CodyraConfig, model: nn.Module) -> None:
        """PEFT calls this before it replaces the first module."""
        targets = expand_targets(peft_config, model)
        packed: list[str] = []
        adapted: list[str] = []
        for name, module in model.named_modules():
            if any(name.startswith(prefix) for prefix in adapted):
                continue  # inside an adapter that is already there
            if isinstance(module, BaseTunerLayer):
                adapted.append(f"{name}.")
            if name and self._check_target_module_exists(targets, name):
                if any(name.startswith(prefix) for prefix in packed):
                    raise ValueError(
                        f"codyra cannot adapt {name!r} inside packed attention; {_PACKED_REMEDY}"
                    )
                _check_supported(module, name)
            if isinstance(module, _PACKED):
                packed.append(f"{name}." if name else "")

    def inject_adapter(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        """PEFT calls this once per adapter, to put it on; taking the adapters off brings the activations back."""
        super().inject_adapter(model, *args, **kwargs)
        make_lean(model)

    @staticmethod
    def _create_new_module(
        lora_config: CodyraConfig, adapter_name: str, target: nn.Module, **kwargs: Any
    ) -> GatedLinear:
        _check_supported(target, kwargs["target_name"])
        return GatedLinear(target, adapter_name, config=lora_config, **kwargs)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: PEFT would combine A and B and forget the gates."""
        raise ValueError(
            "add_weighted_adapter knows no gates; use codyra.update.compose on TaskUpdates instead"
        )


def _check_supported(module: nn.Module, name: str) -> None:
    kind = type(module).__name__
    if isinstance(module, GatedLinear):
        return
    if isinstance(module, nn.MultiheadAttention | NonDynamicallyQuantizableLinear):
        raise ValueError(f"codyra cannot adapt {name!r} ({kind}), packed attention; {_PACKED_REMEDY}")
    if not isinstance(module, nn.Linear | Conv1D):
        raise ValueError(
            f"codyra cannot adapt {name!r} ({kind}): only nn.Linear and transformers' Conv1D are supported; "
            "choose target_modules among the linears"
        )
