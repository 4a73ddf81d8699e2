"""What PEFT promises of a tuner, asked of every layer type; and the layers that are refused."""

import copy

import pytest
import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import CLIPConfig, CLIPModel, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from codyra.tuner import CodyraConfig, GatedLinear, named_gates
from codyra.update import TaskUpdate, consolidate
from tiny_nets import CLIP_TARGETS, TwoLayers, adapted, cosines, fill, tiny_clip

TARGETS = ["first", "second"]


class TunerProperties:
    """The mixin holds the tests; a subclass names the layer type."""

    layer: type[nn.Module]
    dtype = torch.float32
    tolerance = 1e-5

    @pytest.fixture
    def net(self):
        torch.manual_seed(0)
        return TwoLayers(self.layer).to(self.dtype)

    @pytest.fixture
    def x(self):
        return torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).to(self.dtype)

    @pytest.fixture
    def model(self, net):
        return adapted(net, CodyraConfig(r=4, target_modules=TARGETS)).eval()

    def close(self, left, right):
        torch.testing.assert_close(left, right, atol=self.tolerance, rtol=self.tolerance)

    def test_layers_are_gated(self, model, net):
        assert isinstance(net.first, GatedLinear)
        assert isinstance(net.second, GatedLinear)
        wide = torch.promote_types(self.dtype, torch.float32)
        for part, shape in (("lora_A", (4, 6)), ("lora_B", (8, 4)), ("lora_gate", (4,))):
            weight = getattr(net.first, part)["default"].weight
            assert (weight.shape, weight.dtype, weight.requires_grad) == (shape, wide, True)
        assert model(torch.ones(1, 6, dtype=self.dtype)).dtype == self.dtype

    def test_only_the_triple_trains(self, model):
        trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert len(trainable) == 6
        assert all("lora_" in name for name in trainable)

    def test_forward_is_the_formula(self, net, model, x):
        y = x.double()
        for layer in (net.first, net.second):
            A, B, w = (
                part["default"].weight.double() for part in (layer.lora_A, layer.lora_B, layer.lora_gate)
            )
            W = layer.weight.double().T if self.layer is Conv1D else layer.weight.double()
            y = y @ (W + B @ torch.diag(w) @ A).T + layer.bias.double()
            y = torch.tanh(y) if layer is net.first else y
        self.close(model(x), y.to(self.dtype))

    def test_fresh_adapter_changes_nothing(self, net, x):
        before = net(x)
        assert torch.equal(get_peft_model(net, CodyraConfig(r=4, target_modules=TARGETS))(x), before)

    def test_disabled_adapter_changes_nothing(self, net, x):
        before = net(x)
        model = adapted(net, CodyraConfig(r=4, target_modules=TARGETS)).eval()
        assert not torch.allclose(model(x), before)
        with model.disable_adapter():
            assert torch.equal(model(x), before)

    @pytest.mark.parametrize("safe", [False, True])
    def test_merge_is_the_forward_and_unmerge_undoes_it(self, net, model, x, safe):
        expected, weight = model(x), net.first.weight.detach().clone()
        model.merge_adapter(safe_merge=safe)
        self.close(model(x), expected)
        assert not torch.equal(net.first.weight, weight)
        model.unmerge_adapter()
        self.close(net.first.weight, weight)
        self.close(model(x), expected)

    def test_merging_twice_adds_once(self, model, x):
        expected = model(x)
        model.merge_adapter()
        with pytest.warns(UserWarning, match="already merged"):
            model.merge_adapter()
        self.close(model(x), expected)

    def test_safe_merge_refuses_nan_and_leaves_the_weight(self, net, model):
        weight = net.first.weight.detach().clone()
        with torch.no_grad():
            net.first.lora_gate["default"].weight[1] = float("nan")
        with pytest.raises(ValueError, match="NaNs detected"):
            model.merge_adapter(safe_merge=True)
        assert torch.equal(net.first.weight, weight)

    def test_round_trip(self, model, x, tmp_path):
        model.save_pretrained(tmp_path)
        torch.manual_seed(0)
        loaded = PeftModel.from_pretrained(TwoLayers(self.layer).to(self.dtype), tmp_path).eval()
        assert torch.equal(loaded(x), model(x))

    def test_low_memory_load(self, model, x, tmp_path):
        model.save_pretrained(tmp_path)
        torch.manual_seed(0)
        net = TwoLayers(self.layer).to(self.dtype)
        loaded = PeftModel.from_pretrained(net, tmp_path, low_cpu_mem_usage=True).eval()
        assert torch.equal(loaded(x), model(x))
        dtypes = {weight.dtype for name, weight in loaded.named_parameters() if "lora_" in name}
        assert dtypes == {torch.promote_types(self.dtype, torch.float32)}

    def test_deepcopy(self, model, x):
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), model(x))
        fill(twin)
        assert not torch.equal(twin(x), model(x))

    def test_several_adapters(self, net, model, x):
        default = model(x)
        model.add_adapter("other", CodyraConfig(r=3, target_modules=["second"], gate_init="ones"))
        assert torch.equal(model(x), default)
        fill(model, "other")
        model.set_adapter("other")
        other = model(x)
        assert not torch.equal(other, default)
        assert {name.split(".")[-1] for name, gate in named_gates(model) if gate.weight.requires_grad} == {
            "other"
        }
        names = ["default", "other", "__base__", "default", "other"]
        with model.disable_adapter():
            plain = model(x)
        expected = torch.stack(
            [{"default": default, "other": other, "__base__": plain}[n][i] for i, n in enumerate(names)]
        )
        self.close(model(x, adapter_names=names), expected)
        model.delete_adapter("other")
        assert [name for name, _ in named_gates(model)] == [
            "first.lora_gate.default",
            "second.lora_gate.default",
        ]
        model.set_adapter("default")
        assert torch.equal(model(x), default)

    def test_scaling_of_peft_helpers_is_obeyed(self, net, model, x):
        net.second.scale_layer(0.5)
        scaled = model(x)
        model.merge_adapter()
        self.close(model(x), scaled)

    def test_rank_pattern_changes_the_rank_and_not_the_scale(self, net, x):
        config = CodyraConfig(r=4, target_modules=TARGETS, rank_pattern={"second": 2})
        model = adapted(net, config).eval()
        assert (net.first.r["default"], net.second.r["default"]) == (4, 2)
        assert net.second.scaling["default"] == 1
        expected = model(x)
        model.merge_adapter()
        self.close(model(x), expected)

    def test_unloading_gives_the_plain_network(self, net, model, x):
        expected = model(x)
        plain = consolidate(model)
        assert plain is net
        assert type(plain.first) is self.layer
        assert not any("lora" in name for name, _ in plain.named_modules())
        self.close(plain(x), expected)
        again = get_peft_model(plain, CodyraConfig(r=4, target_modules=TARGETS)).eval()
        assert torch.equal(again(x), plain(x))

    def test_export_loads_in_stock_peft(self, model, x, tmp_path):
        TaskUpdate.from_model(model).save(tmp_path)
        torch.manual_seed(0)
        loaded = PeftModel.from_pretrained(TwoLayers(self.layer).to(self.dtype), tmp_path).eval()
        assert type(loaded.peft_config["default"]) is LoraConfig
        self.close(loaded(x), model(x))

    def test_dropout_acts_on_the_adapter_in_training_only(self, net, x):
        model = adapted(net, CodyraConfig(r=4, target_modules=TARGETS, lora_dropout=0.5))
        assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))


