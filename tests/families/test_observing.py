"""The inputs of linears: every position that is no padding, a shared tensor once, also under an adapter."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from codyra.families.observing import observed_inputs
from families.answer_tasks import load as load_lm
from families.answer_tasks import quiz
from families.tiny_encoders import task_for
from families.tiny_lms import LM_SAVERS, save_opt

CLASSES = ("red bird", "cat", "very big green dog")
SHARED = {  # linears of the first block that read what the first of them reads
    "clip": [("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj")],
    "siglip": [("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj")],
    "bert": [("attention.self.query", "attention.self.key", "attention.self.value")],
    "llama": [
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("mlp.gate_proj", "mlp.up_proj"),
    ],
    "gpt2": [],
    "opt": [("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj")],
}


def visited(objective, modules, positions, size):
    """{first linear: its inputs (P, D)}, and the first one of every linear."""
    inputs = {}
    first_of = objective.visit_inputs(
        modules, positions, size, lambda name, x: inputs.setdefault(name, []).append(x.clone())
    )
    return {name: torch.cat(parts) for name, parts in inputs.items()}, first_of


def shared(first_of, stack):
    """Sets of linears of the first block that read one tensor, named from the block on."""
    groups = {}
    for name, first in first_of.items():
        groups.setdefault(first, []).append(name)
    of_block = [
        [name.partition(stack)[2] for name in names] for names in groups.values() if stack in names[0]
    ]
    return {frozenset(names) for names in of_block if len(names) > 1}


def same(inputs, others):
    assert inputs.keys() == others.keys()
    for name, x in inputs.items():
        torch.testing.assert_close(x, others[name], rtol=1e-3, atol=1e-4)


def dual_objective(family):
    task = task_for(family, "task", CLASSES)
    return task, family.start_task(task, [], text_loss="official", micro_batch_size=None)


def test_dual_encoders_read_examples_and_prompts_without_padding(family):
    task, objective = dual_objective(family)
    modules = family.target_modules("all")

    def inputs(size):
        return visited(objective, modules, range(len(objective)), size)

    together, first_of = inputs(100)
    assert set(first_of) == set(modules)
    stack = "layer.0." if family.model_type == "bert" else "layers.0."
    assert shared(first_of, stack) == set(map(frozenset, SHARED[family.model_type]))
    # One by one there is nothing to pad.
    objective._prompt_chunks = [
        chunk for prompt in task.prompts for chunk in family.token_chunks(family.tokenize([prompt]), [0])
    ]
    same(together, inputs(100)[0])
    # Prompts are read once, whatever the size of the batches.
    same(inputs(100)[0], inputs(1)[0])


def test_adapters_and_their_dropout_change_nothing(family):
    _, objective = dual_objective(family)
    modules = family.target_modules("all")
    plain = visited(objective, modules, [0, 4, 8], 3)
    get_peft_model(
        family.net, LoraConfig(r=2, target_modules=modules, lora_dropout=0.5, init_lora_weights=False)
    )
    adapted = visited(objective, modules, [0, 4, 8], 3)
    again = visited(objective, modules, [0, 4, 8], 3)
    assert adapted[1] == plain[1]
    assert {name: x.shape for name, x in adapted[0].items()} == {
        name: x.shape for name, x in plain[0].items()
    }
    assert all(torch.equal(x, again[0][name]) for name, x in adapted[0].items())


def test_padding_of_a_sentence_encoder_is_left_out(load):
    family = load("bert")
    task, objective = dual_objective(family)
    modules = family.target_modules("all")
    inputs, _ = visited(objective, modules, range(len(objective)), 100)
    tokens = sum(family.tokenize(list(task.train.inputs), truncate=True).lengths)
    tokens += sum(family.tokenize(task.prompts).lengths)
    assert {len(x) for x in inputs.values()} == {tokens}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_causal_language_models(kind, tmp_path):
    family = load_lm({**LM_SAVERS, "opt": save_opt}[kind](tmp_path / kind))
    objective = family.start_task(quiz(), [], text_loss="official", micro_batch_size=None)
    modules = family.target_modules("all")
    together, first_of = visited(objective, modules, range(5), 5)
    alone, _ = visited(objective, modules, range(5), 1)
    assert set(first_of) == set(modules)
    stack = "h.0." if kind == "gpt2" else "layers.0."
    assert shared(first_of, stack) == set(map(frozenset, SHARED[kind]))
    num_read = sum(len(row.ids) - 1 for row in objective._rows)
    assert {len(x) for x in together.values()} == {num_read}
    same(together, alone)


def test_nothing_is_held_and_dropout_comes_back():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 3)).train()
    net[1].eval()
    seen = {}
    with observed_inputs(net, ["0", "2"], lambda name, x: seen.update({name: x.requires_grad})) as first_of:
        assert not net.training
        net(torch.ones(2, 3))
    assert first_of == {"0": "0", "2": "2"}
    assert seen == {"0": False, "2": False}
    assert [module.training for module in net.modules()] == [True, True, False, True]
    assert not net[0]._forward_pre_hooks


def test_a_linear_that_runs_twice_is_visited_twice():
    net = nn.ModuleDict({"one": nn.Linear(3, 3)})
    seen = []
    with observed_inputs(net, ["one"], lambda name, x: seen.append((name, len(x)))):
        net["one"](net["one"](torch.ones(2, 3)))
    assert seen == [("one", 2), ("one", 2)]
