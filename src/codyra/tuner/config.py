"""CodyraConfig: the options of the tuner, and everything that does not go together with rank selection."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, get_args

from peft import LoraConfig

from codyra.tuner.compat import CODYRA

GateInit = Literal["normal", "ones"]

# LoRA options that the gated update has no meaning for, and what to do instead.
_REFUSED = {
    "use_rslora": "the update B diag(w) A has no alpha/r scale; remove it",
    "use_dora": "rank gates and magnitude vectors do not combine; remove it or use peft's LoraConfig",
    "lora_bias": "biases stay frozen; remove it",
    "alpha_pattern": "the update has no alpha/r scale; remove it and use rank_pattern for ranks",
    "target_parameters": "only linear modules are adapted; name them in target_modules",
    "layer_replication": "replicated layers cannot be merged; remove it",
    "megatron_config": "megatron layers are not supported; remove it",
    "use_qalora": "the update must have the shape of the weight; remove it",
}


@dataclass
class CodyraConfig(LoraConfig):
    """Configuration of a rank-selective LoRA adapter, dW = B diag(w) A (arXiv 2412.01004).

    Takes every argument of `peft.LoraConfig`; these differ:

    Args:
        r: ranks per adapted linear at the start of a task, at least 1; `rank_pattern` changes it per module.
        lora_alpha: not an option of the method; r unless given, and any other value is refused.
        gate_init: "normal" draws the gates w from N(0, 1) as the paper does; "ones" starts them at one.

    Raises:
        ValueError: an option does not go together with rank selection (DoRA, rsLoRA, lora_bias, ...).
    """

    r: int = field(default=16, metadata={"help": "Ranks per adapted linear at the start of a task."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Always r: there is no alpha/r scale."})
    gate_init: GateInit = field(default="normal", metadata={"help": "How the gates start: N(0, 1) or ones."})

    def __post_init__(self) -> None:
        self._check_ranks()
        if self.gate_init not in get_args(GateInit):
            raise ValueError(f"CodyraConfig: gate_init={self.gate_init!r} is unknown; use 'normal' or 'ones'")
        if self.init_lora_weights is not True:
            raise ValueError(
                f"CodyraConfig: init_lora_weights={self.init_lora_weights!r} is not supported; remove it: "
                "A starts kaiming-uniform and B at zero"
            )
        if self.bias != "none":
            raise ValueError(
                f"CodyraConfig: bias={self.bias!r} is not supported: biases stay frozen; remove it"
            )
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"CodyraConfig: lora_dropout={self.lora_dropout} must be at least 0 and below 1")
        for option in dataclasses.fields(LoraConfig):
            remedy = _REFUSED.get(option.name)
            if remedy is None and option.metadata.get("is_lora_variant"):
                remedy = "a LoRA variant cannot be gated; remove it"
            if remedy is not None and getattr(self, option.name):
                raise ValueError(f"CodyraConfig: {option.name} is not supported: {remedy}")
        super().__post_init__()
        self.peft_type = CODYRA

    def _check_ranks(self) -> None:
        ranks = {"r": self.r} | {f"rank_pattern[{key!r}]": rank for key, rank in self.rank_pattern.items()}
        for where, rank in ranks.items():
            if type(rank) is not int or rank < 1:
                raise ValueError(f"CodyraConfig: {where}={rank!r} must be a whole number, at least 1")
        if self.lora_alpha is None:
            self.lora_alpha = self.r
        if self.lora_alpha != self.r:
            raise ValueError(
                f"CodyraConfig: lora_alpha={self.lora_alpha} must equal r={self.r}: the update has no "
                "alpha/r scale; remove it"
            )