class TestGatedLinear(TunerProperties):
    layer = nn.Linear


class TestGatedConv1D(TunerProperties):
    layer = Conv1D


class TestGatedLinearDouble(TunerProperties):
    layer = nn.Linear
    dtype = torch.float64
    tolerance = 1e-12


class TestGatedLinearBfloat16(TunerProperties):
    layer = nn.Linear
    dtype = torch.bfloat16
    tolerance = 4e-2


def test_autocast_reaches_the_adapter():
    model = adapted(TwoLayers(), CodyraConfig(r=4, target_modules=TARGETS))
    x = torch.randn(5, 6)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(x)
        rough.float().sum().backward()
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
    for weight in (weight for weight in model.parameters() if weight.requires_grad):
        assert weight.grad.dtype == torch.float32


def test_adapters_stay_float32_without_peft_autocast():
    net = TwoLayers().bfloat16()
    get_peft_model(net, CodyraConfig(r=4, target_modules=TARGETS), autocast_adapter_dtype=False)
    assert {net.first.lora_A["default"].weight.dtype, net.first.lora_gate["default"].weight.dtype} == {
        torch.float32
    }


def test_gates_start_as_asked():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4))
    get_peft_model(net, CodyraConfig(r=4000, target_modules=["0"]))
    gate = net[0].lora_gate["default"].weight
    assert gate.mean().abs() < 0.1
    assert 0.95 < gate.std() < 1.05
    net = nn.Sequential(nn.Linear(4, 4))
    get_peft_model(net, CodyraConfig(r=3, target_modules=["0"], gate_init="ones"))
    assert net[0].lora_gate["default"].weight.tolist() == [1, 1, 1]


