"""The `targets` of docs/config.md, on the real module trees."""

import pytest
import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from codyra.errors import UserError
from codyra.families.targets import find_targets

SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def test_every_block_linear_of_both_clip_towers_and_nothing_else(load):
    clip = load("clip")
    names = clip.target_modules("all")
    assert len(names) == 2 * 2 * 6
    assert all(".encoder.layers." in name for name in names)
    assert {name.rsplit(".", 1)[1] for name in names} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "fc1",
        "fc2",
    }


def test_siglips_packed_pooling_head_is_no_target(load):
    siglip = load("siglip")
    names = siglip.target_modules("all")
    assert len(names) == 2 * 2 * 6
    assert not any("head" in name for name in names)
    # A suffix means block linears only, although the pooling head has an out_proj and an fc1 too.
    assert all(".layers." in name for name in siglip.target_modules(["out_proj", "fc1"]))
    with pytest.raises(UserError, match="matches no linear"):
        siglip.target_modules(["vision_model.head.attention.out_proj"])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_and_parts_split_the_whole(load, kind):
    family = load(kind)
    whole = set(family.target_modules("all"))
    for one, other in (("vision", "text"), ("attention", "mlp")):
        first, second = set(family.target_modules(one)), set(family.target_modules(other))
        assert first | second == whole
        assert not first & second
    assert all(name.startswith("vision_model.") for name in family.target_modules("vision"))
    assert len(family.target_modules("attention")) == 2 * 2 * 4


def test_a_sentence_encoder_has_one_tower(load):
    bert = load("bert")
    assert bert.target_modules("text") == bert.target_modules("all")
    assert len(bert.target_modules("attention")) == 2 * 4
    assert len(bert.target_modules("mlp")) == 2 * 2
    assert "pooler.dense" not in bert.target_modules("all")
    with pytest.raises(UserError, match="no vision tower; use one of all, all-linear, text, attention, mlp"):
        bert.target_modules("vision")


@pytest.mark.parametrize(
    ("net_class", "config", "attention", "mlp"),
    [
        (
            DistilBertModel,
            DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
            8,
            4,
        ),
        (MPNetModel, MPNetConfig(**SMALL), 8, 4),
        (RobertaModel, RobertaConfig(**SMALL), 8, 4),
        (ModernBertModel, ModernBertConfig(**SMALL, pad_token_id=0), 4, 4),
    ],
)
def test_other_encoders_are_understood_by_their_structure(net_class, config, attention, mlp):
    net = net_class(config)
    assert len(find_targets(net, "attention", {"text": ""})) == attention
    assert len(find_targets(net, "mlp", {"text": ""})) == mlp
    assert len(find_targets(net, "all", {"text": ""})) == attention + mlp


def test_names(load):
    clip = load("clip")
    full = "text_model.encoder.layers.1.mlp.fc1"
    assert clip.target_modules([full]) == [full]
    assert clip.target_modules("layers.1.mlp.fc1") == [
        f"{tower}_model.encoder.layers.1.mlp.fc1" for tower in ("text", "vision")
    ]
    assert clip.target_modules(["visual_projection"]) == ["visual_projection"]
    # No half names, no repetition, order of the network.
    assert clip.target_modules(["fc2", "fc1", full]) == clip.target_modules("mlp")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("attn", r"'attn' matches no linear layer.*nearest name is 'attention'"),
        (["q_proj", "v_prj"], r"'v_prj' matches no linear layer.*'v_proj'"),
        (["proj"], "'proj' matches no linear"),
        ("visoin", "'vision'"),
        ([], "targets is empty"),
    ],
)
def test_what_matches_nothing_is_named(load, targets, message):
    with pytest.raises(UserError, match=message) as caught:
        load("clip").target_modules(targets)
    assert "\n" not in str(caught.value)


def test_trainable_parameters_of_the_published_setting():
    with torch.device("meta"):
        net = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}))
    names = find_targets(net, "all", {"vision": "vision_model.", "text": "text_model."})
    assert len(names) == 144
    rank = 16
    linears = [net.get_submodule(name) for name in names]
    assert all(isinstance(linear, nn.Linear) for linear in linears)
    # A, B and the gate of every target: docs/method.md.
    assert sum(rank * (linear.in_features + linear.out_features + 1) for linear in linears) == 4_425_984
