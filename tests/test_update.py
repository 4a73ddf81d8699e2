"""TaskUpdate: what is extracted, how it is stored, what it merges to, and that strangers can load it."""

import json
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers.pytorch_utils import Conv1D

from codyra.errors import UserError
from codyra.tuner import CodyraConfig, ProximalStep, param_groups
from codyra.update import (
    PrimalHead,
    TaskUpdate,
    add_updates,
    compose,
    consolidate,
    distance,
    rounding_loss,
    unwrap,
    write_weights,
)
from tiny_nets import CLIP_TARGETS, TwoLayers, adapted, clip_batch, cosines, fill, tiny_clip, train

TARGETS = ["first", "second"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


def gated(net: nn.Module | None = None, **options) -> nn.Module:
    return adapted(
        TwoLayers() if net is None else net, CodyraConfig(target_modules=TARGETS, **{"r": 4, **options})
    )


def low_rank(name="first", kept=2, inside=6, outside=8, kind="low_rank", size=1.0) -> TaskUpdate:
    factors = {name: (size * torch.randn(kept, inside), torch.randn(outside, kept))}
    return TaskUpdate(kind, factors=factors, ranks={name: kept}, full_ranks={name: 4})


def assert_equal(left: TaskUpdate, right: TaskUpdate) -> None:
    for field in (
        "kind",
        "ranks",
        "full_ranks",
        "norms",
        "survival_auc",
        "base_info",
        "lookalikes",
        "no_change",
    ):
        assert getattr(left, field) == getattr(right, field), field
    torch.testing.assert_close(left.factors, right.factors, atol=0, rtol=0)
    torch.testing.assert_close(left.tensors, right.tensors, atol=0, rtol=0)


# --- extraction


def test_pruned_factors_are_the_whole_update():
    net = TwoLayers()
    model = gated(net)
    update = TaskUpdate.from_model(model)
    assert update.ranks == {"first": 2, "second": 2}
    assert update.full_ranks == {"first": 4, "second": 4}
    for name, (A_KD, B_OK) in update.factors.items():
        delta = net.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(B_OK @ A_KD, delta, atol=1e-6, rtol=1e-6)
        assert update.norms[name] == pytest.approx(delta.norm().item(), rel=1e-6)
    assert update.norm() == pytest.approx(sum(n**2 for n in update.norms.values()) ** 0.5)


def test_a_module_without_ranks_is_counted_and_left_out():
    net = TwoLayers()
    model = gated(net)
    with torch.no_grad():
        net.second.lora_gate["default"].weight.zero_()
    update = TaskUpdate.from_model(model)
    assert update.ranks == {"first": 2, "second": 0}
    assert update.norms["second"] == 0.0
    assert list(update.factors) == ["first"]


def test_extraction_changes_nothing_and_shares_nothing():
    net = TwoLayers()
    model = gated(net)
    before = weights(model)
    update = TaskUpdate.from_model(model)
    fill(model)
    assert not torch.equal(
        weights(model)["base_model.model.first.lora_B.default.weight"], update.factors["first"][1]
    )
    model.load_state_dict(before)
    assert_equal(TaskUpdate.from_model(model), update)


def test_what_a_carried_adapter_moved_is_not_its_size():
    factors = {name: (torch.randn(2, 5), torch.randn(4, 2)) for name in ("a", "b")}
    later = {"b": (torch.randn(3, 5), torch.randn(4, 3)), "c": (torch.randn(2, 5), torch.randn(4, 2))}

    def update(factors, kind):
        ranks = {name: len(A) for name, (A, _) in factors.items()}
        return TaskUpdate(kind, factors, ranks=ranks, full_ranks=ranks)

    before, after = update(factors, "cumulative"), update(later, "cumulative")
    dense = [{name: B @ A for name, (A, B) in one.factors.items()} for one in (before, after)]
    squares = [
        (dense[1].get(name, torch.zeros(4, 5)) - dense[0].get(name, torch.zeros(4, 5))).square().sum()
        for name in ("a", "b", "c")
    ]
    assert after.moved(before) == pytest.approx(float(sum(squares)) ** 0.5, rel=1e-5)
    assert after.moved(after) == pytest.approx(0, abs=1e-3)
    assert before.moved(None) == before.norm()
    added = update(later, "low_rank")
    assert added.moved(update(factors, "low_rank")) == added.norm()


def test_scale_and_kind():
    model = gated()
    half = TaskUpdate.from_model(model, scale=0.5, kind="cumulative")
    assert half.kind == "cumulative"
    assert half.norm() == pytest.approx(TaskUpdate.from_model(model).norm() / 2)


@pytest.mark.parametrize("layer", [nn.Linear, Conv1D])
def test_stock_lora_gives_its_whole_update(layer):
    net = TwoLayers(layer)
    base, config = (
        weights(net),
        LoraConfig(r=3, lora_alpha=12, target_modules=TARGETS, fan_in_fan_out=layer is Conv1D),
    )
    model = fill(get_peft_model(net, config)).eval()
    x = torch.randn(5, 6)
    expected = model(x)
    update = TaskUpdate.from_model(model)
    assert update.ranks == update.full_ranks == {"first": 3, "second": 3}
    plain = unwrap(model)
    write_weights(plain, compose(plain, base, [update]))
    torch.testing.assert_close(plain(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(target_modules=["first"], use_dora=True), "not plain LoRA"),
        (LoraConfig(target_modules=["first"], lora_bias=True), "not plain LoRA"),
        (LoraConfig(target_modules=["first"], bias="lora_only"), "trains more than its linears"),
        (LoraConfig(target_modules=["first"], modules_to_save=["second"]), "trains more than its linears"),
        (CodyraConfig(target_modules=["first"], modules_to_save=["second"]), "trains more than its linears"),
    ],
)
def test_what_factors_cannot_carry_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        TaskUpdate.from_model(get_peft_model(TwoLayers(), config))


