"""O-LoRA: the penalty by hand, its history, and what is left of it when it weighs nothing."""

import json

import pytest
import torch

from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.methods import Memory, build_method, parse_options
from codyra.methods.pieces.lora import lora_factors
from codyra.update import TaskUpdate, compose
from methods.toy_task import begin, learn_from, step, task_of
from tiny_nets import TwoLayers

MODULES = ("first", "second")


def started(past, A, B=None, **options):
    """A context whose `first` has these rows as past and present A, and the method."""
    method = build_method(parse_options({"name": "o_lora", "r": len(A), **options}))
    memory = Memory()
    memory.store("statistics", "past_A")["first"] = torch.tensor(past)
    net = TwoLayers()
    ctx = begin(method, task_of(net, 0, used=6), memory, number=1, linears=["first"])
    own_A, own_B = lora_factors(ctx)["first"]
    with torch.no_grad():
        own_A.copy_(torch.tensor(A))
        if B is not None:
            own_B.copy_(B)
    return method, ctx


def test_the_penalty_by_hand():
    past = [[1.0, 2, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0], [0, 0, 0, 0, 0, -1]]
    A = [[1.0, -1, 1, 0, 0, 0], [0, 0, 0, 0, 5, 2]]
    # Overlaps: (1 - 2, 0), (3, 0), (0, -2); their absolute values sum to 6.
    method, ctx = started(past, A)
    assert method.penalty(ctx).item() == pytest.approx(0.5 * 6)
    method, ctx = started(past, A, ortho_weight=2.0, ortho_reduction="mean")
    assert method.penalty(ctx).item() == pytest.approx(2 * 6 / (2 * 3))
    method, ctx = started(past, A, B=torch.full((8, 2), 0.5), ortho_l2=0.1)
    norms = (3 + 29) ** 0.5 + (16 * 0.25) ** 0.5
    assert method.penalty(ctx).item() == pytest.approx(0.5 * 6 + 0.1 * norms)


def test_rows_orthogonal_to_the_history_cost_nothing():
    method, ctx = started([[1.0, 2, 0, 0, 0, 0]], [[0, 0, 1.0, 0, 0, 4], [2, -1, 0, 0, 0, 0]])
    assert method.penalty(ctx).item() == 0


def test_the_norm_of_factors_that_are_zero_has_a_gradient():
    method, ctx = started([[0.0] * 6], [[1.0] * 6], ortho_weight=0.0, ortho_l2=1.0)
    method.penalty(ctx).backward()
    A, B = lora_factors(ctx)["first"]
    assert torch.equal(B.grad, torch.zeros_like(B))
    torch.testing.assert_close(A.grad, A.detach() / 6**0.5)


def test_the_history_grows_by_a_rank_per_task_and_is_the_A_of_the_updates():
    memory, updates, net = None, [], TwoLayers()
    for number in range(3):
        data = task_of(net, number, used=6)
        method = build_method(parse_options({"name": "o_lora", "r": 2}))
        ctx = begin(method, data, memory, number)
        penalties = [step(method, ctx) for _ in range(4)]
        assert all((penalty is None) if number == 0 else (penalty.item() > 0) for penalty in penalties)
        updates.append(method.after_task(ctx))
        memory = ctx.memory
        past = memory.stores["statistics", "past_A"]
        assert {name: len(rows) for name, rows in past.items()} == dict.fromkeys(MODULES, 2 * (number + 1))
        assert memory.num_bytes() == {"statistics": 4 * 2 * (number + 1) * (6 + 8)}
    for name in MODULES:
        assert torch.equal(past[name], torch.cat([update.factors[name][0] for update in updates]))


def test_the_penalty_turns_A_away_from_the_history():
    net = TwoLayers()
    _, memory = learn_from({"name": "o_lora", "r": 2}, task_of(net, 0, used=6))
    past = {name: rows.clone() for name, rows in memory.stores["statistics", "past_A"].items()}
    overlaps = []
    for weight in (0.0, 5.0):
        kept = Memory.from_tensors(memory.to_tensors())
        options = {"name": "o_lora", "r": 2, "ortho_weight": weight}
        update, _ = learn_from(options, task_of(net, 1, used=6), kept, number=1, steps=60)
        overlaps.append(sum((past[name] @ A.T).abs().sum() for name, (A, _) in update.factors.items()))
    assert overlaps[1] < overlaps[0] / 3


def test_without_weights_it_is_lora_in_sequence():
    net, memory = TwoLayers(), Memory()
    for number in range(2):
        data = task_of(net, number, used=6)
        plain, _ = learn_from({"name": "lora", "r": 2}, data, number=number)
        own, memory = learn_from({"name": "o_lora", "r": 2, "ortho_weight": 0.0}, data, memory, number=number)
        assert all(map(torch.equal, plain.factors["first"], own.factors["first"]))
        assert all(map(torch.equal, plain.factors["second"], own.factors["second"]))


def test_a_run_keeps_what_it_declares_and_its_branches_add_up(config, tmp_path):
    config["method"] = {"name": "o_lora", "r": 2}
    config["train"]["steps"] = 4
    folder = run(config, tmp_path / "run", narrator=Narrator(quiet=True)).folder
    tasks = sorted((folder / "tasks").iterdir())
    updates = [TaskUpdate.load(task) for task in tasks]
    columns = sum(A.shape[1] for A, _ in updates[0].factors.values())
    kept = json.loads((folder / "metrics.json").read_text())["memory_bytes"]
    assert kept == [4 * 2 * tasks_done * columns for tasks_done in (1, 2, 3)]
    logs = [[json.loads(line) for line in (task / "train.jsonl").read_text().splitlines()] for task in tasks]
    assert not any("penalty" in record for record in logs[0])
    assert all(record["penalty"] > 0 for log in logs[1:] for record in log)


def test_branches_are_merged_by_adding_them():
    net, memory, updates = TwoLayers(), Memory(), []
    for number in range(3):
        data = task_of(net, number, used=6)
        update, memory = learn_from({"name": "o_lora", "r": 2}, data, memory, number=number)
        updates.append(update)
    base = {f"{name}.weight": net.get_parameter(f"{name}.weight").detach() for name in MODULES}
    merged = compose(net, base, updates)
    for name in MODULES:
        branches = sum(B @ A for A, B in (update.factors[name] for update in updates))
        torch.testing.assert_close(merged[f"{name}.weight"], base[f"{name}.weight"] + branches)
