"""Crafted task updates: each is refused in one line that names the folder, before anything is merged."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from codyra.errors import UserError
from codyra.update import TaskUpdate, compose

A, B = (f"base_model.model.layers.0.lora_{factor}.weight" for factor in "AB")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved low-rank update of `layers.0`, 3 of 4 ranks kept of a linear of 5 in and 6 out features."""
    factors = {"layers.0": (torch.randn(3, 5), torch.randn(6, 3))}
    update = TaskUpdate("low_rank", factors=factors, ranks={"layers.0": 3}, full_ranks={"layers.0": 4})
    update.save(tmp_path / "update", base_model="some/model")
    return tmp_path / "update"


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        TaskUpdate.load(folder)
    line = str(caught.value)
    assert str(folder) in line
    assert line.isprintable()
    return line


def edit(file: Path, path: tuple[Any, ...], value: Any) -> None:
    content = json.loads(file.read_text())
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    file.write_text(json.dumps(content))


MODULE = ("modules", "layers.0")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*MODULE, "kept"), -1, "modules.layers.0.kept: Input should be greater than or equal to 0"),
        ((*MODULE, "kept"), 2, "but 2 of 4 ranks are kept"),
        ((*MODULE, "kept"), 5, "5 of 4 ranks of layers.0 are kept"),
        ((*MODULE, "kept"), 10**9, "1000000000 of 4 ranks"),
        ((*MODULE, "kept"), True, "kept: Input should be a valid integer"),
        ((*MODULE, "kept"), "3", "kept: Input should be a valid integer"),
        ((*MODULE, "kept"), 3.0, "kept: Input should be a valid integer"),
        ((*MODULE, "kept"), None, "has ranks for every module"),
        ((*MODULE, "kept"), [3], "kept: Input should be a valid integer"),
        ((*MODULE, "r"), 0, "r: Input should be greater"),
        ((*MODULE, "r"), None, "has ranks for every module"),
        ((*MODULE, "norm"), "1.0", "norm: Input should be a valid number"),
        ((*MODULE, "norm"), -1.0, "norm: Input should be greater"),
        (MODULE, [3, 4, 1.0], "modules.layers.0"),
        (("modules",), [], "modules: Input should be"),
        (("modules",), None, "modules: Input should be"),
        (("modules",), {}, "has not the modules"),
        (("modules", "layers.1"), {"kept": 1, "r": 4, "norm": 0.0}, "has not the modules"),
        (("kind",), "sparse", "kind: Input should be"),
        (("kind",), ["low_rank"], "kind: Input should be"),
        (("kind",), "dense", "update.safetensors is missing"),
        (("no_change",), 1, "no_change: Input should be a valid boolean"),
        (("no_change",), True, "the factors are not those"),
        (("survival_auc",), 2.0, "survival_auc: Input should be less"),
        (("survival_auc",), "high", "survival_auc: Input should be a valid number"),
    ],
)
def test_a_crafted_rank_table(folder, path, value, message):
    edit(folder / "ranks.json", path, value)
    assert message in refused(folder)


@pytest.mark.parametrize(
    "text", ["[]", "null", "3", '"low_rank"', "{", "{}", '{"kind": "none", "kind": "none"}']
)
def test_a_rank_table_that_is_none(folder, text):
    (folder / "ranks.json").write_text(text)
    assert "ranks.json is damaged" in refused(folder)


def test_a_module_that_stands_twice(folder):
    text = (folder / "ranks.json").read_text()
    row = '"layers.0": {"kept": 3, "r": 4, "norm": 0.0}'
    (folder / "ranks.json").write_text(text.replace('"modules": {', '"modules": {' + row + ","))
    assert "the key 'layers.0' stands twice" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", {"layers": 0}),
        ("target_modules", [1]),
        ("base_model_name_or_path", 3),
        ("fan_in_fan_out", "yes"),
        ("auto_mapping", "x"),
        ("task_type", []),
        ("peft_type", "LOHA"),
        ("r", "3"),
        ("rank_pattern", {"layers.0": "3"}),
        ("lora_alpha", 300),
        ("alpha_pattern", {"layers.0": 300}),
    ],
)
def test_a_crafted_adapter_config(folder, key, value):
    edit(folder / "adapter_config.json", (key,), value)
    assert "adapter_config.json is damaged" in refused(folder)