def test_conv1d_of_gpt2_needs_no_flag():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=8)
    net = GPT2LMHeadModel(config).eval()
    model = adapted(
        net, CodyraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], task_type="CAUSAL_LM")
    )
    ids = torch.arange(6)[None]
    expected = model.eval()(ids).logits
    torch.testing.assert_close(consolidate(model)(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_parameter_count_on_vit_b_16():
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    }
    with init_empty_weights():
        net = CLIPModel(CLIPConfig(text_config=text, vision_config=vision | {"patch_size": 16}))
    model = get_peft_model(net, CodyraConfig(r=16, target_modules=CLIP_TARGETS))
    trainable = {name: w.numel() for name, w in model.named_parameters() if w.requires_grad}
    assert sum(trainable.values()) == 4_425_984
    assert sum(n for name, n in trainable.items() if "vision_model" in name) == 2_655_360
    assert sum(n for name, n in trainable.items() if "text_model" in name) == 1_770_624
    assert len(list(named_gates(model))) == 144


def test_transformers_loads_disables_and_deletes(tmp_path):
    torch.manual_seed(0)
    net = tiny_clip()
    before = cosines(net)
    model = adapted(net, CodyraConfig(r=4, target_modules=CLIP_TARGETS))
    model.save_pretrained(tmp_path)
    expected = cosines(model)
    torch.manual_seed(0)
    other = tiny_clip()
    other.load_adapter(str(tmp_path))
    assert torch.equal(cosines(other), expected)
    other.disable_adapters()
    assert torch.equal(cosines(other), before)
    other.enable_adapters()
    other.delete_adapter("default")
    assert torch.equal(cosines(other), before)
    assert not list(named_gates(other))


# --- refusals


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 8)
        self.words = nn.Embedding(5, 8)
        self.pixels = nn.Conv2d(3, 8, 2)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("attention", "'attention' .*packed attention.*CLIPModel"),
        ("attention.out_proj", "'attention.out_proj' .*packed attention.*CLIPModel"),
        ("out_proj", "'attention.out_proj' .*packed attention"),
        ("linear1", "'block.linear1' .*packed attention"),
        ("words", "'words' .*Embedding.*nn.Linear"),
        ("pixels", "'pixels' .*Conv2d.*nn.Linear"),
        (".*s", "'words' .*Embedding"),
        ("all-linear", "packed attention"),
    ],
)
def test_refused_before_anything_changes(target, message):
    net = Packed()
    modules = dict(net.named_modules())
    targets = target if target in ("all-linear", ".*s") else ["plain", target]
    with pytest.raises(ValueError, match=message) as refused:
        get_peft_model(net, CodyraConfig(r=2, target_modules=targets))
    assert "\n" not in str(refused.value)
    assert dict(net.named_modules()) == modules


def test_packed_attention_can_be_excluded():
    net = Packed()
    config = CodyraConfig(
        r=2, target_modules=["plain", "out_proj"], exclude_modules=r"attention\..*|block\..*"
    )
    get_peft_model(net, config)
    assert [name for name, _ in named_gates(net)] == ["plain.lora_gate.default"]


def test_siglip_pooling_head_is_packed_attention():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    net = SiglipVisionModel(SiglipVisionConfig(**shape, image_size=16, patch_size=8))
    with pytest.raises(ValueError, match=r"head.attention.out_proj.*packed"):
        get_peft_model(net, CodyraConfig(r=2, target_modules=["q_proj", "out_proj"]))
    get_peft_model(
        net, CodyraConfig(r=2, target_modules=["q_proj", "out_proj"], exclude_modules=r".*head\..*")
    )
    assert len(list(named_gates(net))) == 2


def test_mixing_with_stock_lora_is_refused():
    model = get_peft_model(TwoLayers(), CodyraConfig(r=2, target_modules=TARGETS))
    with pytest.raises(ValueError, match="different peft types"):
        model.add_adapter("stock", LoraConfig(r=2, target_modules=TARGETS))


def test_adapter_arithmetic_of_peft_is_refused():
    model = get_peft_model(TwoLayers(), CodyraConfig(r=2, target_modules=TARGETS))
    with pytest.raises(ValueError, match="compose"):
        model.add_weighted_adapter(["default"], [1.0], "sum")


def test_clip_cosines_after_consolidate():
    """A third party's float32 CLIPModel: merged = base + adapters, to 1e-5, over two tasks."""
    torch.manual_seed(0)
    net = tiny_clip()
    for _ in range(2):
        before = cosines(net)
        model = adapted(net, CodyraConfig(r=4, target_modules=CLIP_TARGETS))
        expected = cosines(model)
        net = consolidate(model)
        torch.testing.assert_close(cosines(net), expected, atol=1e-5, rtol=0)
        assert (cosines(net) - before).abs().max() > 1e-3
