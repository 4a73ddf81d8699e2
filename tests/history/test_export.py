"""Exports: adapters that stock peft loads, padded or not, with a card that says what they stand on."""

import json
import os
import shlex
import shutil

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModel

from codyra.errors import UserError
from codyra.history.checkout import checkout
from codyra.history.export import SERVER_RANKS, Exported, _serving, export
from codyra.update import TaskUpdate
from engine.faults import reseal


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    export(runs["codyra"], 3, folder / "plain")
    export(runs["codyra"], 3, folder / "padded", pad=True)
    export(runs["cumulative"], 2, folder / "cumulative")
    checkout(runs["codyra"], folder / "after-2", after=2)
    checkout(runs["codyra"], folder / "base", after=0)
    return folder


def adapted(base, adapter):
    return PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).merge_and_unload()


def outputs(net):
    torch.manual_seed(0)
    with torch.no_grad():
        size = net.config.vision_config.image_size
        seen = net(input_ids=torch.randint(5, 30, (3, 9)), pixel_values=torch.rand(2, 3, size, size))
    return torch.cat([seen.image_embeds, seen.text_embeds])


def mixed(run, tmp_path):
    """The run with ranks of task 3 that differ from module to module."""
    torch.manual_seed(0)
    update = TaskUpdate.load(run / "tasks/03-plain")
    ranks = {name: index % 4 for index, name in enumerate(update.full_ranks)}
    factors = {
        name: (0.1 * torch.randn(ranks[name], A.shape[1]), 0.1 * torch.randn(B.shape[0], ranks[name]))
        for name, (A, B) in update.factors.items()
        if ranks[name]
    }
    ranks = {name: rank if name in factors else 0 for name, rank in ranks.items()}
    TaskUpdate("low_rank", factors, {}, ranks, update.full_ranks, base_info=update.base_info).save(tmp_path)
    return factors


def test_on_the_model_it_presupposes_an_adapter_gives_the_next_one(runs, checkouts, exports):
    seen = outputs(adapted(exports / "after-2", exports / "plain"))
    expected = outputs(AutoModel.from_pretrained(checkouts["codyra"]))
    assert torch.allclose(seen, expected, atol=1e-5)
    assert not torch.allclose(seen, outputs(AutoModel.from_pretrained(exports / "after-2")), atol=1e-3)


def test_a_cumulative_adapter_stands_on_the_base_alone(runs, exports, tmp_path):
    checkout(runs["cumulative"], tmp_path / "after-2", after=2)
    checkout(runs["cumulative"], tmp_path / "base", after=0)
    seen = outputs(adapted(tmp_path / "base", exports / "cumulative"))
    assert torch.allclose(seen, outputs(AutoModel.from_pretrained(tmp_path / "after-2")), atol=1e-5)
    assert "stands on the base model alone" in (exports / "cumulative/README.md").read_text()


def test_padding_changes_no_output(runs, exports, tmp_path):
    run = shutil.copytree(runs["codyra"], tmp_path / "run")
    mixed(run, run / "tasks/03-plain")
    reseal(run)
    plain, padded = export(run, 3, tmp_path / "plain"), export(run, 3, tmp_path / "padded", pad=True)
    assert (plain.ranks, padded.ranks) == ((1, 3), (3, 3))
    config = json.loads((tmp_path / "padded/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 3)
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    assert json.loads((tmp_path / "plain/adapter_config.json").read_text())["rank_pattern"]
    one, two = (
        PeftModel.from_pretrained(AutoModel.from_pretrained(exports / "base"), tmp_path / name)
        for name in ("plain", "padded")
    )
    assert torch.allclose(outputs(one), outputs(two), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(outputs(one), outputs(AutoModel.from_pretrained(exports / "base")), atol=1e-3)


def test_files_and_card(runs, exports):
    assert sorted(os.listdir(exports / "plain")) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    stored = runs["codyra"] / "tasks/03-plain"
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (exports / "plain" / file).read_bytes() == (stored / file).read_bytes()
    card = (exports / "plain/README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    assert "--max-lora-rank 8" in card
    command = shlex.split(card.split("```bash\n")[1].split("\n")[0])
    assert command == ["codyra", "checkout", "codyra", "--after", "2", "--out", "after-task-2"]
    manifest = json.loads((runs["codyra"] / "manifest.json").read_text())
    assert manifest["base"]["sha256"] in card


def test_the_code_of_the_card_runs(exports, tmp_path, monkeypatch):
    shutil.copytree(exports / "after-2", tmp_path / "after-task-2")
    for name in ("plain", "padded"):
        folder = shutil.copytree(exports / name, tmp_path / name)
        (folder / "after-task-2").symlink_to(tmp_path / "after-task-2")
        monkeypatch.chdir(folder)
        names: dict = {}
        exec((folder / "README.md").read_text().split("```python\n")[1].split("```")[0], names)
        assert isinstance(names["model"], PeftModel)


@pytest.mark.parametrize(
    ("method", "number", "words"),
    [
        ("full", 2, "codyra checkout .* --after 2"),
        ("zero_shot", 1, "left nothing behind"),
        ("codyra", 4, "task 4 is not learnt; learnt so far"),
        ("codyra", 0, "task 0 is not learnt"),
    ],
)
def test_what_is_no_adapter_is_refused_in_one_line(runs, tmp_path, method, number, words):
    with pytest.raises(UserError, match=words) as caught:
        export(runs[method], number, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "needed"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_the_smallest_rank_a_server_takes(rank, needed):
    assert next(allowed for allowed in SERVER_RANKS if allowed >= rank) == needed
    assert f"--max-lora-rank {needed}" in _serving(Exported(1, (rank, rank), 0, needed), pad=False)


def test_an_adapter_too_large_for_every_server():
    assert "serve the merged model" in _serving(Exported(1, (513, 513), 0, None), pad=False)
