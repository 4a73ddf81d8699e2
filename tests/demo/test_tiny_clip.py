from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

import codyra.demo
from codyra.demo import pretrain
from codyra.demo.pretrain import MAX_TOKENS, build_tokenizer, jitter, to_pixels
from codyra.demo.stream import TASKS
from codyra.demo.world import picture

DIRECTORY = Path(codyra.demo.__file__).parent / "tiny_clip"


@pytest.fixture(scope="module")
def model():
    return CLIPModel.from_pretrained(DIRECTORY).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DIRECTORY)


def test_the_shipped_model_is_small_and_loads_as_float32(model):
    assert 2e6 <= model.num_parameters() <= 4e6
    assert (DIRECTORY / "model.safetensors").stat().st_size <= 8e6
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.logit_scale.exp().item() <= 100.001


def test_special_tokens_of_tokenizer_and_text_tower_agree(model, tokenizer):
    config = model.config.text_config
    ids = tokenizer(["a drawing of a cat.", "cat"], padding=True)["input_ids"]
    assert [row[0] for row in ids] == [config.bos_token_id] * 2
    assert ids[0][-1] == config.eos_token_id
    assert ids[1].index(config.eos_token_id) < ids[1].index(config.pad_token_id)
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.model_max_length == config.max_position_embeddings == MAX_TOKENS


@pytest.mark.parametrize(
    "text", ["a drawing of a rabbit.", "airliner no. 747", "fleurs d'été", "花", "x" * 20]
)
def test_any_text_survives_the_round_trip(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_words_of_the_world_are_single_tokens_and_case_does_not_matter(tokenizer):
    assert len(tokenizer("rabbit")["input_ids"]) == 3
    assert tokenizer("A Rabbit")["input_ids"] == tokenizer("a rabbit")["input_ids"]


def test_padding_does_not_change_text_features(model, tokenizer):
    with torch.no_grad():
        alone = model.get_text_features(**tokenizer(["a cat"], return_tensors="pt")).pooler_output
        both = tokenizer(
            ["a cat", "a drawing of a penguin, in flat colours"], padding=True, return_tensors="pt"
        )
        padded = model.get_text_features(**both).pooler_output[:1]
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-5)


def test_the_image_processor_does_what_pre_training_did():
    processor = AutoImageProcessor.from_pretrained(DIRECTORY)
    image = TASKS[0].pictures(0, "train", 0)[0]
    processed = processor(images=image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(processed, to_pixels(np.asarray(image)[None]), atol=1e-5, rtol=1e-5)


def test_zero_shot_leaves_room_on_both_sides(model, tokenizer):
    processor = AutoImageProcessor.from_pretrained(DIRECTORY)
    accuracies, chances = [], []
    for task in TASKS:
        prompts = tokenizer(
            [task.prompt.format(name) for name in task.classes], padding=True, return_tensors="pt"
        )
        images = [
            image for label in range(len(task.classes)) for image in task.pictures(1, "test", label)[:8]
        ]
        with torch.no_grad():
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            predicted = model(pixel_values=pixels, **prompts).logits_per_image.argmax(dim=1)
        labels = torch.arange(len(task.classes)).repeat_interleave(8)
        accuracies.append((predicted == labels).float().mean().item())
        chances.append(1 / len(task.classes))
    assert max(accuracies) < 0.97
    assert np.mean(accuracies) > 2 * np.mean(chances)
    assert sum(a > 1.5 * c for a, c in zip(accuracies, chances, strict=True)) >= 4


def test_pre_training_lowers_the_loss_and_what_it_saves_loads_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "NUM_STEPS", 30)
    monkeypatch.setattr(pretrain, "WARM_UP_STEPS", 3)
    monkeypatch.setattr(pretrain, "BATCH_SIZE", 8)
    drawn = [picture(0, index) for index in range(8)]
    images, captions = np.stack([np.asarray(p.image) for p in drawn]), [p.caption for p in drawn]
    tokenizer = build_tokenizer(captions)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = pretrain.build_model(tokenizer).eval()
    inputs = {"pixel_values": to_pixels(images), **pretrain.tokenize(tokenizer, captions)}
    with torch.no_grad():
        before = net(**inputs, return_loss=True).loss.item()
    pretrain.train(net, tokenizer, images, captions, seed=0)
    with torch.no_grad():
        after = net(**inputs, return_loss=True)
    assert after.loss.item() < before - 0.1

    pretrain.save(net, tokenizer, "card", tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path).eval()
    ids = AutoTokenizer.from_pretrained(tmp_path)(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = loaded(pixel_values=inputs["pixel_values"], **ids)
    torch.testing.assert_close(outputs.logits_per_image, after.logits_per_image, atol=0.05, rtol=0.01)


def test_jitter_moves_pictures_and_adds_nothing():
    images = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8)
    moved = jitter(images, np.random.default_rng(1))
    assert moved.shape == images.shape
    assert not np.array_equal(moved, images)
    assert np.array_equal(jitter(images, np.random.default_rng(1)), moved)


def test_the_tokenizer_depends_on_its_captions_alone():
    captions = ["a red cat", "a blue dog", "a red dog"]
    assert build_tokenizer(captions).to_str() == build_tokenizer(captions).to_str()
