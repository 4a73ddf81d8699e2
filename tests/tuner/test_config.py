"""CodyraConfig: what it refuses, always in one line that names a remedy."""

import pytest
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import VeloraConfig

from codyra.tuner import CodyraConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_alpha": 32}, "lora_alpha=32 must equal r=16"),
        ({"use_rslora": True}, "use_rslora.*remove it"),
        ({"use_dora": True}, "use_dora.*LoraConfig"),
        ({"lora_bias": True}, "lora_bias.*remove it"),
        ({"bias": "all"}, "bias='all'.*remove it"),
        ({"alpha_pattern": {"first": 8}}, "alpha_pattern.*rank_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'.*remove it"),
        ({"init_lora_weights": "gaussian"}, "init_lora_weights='gaussian'.*remove it"),
        ({"init_lora_weights": False}, "init_lora_weights=False.*remove it"),
        ({"target_parameters": ["w"]}, "target_parameters.*target_modules"),
        ({"layer_replication": [(0, 1)]}, "layer_replication.*remove it"),
        ({"velora_config": VeloraConfig()}, "velora_config.*remove it"),
        ({"gate_init": "zeros"}, "gate_init='zeros'.*'normal' or 'ones'"),
        ({"r": 0}, "r=0 must be a whole number, at least 1"),
        ({"r": -1}, "r=-1"),
        ({"r": 2.5}, "r=2.5"),
        ({"r": True}, "r=True"),
        ({"rank_pattern": {"first": 0}}, r"rank_pattern\['first'\]=0"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message) as refused:
        CodyraConfig(target_modules=["first"], **options)
    assert "\n" not in str(refused.value)


def test_everything_that_makes_peft_choose_another_layer_is_refused():
    """A new variant in a later PEFT is refused without a word here, because PEFT marks variants in its own config."""
    variants = {
        option.name
        for option in LoraConfig.__dataclass_fields__.values()
        if option.metadata.get("is_lora_variant")
    }
    assert {"use_dora", "velora_config", "arrow_config"} <= variants
    for name in variants - {"use_dora", "velora_config"}:
        with pytest.raises(ValueError, match=name):
            CodyraConfig(target_modules=["first"], **{name: object()})


def test_round_trip(tmp_path):
    config = CodyraConfig(
        r=6, target_modules=["first"], rank_pattern={"first": 3}, gate_init="ones", lora_dropout=0.1
    )
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is CodyraConfig
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.r, loaded.lora_alpha, loaded.gate_init) == (6, 6, "ones")
