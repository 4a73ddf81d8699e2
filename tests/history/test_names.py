"""What is passed on names no path."""

import json
import shutil

import pytest
import yaml

from codyra.engine.folder_reader import read_run
from codyra.history.export import export
from codyra.history.names import base_name, data_name, hub_id


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("imagefolder:/home/ada/data/flowers", "imagefolder:flowers"),
        ("imagefolder:flowers/", "imagefolder:flowers"),
        (r"csv:C:\Users\ada\reviews", "csv:reviews"),
        ("csv:${data_dir}/x", "csv:x"),
        ("hf:PolyAI/banking77@90d4e2e", "hf:PolyAI/banking77@90d4e2e"),
        ("hf:/home/ada/saved", "hf:saved"),
        ("hf:../ada/saved@1", "hf:saved@1"),
    ],
)
def test_data_are_named_without_the_path(source, name):
    assert data_name(source) == name


def with_model(run, folder, name, revision=None):
    shutil.copytree(run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"] |= {"name": name, "revision": revision}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["base"] |= {"name": name, "revision": revision}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("name", "shown", "hub"),
    [
        ("openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16"),
        ("/home/ada/models/clip", "clip", None),
        ("../ada/clip/", "clip", None),
        ("a/b/clip", "clip", None),
        ("builtin:tiny-clip", "builtin:tiny-clip", None),
    ],
)
def test_base_models(runs, tmp_path, name, shown, hub):
    view = read_run(with_model(runs["codyra"], tmp_path / "run", name))
    assert (base_name(view), hub_id(view)) == (shown, hub)


def test_a_folder_beside_the_config_is_no_hub_id(runs, tmp_path):
    run = with_model(runs["codyra"], tmp_path / "run", "models/clip")
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"root": str(tmp_path)}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert hub_id(read_run(run)) == "models/clip"
    (tmp_path / "models/clip").mkdir(parents=True)
    assert hub_id(read_run(run)) is None


def test_an_export_names_a_base_model_of_the_hub(runs, tmp_path):
    run = with_model(runs["cumulative"], tmp_path / "run", "openai/clip-vit-base-patch16", "abc123")
    export(run, 3, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["base_model"] == "openai/clip-vit-base-patch16"
    assert metadata["base_model_relation"] == "adapter"
    assert "from_pretrained('openai/clip-vit-base-patch16', revision='abc123')" in card
    assert "codyra checkout" not in card
