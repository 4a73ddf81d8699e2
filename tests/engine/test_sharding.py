"""Configs of accelerate under which training would go wrong are refused before anything is loaded."""

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from codyra.engine.config import TrainConfig
from codyra.engine.sharding import set_up_sharding
from codyra.errors import UserError


def fsdp(**settings):
    right = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "activation_checkpointing": False}
    plugin = SimpleNamespace(**(right | {"mixed_precision_policy": "bf16"} | settings))
    return SimpleNamespace(distributed_type=DistributedType.FSDP, state=SimpleNamespace(fsdp_plugin=plugin))


def deepspeed(config=(), **settings):
    right = {"zero_stage": 2, "offload_optimizer_device": "none", "deepspeed_config": dict(config)}
    plugin = SimpleNamespace(**(right | settings))
    return SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED, state=SimpleNamespace(deepspeed_plugin=plugin)
    )


@pytest.mark.parametrize(
    ("accelerator", "train", "message"),
    [
        (fsdp(fsdp_version=1), {}, "fsdp_version: 2"),
        (fsdp(cpu_ram_efficient_loading=True), {}, "fsdp_cpu_ram_efficient_loading: false"),
        (fsdp(activation_checkpointing=True), {}, "train.gradient_checkpointing=true"),
        (deepspeed(zero_stage=3), {}, "zero_stage: 2"),
        (deepspeed(offload_optimizer_device="cpu"), {}, "offload_optimizer_device: none"),
        (deepspeed({"optimizer": {"type": "AdamW"}}), {}, "no optimizer"),
        (deepspeed(), {"precision": "bf16"}, "train.precision=fp32"),
    ],
)
def test_what_would_train_wrong_is_refused(accelerator, train, message):
    with pytest.raises(UserError, match=message):
        set_up_sharding(accelerator, TrainConfig(**train))


def test_the_config_of_the_run_decides():
    sharded = fsdp()
    set_up_sharding(sharded, TrainConfig(precision="bf16"))
    assert sharded.state.fsdp_plugin.mixed_precision_policy is None
    for clip, told in ((0.5, 0.5), (None, 0.0)):
        zero = deepspeed({"gradient_clipping": 1.0, "gradient_accumulation_steps": 8})
        set_up_sharding(zero, TrainConfig(clip=clip))
        settings = zero.state.deepspeed_plugin.deepspeed_config
        assert settings["gradient_clipping"] == told
        assert settings["gradient_accumulation_steps"] == 1