def test_models_without_that_adapter_are_refused():
    with pytest.raises(UserError, match="'default'"):
        TaskUpdate.from_model(TwoLayers())
    with pytest.raises(UserError, match="'other'"):
        TaskUpdate.from_model(gated(), adapter_name="other")
    for take_off in (consolidate, unwrap):
        with pytest.raises(UserError, match="TwoLayers has no adapter"):
            take_off(TwoLayers())


def test_another_adapter_by_name():
    net = TwoLayers()
    model = gated(net)
    model.add_adapter("other", CodyraConfig(r=6, target_modules=["second"]))
    fill(model, "other")
    assert TaskUpdate.from_model(model, adapter_name="other").ranks == {"second": 3}


def test_training_without_a_proximal_step_is_pointed_out():
    model = get_peft_model(TwoLayers(), CodyraConfig(r=4, target_modules=TARGETS))
    with pytest.warns(UserWarning, match="no ProximalStep was ever attached"):
        TaskUpdate.from_model(model)
    ProximalStep(torch.optim.AdamW(param_groups(model, lr=0.1)), model, total_steps=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TaskUpdate.from_model(model)


def test_survival_auc():
    model = get_peft_model(TwoLayers(), CodyraConfig(r=32, target_modules=TARGETS))
    optimizer = torch.optim.AdamW(param_groups(model, lr=0.05))
    prox = ProximalStep(optimizer, model, total_steps=40)
    assert TaskUpdate.from_model(model, prox).survival_auc is None  # all survive
    initial = torch.cat(list(prox.initial_gates.values())).abs()
    train(model, optimizer, 40)
    update = TaskUpdate.from_model(model, prox)
    survived = torch.cat([layer.lora_gate["default"].weight for layer in (model.first, model.second)]) != 0
    assert update.survival_auc == pytest.approx(roc_auc_score(survived, initial))
    assert 0.5 < update.survival_auc < 1
    assert TaskUpdate.from_model(model).survival_auc is None
    with torch.no_grad():
        for layer in (model.first, model.second):
            layer.lora_gate["default"].weight.zero_()
    assert TaskUpdate.from_model(model, prox).survival_auc is None  # none survives


def test_prox_of_another_model_is_refused():
    other = get_peft_model(TwoLayers(), CodyraConfig(r=4, target_modules=["first"]))
    prox = ProximalStep(torch.optim.AdamW(param_groups(other, lr=0.1)), other, total_steps=10)
    with pytest.raises(UserError, match=r"no gate second.lora_gate.default"):
        TaskUpdate.from_model(gated(), prox)


def test_difference():
    before = {"a": torch.randn(3, 2), "b": torch.ones(4)}
    after = {"a": before["a"] + 0.5, "b": torch.ones(4)}
    update = TaskUpdate.from_difference(before, after, scale=2.0)
    assert (update.kind, list(update.tensors), update.no_change) == ("dense", ["a"], False)
    torch.testing.assert_close(update.tensors["a"], torch.ones(3, 2))
    assert update.norm() == pytest.approx(6**0.5)
    assert TaskUpdate.from_difference(before, before).no_change
    with pytest.raises(UserError, match="names or shapes"):
        TaskUpdate.from_difference(before, {"a": before["a"]})


def test_difference_of_bf16_weights_is_exact():
    before = {"a": torch.randn(50, 20).bfloat16()}
    after = {"a": before["a"] * 1.01}
    update = TaskUpdate.from_difference(before, after)
    assert update.tensors["a"].dtype == torch.float32
    assert torch.equal(compose(nn.Module(), before, [update])["a"], after["a"])


# --- merge


@pytest.mark.parametrize("layer", [nn.Linear, Conv1D])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_consolidate_equals_compose_equals_the_adapter(layer, dtype):
    net = TwoLayers(layer).to(dtype)
    base, x = weights(net), torch.randn(5, 6, dtype=dtype)
    updates = []
    for _ in range(3):
        model = gated(net)
        expected = model(x)
        updates.append(TaskUpdate.from_model(model))
        net = consolidate(model)
        torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)
    composed = compose(net, base, updates)
    torch.testing.assert_close(composed, weights(net), atol=1e-6, rtol=1e-6)
    assert all(composed[name] is base[name] for name in ("first.bias", "second.bias"))


