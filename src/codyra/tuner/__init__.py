"""CoDyRA as a PEFT tuner: rank-weighted LoRA and the proximal step that selects ranks."""

from codyra.tuner import quiet  # noqa: F401 - first, because the others import peft
from codyra.tuner.attention import short_attention
from codyra.tuner.callback import CodyraCallback
from codyra.tuner.compat import adapters_off, register
from codyra.tuner.config import CodyraConfig
from codyra.tuner.layer import Gate, GatedLinear, check_mergeable, named_gates, plain_network
from codyra.tuner.model import CodyraModel
from codyra.tuner.products import quick_linears
from codyra.tuner.prox import ProximalStep, param_groups

__all__ = [
    "CodyraCallback",
    "CodyraConfig",
    "CodyraModel",
    "Gate",
    "GatedLinear",
    "ProximalStep",
    "adapters_off",
    "check_mergeable",
    "named_gates",
    "param_groups",
    "plain_network",
    "quick_linears",
    "short_attention",
]

register(CodyraConfig, CodyraModel)