TENSORS = {
    "K differs between A and B": ({A: torch.ones(2, 5)}, "have shapes ((2, 5), (6, 3))"),
    "B is turned": ({B: torch.ones(3, 6)}, "have shapes ((3, 5), (3, 6))"),
    "A is a vector": ({A: torch.ones(15)}, "have shapes ((15,), (6, 3))"),
    "A is a scalar": ({A: torch.tensor(1.0)}, "have shapes ((), (6, 3))"),
    "three dimensions": ({A: torch.ones(3, 5, 1)}, "have shapes"),
    "no features": ({A: torch.ones(3, 0), B: torch.ones(0, 3)}, None),
    "NaN": ({A: torch.full((3, 5), float("nan"))}, "not finite"),
    "infinity": ({B: torch.full((6, 3), float("inf"))}, "not finite"),
    "beyond all sense": (
        {A: torch.full((3, 5), 1e300, dtype=torch.float64), B: torch.ones(6, 3).double()},
        "beyond all sense",
    ),
    "float64": ({A: torch.ones(3, 5).double(), B: torch.ones(6, 3).double()}, None),
    "float16": ({A: torch.ones(3, 5).half(), B: torch.ones(6, 3).half()}, None),
    "float64 and float32": ({A: torch.ones(3, 5).double()}, "both have one type"),
    "float16 and bfloat16": (
        {A: torch.ones(3, 5).half(), B: torch.ones(6, 3).bfloat16()},
        "both have one type",
    ),
    "float8": ({A: torch.ones(3, 5).to(torch.float8_e4m3fn)}, "of type torch.float8_e4m3fn"),
    "integers": ({A: torch.ones(3, 5, dtype=torch.int8)}, "of type torch.int8"),
    "booleans": ({A: torch.ones(3, 5, dtype=torch.bool)}, "of type torch.bool"),
    "complex": ({A: torch.ones(3, 5, dtype=torch.complex64)}, "of type torch.complex64"),
    "one too many": ({"extra": torch.ones(1)}, "has not the modules"),
    "another module": (
        {B.replace("layers.0", "layers.1"): torch.ones(6, 3)},
        "has not the modules",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_crafted_factors(folder, case):
    changed, message = TENSORS[case]
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), **changed}, file)
    if message is None:
        assert TaskUpdate.load(folder).ranks == {"layers.0": 3}
    else:
        assert message in refused(folder)


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", ".a", "a.", "(a+)+$", "a|b", "a\nb", "a\x1b[2J", "\u202ea"]
)
def test_strange_module_names(folder, name):
    edit(folder / "ranks.json", ("modules", name), {"kept": 0, "r": 4, "norm": 0.0})
    assert "is no module name" in refused(folder)


def test_files_that_are_no_files(folder, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    for name in ("ranks.json", "adapter_config.json", "adapter_model.safetensors"):
        for make in (os.mkfifo, os.mkdir, lambda file: None):
            (folder / name).unlink()
            make(folder / name)
            assert name in refused(folder)
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
        (folder / name).unlink()
        (folder / name).symlink_to(whole / name)
        assert "lies outside" in refused(folder)
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        assert "lies outside" in refused(folder)
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
    assert TaskUpdate.load(folder).ranks == {"layers.0": 3}


def test_crafted_differences(tmp_path):
    TaskUpdate("dense", tensors={"weight": torch.ones(2)}).save(tmp_path)
    for tensor, message in (
        (torch.ones(2, dtype=torch.int64), "of type torch.int64"),
        (torch.tensor([float("nan")]), "not finite"),
    ):
        save_file({"weight": tensor}, tmp_path / "update.safetensors")
        assert message in refused(tmp_path)


def test_crafted_heads(tmp_path):
    whole = {"fusion": torch.tensor(0.8), "H": torch.ones(3, 5), "W": torch.ones(5, 2)}
    TaskUpdate("head", tensors=whole).save(tmp_path)
    assert TaskUpdate.load(tmp_path).head.num_classes == 2
    for changed, message in (
        ({"W": torch.ones(4, 2)}, "are no head"),
        ({"H": torch.ones(5)}, "are no head"),
        ({"fusion": torch.ones(2)}, "are no head"),
        ({"more": torch.ones(2)}, "are no head"),
        ({"W": torch.full((5, 2), torch.inf)}, "not finite"),
    ):
        save_file({**whole, **changed}, tmp_path / "update.safetensors")
        assert message in refused(tmp_path)


# --- what fits no network


class Net(nn.Module):
    """Layers of one weight shape, one of them a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.embedding = nn.Embedding(4, 4)
        self.norm = nn.LayerNorm((4, 4))
        self.bare = nn.Parameter(torch.zeros(4, 4))


def factors_for(name: str) -> TaskUpdate:
    factors = {name: (torch.ones(1, 4), torch.ones(4, 1))}
    return TaskUpdate("low_rank", factors=factors, ranks={name: 1}, full_ranks={name: 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedding", "is Embedding, not a linear layer"),
        ("norm", "is LayerNorm, not a linear layer"),
        ("bare", "is missing"),
        ("linear.weight", "is missing"),
        ("forward", "is missing"),
        ("__class__", "is missing"),
        ("linear.0", "is missing"),
    ],
)
def test_factors_go_into_linears_only(name, message):
    net = Net()
    base = {key: value.detach() for key, value in net.named_parameters()}
    compose(net, base, [factors_for("linear")])
    with pytest.raises(UserError, match=message):
        compose(net, base, [factors_for(name)])
    with pytest.raises(UserError, match="is missing"):
        compose(net, base, [TaskUpdate("dense", tensors={"linear": torch.ones(4, 4)})])
