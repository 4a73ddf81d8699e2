"""Methods are combinations of pieces: what they declare holds, and every one leaves a plain network behind."""

import pytest
import torch
from torch import nn

from codyra.errors import UserError
from codyra.methods import Declaration, build_method, method_names, option_names, parse_options, registry
from codyra.methods.base import Head
from codyra.methods.pieces.distill import Distill
from methods.toy_task import toy_context, toy_net, train

CONTINUE = {"carry": {"carry": "continue", "merge_scale": 1.0}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 4)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def learn(method, net, total_steps=10, previous=None):
    """One task of a tiny regression; gives (update, number of trained parameters)."""
    ctx = toy_context(net, num_tasks=1, total_steps=total_steps, previous=previous)
    method.before_task(ctx)
    method.collect(ctx)
    num_trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    if method.trains:
        train(method, ctx)
    return method.after_task(ctx), num_trained


def is_for_any_network(name):
    """Heads read features and teachers give them, which a bare regression has not."""
    options = {"name": name, **({"reference_images": "x", "reference_texts": "x"} if name == "zscl" else {})}
    return not any(isinstance(piece, Head | Distill) for piece in build_method(parse_options(options)).pieces)


OF_WEIGHTS = [name for name in method_names() if is_for_any_network(name)]


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_a_task_leaves_the_network_plain_and_unchanged(name):
    net = Net()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    types = [type(module) for module in net.modules()]
    for _ in range(2):  # a second task finds nothing of the first
        update, num_trained = learn(build_method(parse_options({"name": name})), net)
        assert [type(module) for module in net.modules()] == types
        after = net.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert not any(parameter.requires_grad for parameter in net.parameters())
        assert update.no_change == (name == "zero_shot")
        assert (num_trained == 0) == (name == "zero_shot")


def test_full_trains_every_parameter_and_lora_two_factors_per_linear():
    net = Net()
    assert learn(build_method(parse_options({"name": "full"})), net)[1] == sum(
        p.numel() for p in net.parameters()
    )
    assert learn(build_method(parse_options({"name": "lora", "r": 2})), net)[1] == 2 * (6 + 5) + 2 * (5 + 4)
    assert learn(build_method(parse_options({"name": "codyra", "r": 2})), net)[1] == 2 * (6 + 5 + 1) + 2 * (
        5 + 4 + 1
    )


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_a_carried_adapter_goes_on_where_it_stopped(alpha):
    net = Net()
    method = build_method(parse_options({"name": "lora", "r": 3, "alpha": alpha, "carry": "continue"}))
    first, _ = learn(method, net)
    assert first.kind == "cumulative"
    ctx = toy_context(net, previous=first)
    method.before_task(ctx)
    resumed = method.adapter.extract(ctx, "cumulative")
    method.adapter.discard(ctx)
    for module, (A_RD, B_OR) in first.factors.items():
        torch.testing.assert_close(resumed.factors[module][0], A_RD, rtol=0, atol=0)
        torch.testing.assert_close(resumed.factors[module][1], B_OR)
    assert method.cumulative


@pytest.mark.parametrize("name", ["lora", "codyra", "full"])
def test_merge_scale_scales_the_update(name):
    norms = []
    for scale in (1.0, 0.25):
        torch.manual_seed(3)
        update, _ = learn(build_method(parse_options({"name": name, "merge_scale": scale})), Net())
        norms.append(update.norm())
    assert norms[1] == pytest.approx(norms[0] / 4, rel=1e-5)


def test_codyra_leaves_fewer_ranks_and_says_who_chose():
    update, _ = learn(build_method(parse_options({"name": "codyra", "r": 16})), Net(), total_steps=40)
    assert 0 < sum(update.ranks.values()) < 32
    assert update.survival_auc > 0.9


def test_unknown_methods_name_the_nearest():
    with pytest.raises(UserError, match=r"did you mean codyra\?"):
        option_names("codira")


@pytest.mark.parametrize(
    "options",
    [
        {"name": "ewc", "fisher_examples": 3},
        {"name": "o_lora"},
        {"name": "inflora"},
        {"name": "gpm", "subspace_energy": 0.5},
        {"name": "a_gem", "grad_memory": "last_grad", "carry": "continue"},
    ],
    ids=lambda options: options["name"],
)
def test_what_is_kept_is_within_the_estimate(options):
    net, memory, previous = Net(), None, None
    net.requires_grad_(False)
    for number in range(3):
        method = build_method(parse_options({"r": 2, **options}))
        ctx = toy_context(net, memory=memory, task_index=number, num_tasks=3, previous=previous)
        method.before_task(ctx)
        method.collect(ctx)
        bound = sum(piece.kept_bytes(ctx, number) for piece in method.pieces)
        train(method, ctx)
        previous, memory = method.after_task(ctx), ctx.memory
        kept = sum(memory.num_bytes().values())
        assert kept <= bound
        assert kept or number  # InfLoRA's complement may be empty after a later task


def undeclared(monkeypatch, **fields):
    """The options of a method that is put together so."""
    about = {"title": "t", "summary": "s", "source": "s", "trains": "t", "keeps": "k", "costs": "c"}
    declared = Declaration(**about, **fields)
    monkeypatch.setattr(registry, "read_declaration", lambda name: declared)
    monkeypatch.setattr(registry, "method_names", lambda: ("mine",))
    registry.options_class.cache_clear()
    return {"name": "mine"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"adapter": "lora", "penalties": ["fisher_anchor"], "merge": "add", "stores": "statistics"},
            "needs merge",
        ),
        ({"adapter": "lora", "penalties": ["ortho"], "merge": CONTINUE, "stores": "statistics"}, "only one"),
        (
            {"adapter": "lora", "penalties": ["distill"], "merge": CONTINUE, "stores": "none"},
            "is the base model",
        ),
        (
            {"adapter": "none", "head": "ridge_dual", "merge": "add", "stores": "features"},
            "extra_inference: true",
        ),
        ({"adapter": "lora", "penalties": ["ortho"], "merge": "add", "stores": "none"}, "declare statistics"),
    ],
)
def test_pieces_that_do_not_go_together_are_refused(monkeypatch, fields, words):
    with pytest.raises(UserError, match=words):
        build_method(parse_options(undeclared(monkeypatch, **fields)))
    registry.options_class.cache_clear()


def test_a_method_sees_no_task_but_its_own_and_those_it_keeps_examples_of():
    ctx = toy_context(toy_net(), task_index=2)
    assert len(ctx.data_of(2))
    with pytest.raises(RuntimeError, match="no example of task 3 is kept"):
        ctx.data_of(3)
    ctx.memory.keep_examples(1, [0, 2], [40, 40])
    assert len(ctx.data_of(1))
    with pytest.raises(RuntimeError, match="no example of task 0 is kept"):
        ctx.data_of(0)
