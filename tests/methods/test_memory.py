"""What a method keeps: counted by kind, held against its declaration, the same after a file."""

import pytest
import torch
from torch import nn

from codyra.errors import UserError
from codyra.methods import Memory, TaskContext, build_method, parse_options, read_declaration, registry
from codyra.methods.base import Piece


def filled():
    memory = Memory()
    memory.store("statistics", "fisher")["layers.0/odd.name"] = torch.ones(3, 4)
    memory.store("features", "f")["x"] = torch.ones(5, dtype=torch.float64)
    memory.store("samples", "nothing")
    return memory


def test_bytes_are_those_of_the_tensors_by_kind():
    assert filled().num_bytes() == {"statistics": 48, "features": 40}
    assert Memory().num_bytes() == {}


def test_a_declaration_covers_what_says_less():
    memory = filled()
    assert [
        kind for kind in ("none", "weights", "statistics", "features", "samples") if memory.allowed(kind)
    ] == [
        "features",
        "samples",
    ]
    assert Memory().allowed("none")


def test_flat_names_and_back():
    memory = filled()
    memory.drop_empty()
    back = Memory.from_tensors(memory.to_tensors())
    assert back.stores.keys() == memory.stores.keys()
    assert torch.equal(back.store("statistics", "fisher")["layers.0/odd.name"], torch.ones(3, 4))


@pytest.mark.parametrize("name", ["secrets/fisher/x", "statistics/fisher", "statistics//x", "fisher"])
def test_a_name_that_is_no_part_of_a_memory(name):
    with pytest.raises(ValueError, match="is no part of a method's memory"):
        Memory.from_tensors({name: torch.ones(1)})


def test_a_yaml_that_hides_what_its_piece_keeps_is_refused_before_anything_runs(monkeypatch):
    hiding = read_declaration("o_lora").model_copy(update={"stores": "none"})
    monkeypatch.setattr(registry, "read_declaration", lambda name: hiding)
    with pytest.raises(UserError, match=r"o_lora\.yaml: stores: none, but its piece ortho keeps statistics"):
        build_method(parse_options({"name": "o_lora"}))


class Hoarder(Piece):
    def end_training(self, ctx):
        ctx.memory.store("features", "hoard")["x"] = torch.ones(2)


def test_who_keeps_more_than_declared_is_stopped():
    lora = build_method(parse_options({"name": "lora"}))
    method = type(lora)(lora.name, lora.declared, (*lora.pieces, Hoarder()))
    net = nn.ModuleDict({"linear": nn.Linear(3, 2)})
    ctx = TaskContext(net, ["linear"], [], 0, 1, None)
    method.before_task(ctx)
    with pytest.raises(RuntimeError, match="method lora declares stores: none and kept features"):
        method.after_task(ctx)
