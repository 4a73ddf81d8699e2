"""Attention in bfloat16 on CPUs: as good as torch's own, and only where it is meant."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from codyra.tuner.attention import LONGEST, NAME, ShortAttention, attention, short_attention
from tiny_nets import clip_batch, tiny_clip


def heads(length=9, dtype=torch.float64, spread=1.0):
    generator = torch.Generator().manual_seed(0)
    return [
        (spread * torch.randn(2, 3, length, 8, generator=generator)).to(dtype).requires_grad_()
        for _ in range(3)
    ]


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_the_derivatives(causal):
    q, k, v = heads()
    assert torch.autograd.gradcheck(lambda q, k, v: ShortAttention.apply(q, k, v, 0.4, causal), (q, k, v))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=0.4)
    torch.testing.assert_close(ShortAttention.apply(q, k, v, 0.4, causal), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("spread", [1.0, 3.0], ids=["flat", "peaked"])
def test_as_near_to_the_truth_as_the_eager_form(causal, spread):
    """Errors of outputs and gradients against float64, in bfloat16; transformers' eager form rounds at the same places.

    torch's kernel keeps the scores in float32: twice as near where they are flat, several times where they are peaked.
    """
    found = {}
    hidden = torch.ones(64, 64, dtype=torch.bool).triu(1) if causal else torch.zeros(64, 64, dtype=torch.bool)
    for how in ("exact", "eager", "ours", "torch"):
        leaves = [part.detach().bfloat16() for part in heads(64, spread=spread)]
        leaves = [(part.double() if how == "exact" else part).requires_grad_() for part in leaves]
        q, k, v = leaves
        if how == "ours":
            out = ShortAttention.apply(q, k, v, 8**-0.5, causal)
        elif how == "torch":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        else:
            out = (q @ k.mT * 8**-0.5).masked_fill(hidden, float("-inf")).softmax(dim=-1) @ v
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        found[how] = [out, *torch.autograd.grad(out, leaves, grad)]
    error = {
        how: [_distance(part, exact) for part, exact in zip(found[how], found["exact"], strict=True)]
        for how in found
    }
    assert all(ours < 1.2 * eager for ours, eager in zip(error["ours"], error["eager"], strict=True))
    if spread == 1:
        assert all(ours < 3 * torchs for ours, torchs in zip(error["ours"], error["torch"], strict=True))


def _distance(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


CALLS = {
    "short": (True, {}),
    "causal": (True, {"is_causal": True}),
    "float32": (False, {"dtype": torch.float32}),
    "long": (False, {"length": LONGEST + 1}),
    "mask": (False, {"mask": torch.zeros(1, 1, 9, 9, dtype=torch.bfloat16)}),
    "dropout": (False, {"dropout": 0.1}),
    "without gradients": (False, {"grad": False}),
}


@pytest.mark.parametrize("case", CALLS)
def test_when_it_is_ours(case):
    ours, options = CALLS[case]
    q, k, v = heads(options.pop("length", 9), options.pop("dtype", torch.bfloat16))
    with torch.set_grad_enabled(options.pop("grad", True)):
        mask = options.pop("mask", None)
        out, weights = attention(nn.Identity(), q, k, v, mask, **{"is_causal": False} | options)
    assert (out.shape, weights) == ((2, q.shape[2], 3, 8), None)
    names, nodes = set(), [out.grad_fn]
    while nodes:
        if (node := nodes.pop()) is not None:
            names.add(type(node).__name__)
            nodes.extend(following for following, _ in node.next_functions)
    assert ("ShortAttentionBackward" in names) == ours


def test_a_model_without_the_switch_in_its_call_is_asked_whether_it_is_causal():
    q, k, v = heads(dtype=torch.bfloat16)
    module = nn.Identity()
    module.is_causal = False
    looks_around, _ = attention(module, q, k, v, None)
    module.is_causal = True
    looks_back, _ = attention(module, q, k, v, None)
    assert torch.equal(looks_around[:, -1], looks_back[:, -1])
    assert not torch.allclose(looks_around[:, 0], looks_back[:, 0], atol=0.1)


def words(config, **options):
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return config(**sizes, num_attention_heads=2, **options)


NETS = {
    "clip": lambda: tiny_clip(),
    "bert": lambda: BertModel(words(BertConfig)),
    "llama": lambda: LlamaForCausalLM(words(LlamaConfig, num_key_value_heads=1)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_trains_alike_and_is_left_as_it_was(name, tmp_path):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    batch = clip_batch() if name == "clip" else {"input_ids": clip_batch()["input_ids"]}

    def result():
        with torch.autocast("cpu", torch.bfloat16):
            out = net(**batch)
        return out.image_embeds @ out.text_embeds.T if name == "clip" else out[0]

    before = result()
    with short_attention(net):
        assert {
            module.config._attn_implementation for module in net.modules() if hasattr(module, "config")
        } == {NAME}
        torch.testing.assert_close(result(), before, atol=0.03, rtol=0.03)
        net.save_pretrained(tmp_path)
    assert torch.equal(result(), before)
    assert {module.config._attn_implementation for module in net.modules() if hasattr(module, "config")} == {
        "sdpa"
    }
    assert NAME not in json.loads((tmp_path / "config.json").read_text()).values()


def test_another_choice_of_the_user_stays():
    net = tiny_clip()
    net.set_attn_implementation("eager")
    with short_attention(net):
        assert net.config._attn_implementation == "eager"
    assert net.config._attn_implementation == "eager"
    with short_attention(nn.Linear(2, 2)):
        pass


def test_a_tower_may_have_another_choice():
    net = tiny_clip()
    net.set_attn_implementation({"vision_config": "eager"})

    def choices():
        return [module.config._attn_implementation for module in (net, net.text_model, net.vision_model)]

    before = choices()
    assert before == ["sdpa", "sdpa", "eager"]
    with short_attention(net):
        assert choices() == [NAME, NAME, "eager"]
    assert choices() == before