def test_kinds_compose():
    net = TwoLayers()
    base = weights(net)
    added, carried, carried_on = low_rank(), low_rank(kind="cumulative"), low_rank(kind="cumulative")
    shift = TaskUpdate("dense", tensors={"second.bias": torch.ones(4), "first.weight": torch.ones(8, 6)})
    head = UPDATES["head"]()
    updates = [carried, added, TaskUpdate.none(), shift, head, carried_on, added]

    def delta(update):
        A_KD, B_OK = update.factors["first"]
        return B_OK @ A_KD

    composed = compose(net, base, iter(updates))  # an iterator: read once
    expected = base["first.weight"] + 2 * delta(added) + 1 + delta(carried_on)
    torch.testing.assert_close(composed["first.weight"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(composed["second.bias"], base["second.bias"] + 1)
    torch.testing.assert_close(base, weights(net), atol=0, rtol=0)
    write_weights(net, composed)
    torch.testing.assert_close(weights(net), composed, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updates_add_up_in_place_as_they_compose(dtype):
    net = TwoLayers().to(dtype)
    base, summed = weights(net), weights(net)
    held = dict(summed)
    shift = TaskUpdate("dense", tensors={"second.bias": torch.ones(4), "first.weight": torch.ones(8, 6)})
    updates = [low_rank(), TaskUpdate.none(), shift, UPDATES["head"](), low_rank()]
    add_updates(net, summed, iter(updates))
    for name, weight in compose(net, base, updates).items():
        assert torch.equal(summed[name], weight)
        assert summed[name] is held[name]


def test_no_updates_compose_to_the_base():
    net = TwoLayers()
    base = weights(net)
    empty = TaskUpdate("low_rank", ranks={"first": 0}, full_ranks={"first": 4})
    for updates in ([], [TaskUpdate.none()], [empty]):
        assert all(tensor is base[name] for name, tensor in compose(net, base, updates).items())


@pytest.mark.parametrize(
    "update", [low_rank(inside=5), TaskUpdate("dense", tensors={"first.weight": torch.ones(8, 5)})]
)
def test_another_base_is_refused(update):
    net = TwoLayers()
    with pytest.raises(UserError, match=r"first.weight of shape \(8, 5\), which has shape \(8, 6\)"):
        compose(net, weights(net), [update])
    with pytest.raises(UserError, match=r"first.weight .* is missing"):
        compose(net, {}, [update])


def test_many_small_updates_on_a_bf16_base():
    """docs/method.md: one cast keeps about half of what 20 small updates add up to, 20 casts keep a tenth."""
    generator = torch.Generator().manual_seed(0)
    net = nn.ModuleDict({"layer": nn.Linear(520, 520, bias=False)})
    base = {"layer.weight": torch.randn(520, 520, generator=generator).bfloat16()}
    start = base["layer.weight"].float()
    deltas = [2e-4 * torch.randn(520, 520, generator=generator) for _ in range(20)]
    updates = [TaskUpdate("dense", tensors={"layer.weight": delta}) for delta in deltas]
    total = torch.stack(deltas).sum(0)

    def kept(weight):
        return ((weight.float() - start) * total).sum().item() / total.square().sum().item()

    once = compose(net, base, updates)["layer.weight"]
    assert once.dtype == torch.bfloat16
    assert kept(once) == pytest.approx(0.48, abs=0.03)
    assert rounding_loss(net, base, updates) == pytest.approx(1 - kept(once), abs=1e-5)
    assert distance({"layer.weight": once}, base) == pytest.approx(
        (once.double() - start.double()).norm().item()
    )
    each = base
    for update in updates:
        each = compose(net, each, [update])
    assert kept(each["layer.weight"]) == pytest.approx(0.12, abs=0.03)
    wide = {"layer.weight": start}
    assert kept(compose(net, wide, updates)["layer.weight"]) == pytest.approx(1, abs=1e-4)
    assert rounding_loss(net, wide, updates) == 0.0
    assert rounding_loss(net, base, []) == 0.0


def test_consolidate_checks_that_the_proximal_step_fired():
    model = gated()
    prox = ProximalStep(torch.optim.AdamW(param_groups(model, lr=0.1)), model, total_steps=10)
    with pytest.raises(RuntimeError, match="never fired"):
        consolidate(model, prox)


def test_unwrap_gives_back_the_weights_of_before():
    net = TwoLayers()
    before = weights(net)
    model = gated(net)
    assert unwrap(model) is net
    torch.testing.assert_close(weights(net), before, atol=0, rtol=0)


# --- files

UPDATES = {
    "low_rank": lambda: TaskUpdate.from_model(gated(rank_pattern={"second": 7})),
    "cumulative": lambda: TaskUpdate.from_model(gated(), kind="cumulative"),
    "dense": lambda: TaskUpdate(
        "dense", tensors={"first.bias": torch.randn(8), "second.weight": torch.randn(8, 4).T}
    ),
    "head": lambda: TaskUpdate(
        "head", tensors=PrimalHead(torch.tensor(0.8), torch.randn(3, 5), torch.randn(5, 4)).to_tensors()
    ),
    "none": TaskUpdate.none,
    "no rank": lambda: TaskUpdate(
        "low_rank", ranks={"first": 0, "second": 0}, full_ranks={"first": 4, "second": 4}
    ),
    "no difference": lambda: TaskUpdate("dense"),
}
FILES = {
    "low_rank": {"adapter_model.safetensors", "adapter_config.json", "ranks.json"},
    "cumulative": {"adapter_model.safetensors", "adapter_config.json", "ranks.json"},
    "dense": {"update.safetensors", "ranks.json"},
    "head": {"update.safetensors", "ranks.json"},
}


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", UPDATES)
def test_round_trip(kind, tmp_path):
    update = UPDATES[kind]()
    update.save(tmp_path / "a")
    assert set(contents(tmp_path / "a")) == FILES.get(kind, {"ranks.json"})
    loaded = TaskUpdate.load(tmp_path / "a")
    assert_equal(loaded, update)
    loaded.save(tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")  # the same update, the same bytes


@pytest.mark.parametrize("kind", ["none", "no rank", "no difference"])
def test_no_change_says_so_and_merges_to_nothing(kind, tmp_path):
    UPDATES[kind]().save(tmp_path)
    assert json.loads((tmp_path / "ranks.json").read_text())["no_change"] is True
    net = TwoLayers()
    base = weights(net)
    torch.testing.assert_close(compose(net, base, [TaskUpdate.load(tmp_path)]), base, atol=0, rtol=0)


def test_saving_over_another_update_leaves_none_of_its_files(tmp_path):
    for kind in ("low_rank", "dense", "none"):
        update = UPDATES[kind]()
        update.save(tmp_path)
        assert set(contents(tmp_path)) == FILES.get(kind, {"ranks.json"})
        assert_equal(TaskUpdate.load(tmp_path), update)


def test_ranks_table(tmp_path):
    update = TaskUpdate.from_model(gated())
    update.save(tmp_path)
    table = json.loads((tmp_path / "ranks.json").read_text())
    assert set(table) == {"kind", "no_change", "survival_auc", "norm", "modules"}
    assert table["norm"] == update.norm()
    assert list(table["modules"]) == ["first", "second"]
    assert table["modules"]["first"] == {"kept": 2, "r": 4, "norm": update.norms["first"]}


def test_adapter_config_has_scale_one_everywhere(tmp_path):
    TaskUpdate.from_model(gated(rank_pattern={"second": 7})).save(
        tmp_path, base_model="some/model", revision="abc"
    )
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 3
    assert config["rank_pattern"] == config["alpha_pattern"] == {"first": 2, "second": 3}
    assert config["target_modules"] == ["first", "second"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/model", "abc")
    assert list(config) == sorted(config)


def damage(folder, **edits) -> None:
    path = folder / "ranks.json"
    table = json.loads(path.read_text())
    table.update(edits)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "ranks.json").unlink(), "ranks.json is missing"),
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            "adapter_model.safetensors is missing",
        ),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda folder: (folder / "ranks.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "ranks.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda folder: (folder / "ranks.json").write_text("{}"), "ranks.json is damaged: kind"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"half"), "damaged"),
        (lambda folder: damage(folder, kind="sparse"), "ranks.json is damaged: kind"),
        (lambda folder: damage(folder, modules={}), "has not the modules that ranks.json has"),
        (
            lambda folder: damage(folder, modules={m: {"kept": 3, "r": 4, "norm": 0} for m in TARGETS}),
            "3 of 4 ranks are kept",
        ),
    ],
)
def test_damaged_folders_are_named_in_one_line(harm, message, tmp_path):
    TaskUpdate.from_model(gated()).save(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        TaskUpdate.load(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_values_that_are_not_finite_are_refused():
    net = TwoLayers()
    model = gated(net)
    with torch.no_grad():
        net.first.lora_B["default"].weight[0, 1] = float("inf")
    with pytest.raises(UserError, match=r"first is not finite: training diverged"):
        TaskUpdate.from_model(model)


def test_a_full_disk_is_one_line_and_keeps_the_old_update(tmp_path, monkeypatch):
    old = UPDATES["dense"]()
    old.save(tmp_path)

    def full(tensors, path, metadata):
        from safetensors import SafetensorError

        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match=r"update.safetensors: .*No space left on device"):
        UPDATES["dense"]().save(tmp_path)
    assert_equal(TaskUpdate.load(tmp_path), old)


# --- strangers


class Nested(nn.Module):
    """Names that end alike: q, x.q and deeper.x.q; and layers.1 beside layersX1, equal to a regular expression."""

    NAMES = ("q", "x.q", "deeper.x.q", "layers.1", "layersX1")

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(6, 6)
        self.x = nn.ModuleDict({"q": nn.Linear(6, 6)})
        self.deeper = nn.ModuleDict({"x": nn.ModuleDict({"q": nn.Linear(6, 6)})})
        self.layers = nn.ModuleList([nn.Identity(), nn.Linear(6, 6)])
        self.layersX1 = nn.Linear(6, 6)

    def forward(self, x):
        for name in self.NAMES:
            x = torch.tanh(self.get_submodule(name)(x))
        return x


@pytest.mark.parametrize(
    "kept",
    [
        {"q": 1, "x.q": 2, "deeper.x.q": 3, "layers.1": 4, "layersX1": 5},
        {"q": 5, "x.q": 4, "deeper.x.q": 3, "layers.1": 2, "layersX1": 1},
        {"q": 2, "x.q": 0, "deeper.x.q": 3, "layers.1": 0, "layersX1": 2},
        {"q": 3, "deeper.x.q": 1},
        {"layers.1": 2, "layersX1": 0},
    ],
)
def test_names_that_look_alike_get_their_own_ranks(kept, tmp_path):
    net = Nested()
    exact = "|".join(name.replace(".", r"\.") for name in kept)
    model = get_peft_model(net, CodyraConfig(r=5, target_modules=exact))
    with torch.no_grad():
        for name, rank in kept.items():
            layer = net.get_submodule(name)
            layer.lora_B["default"].weight.normal_()
            layer.lora_gate["default"].weight[rank:] = 0
    update = TaskUpdate.from_model(model)
    assert update.ranks == {name: kept[name] for name in update.ranks}
    update.save(tmp_path / "a")
    TaskUpdate.load(tmp_path / "a").save(tmp_path / "b")

    x = torch.randn(4, 6)
    expected = model(x)
    plain = unwrap(model)
    for folder in ("a", "b"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = PeftModel.from_pretrained(plain, tmp_path / folder)
        torch.testing.assert_close(loaded(x), expected, atol=1e-5, rtol=1e-5)
        ranks = {
            name: layer.r["default"] for name, layer in plain.named_modules() if hasattr(layer, "lora_A")
        }
        assert ranks == {name: rank for name, rank in kept.items() if rank}
        loaded.save_pretrained(tmp_path / f"{folder}-again")  # PEFT sorts the patterns: order must not matter
        unwrap(loaded)
        loaded = PeftModel.from_pretrained(plain, tmp_path / f"{folder}-again")
        torch.testing.assert_close(loaded(x), expected, atol=1e-5, rtol=1e-5)
        unwrap(loaded)


STRANGER = """
import sys, warnings

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "codyra":
            raise ImportError("codyra is not installed here")

sys.meta_path.insert(0, Blocker())
import torch
from peft import AutoPeftModel, PeftModel
from transformers import CLIPModel

folder = sys.argv[1]
saved = torch.load(f"{folder}/io.pt", weights_only=True)
base = f"{folder}/base"

def cosines(clip):
    with torch.no_grad():
        out = clip(**saved["batch"])
    return out.image_embeds @ out.text_embeds.T

with warnings.catch_warnings():
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    stock = PeftModel.from_pretrained(CLIPModel.from_pretrained(base).eval(), f"{folder}/adapter")
    assert torch.allclose(cosines(stock), saved["cosines"], atol=1e-5, rtol=0), "peft"
    merged = stock.merge_and_unload()
    assert torch.allclose(cosines(merged), saved["cosines"], atol=1e-5, rtol=0), "peft, merged"
    loaded = CLIPModel.from_pretrained(base).eval()
    info = loaded.load_adapter(f"{folder}/adapter")
    assert not info.missing_keys and not info.unexpected_keys and not info.mismatched_keys, info
    assert torch.allclose(cosines(loaded), saved["cosines"], atol=1e-5, rtol=0), "transformers"
    auto = AutoPeftModel.from_pretrained(f"{folder}/adapter").eval()
    assert torch.allclose(cosines(auto), saved["cosines"], atol=1e-5, rtol=0), "AutoPeftModel"
assert "codyra" not in sys.modules
print("loaded")
"""


def test_adapter_loads_where_codyra_is_not_installed(tmp_path):
    clip = tiny_clip()
    clip.save_pretrained(tmp_path / "base")
    plain = cosines(clip)
    model = adapted(clip, CodyraConfig(r=6, target_modules=CLIP_TARGETS))
    with torch.no_grad():
        for index, (name, gate) in enumerate(model.named_parameters()):
            if "lora_gate" in name:
                gate[index % 5 :] = 0  # ranks from 0 to 4, mixed
    update = TaskUpdate.from_model(model)
    assert {0, 1, 2} <= set(update.ranks.values())
    update.save(tmp_path / "adapter", base_model=str(tmp_path / "base"))
    expected = cosines(model)
    assert (expected - plain).abs().max() > 1e-3
    torch.save({"batch": clip_batch(), "cosines": expected}, tmp_path / "io.pt")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STRANGER), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded"
    assert "missing" not in done.stderr.lower()
