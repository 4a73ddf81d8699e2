"""The objective against loops, the scoring against hand-made features, and the shortcuts against the long
way."""

import math
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from codyra.errors import UserError
from codyra.families import ModelSpec, load_family
from codyra.families.dual_encoder import PROMPTS_PER_CHUNK, TaskObjective, text_to_image_loss
from codyra.families.image_text import ImageTextEncoder
from codyra.families.sentence import SentenceEncoder
from codyra.tuner import products
from families.tiny_encoders import WORDS, Split, image_task, save_clip, task_for, text_task

CLASSES = ("red bird", "cat", "very big green dog", "square")


def naive_losses(images, labels, prompts, scale, num_rows):
    """docs/method.md, term by term; images and prompts are lists of unit vectors."""

    def dot(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True))

    image_to_text = 0.0
    for image, label in zip(images, labels, strict=True):
        logits = [scale * dot(image, prompt) for prompt in prompts]
        image_to_text -= logits[label] - math.log(sum(math.exp(value) for value in logits))
    text_to_image = 0.0
    for row, prompt in enumerate(prompts):
        logits = [scale * dot(image, prompt) for image in images]
        log_sum = math.log(sum(math.exp(value) for value in logits))
        for position, label in enumerate(labels):
            target = 1.0 if label == row else 0.0
            text_to_image -= target * (logits[position] - log_sum)
    return image_to_text / len(images), text_to_image / num_rows


@pytest.mark.parametrize("text_loss", ["official", "current"])
@pytest.mark.parametrize(
    "positions", [[0, 1, 2, 3, 6, 9], [0, 1, 0], [4]], ids=["all classes", "two missing", "one"]
)
def test_loss_is_that_of_the_method(family, text_loss, positions):
    task = task_for(family, "task", CLASSES)
    before = task_for(family, "before", tuple(f"class {number}" for number in range(7)))
    family.net.double()
    objective = family.start_task(task, [before], text_loss=text_loss, micro_batch_size=None)
    batch = objective.batch(positions, random.Random(0))
    losses = objective.loss(batch)

    with torch.no_grad():
        images = F.normalize(family.encode_inputs(batch)).tolist()
    prompts = family.prompt_features(task.prompts).tolist()
    labels = [task.train.labels[position] for position in positions]
    assert batch["labels"].tolist() == labels
    num_rows = len(CLASSES) + (7 if text_loss == "official" else 0)
    expected = naive_losses(images, labels, prompts, float(family.logit_scale()), num_rows)
    assert losses["image_to_text"].item() == pytest.approx(expected[0], rel=1e-6)
    assert losses["text_to_image"].item() == pytest.approx(expected[1], rel=1e-6)
    assert losses["loss"].item() == pytest.approx(sum(expected), rel=1e-6)


def test_a_batch_is_not_split(family):
    task = task_for(family, "task", CLASSES)
    with pytest.raises(UserError, match=r"train.micro_batch_size: .* lower train.batch_size"):
        family.start_task(task, [], text_loss="official", micro_batch_size=2)
    with pytest.raises(UserError, match=r"train.gradient_checkpointing is for causal"):
        family.checkpointed_activations(True).__enter__()


def test_text_to_image_loss_by_hand():
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    # All show class 0; class 1 is not in the batch and only widens the mean, as two earlier classes do.
    loss = text_to_image_loss(logits, torch.tensor([0, 0, 0]), num_rows=4)
    shares = torch.tensor([1.0, 3.0, 0.0]).softmax(0)
    assert loss.item() == pytest.approx(-shares.log().sum().item() / 4)


def test_logit_scale_is_the_models_own_and_frozen(load):
    clip = load("clip")
    assert float(clip.logit_scale()) == pytest.approx(math.exp(clip.net.logit_scale.item()))
    assert not clip.logit_scale().requires_grad
    assert load("bert").logit_scale() == 20.0


def test_gradients_reach_what_is_trainable_and_nothing_else(family):
    task = task_for(family, "task", CLASSES)
    assert not any(parameter.requires_grad for parameter in family.net.parameters())
    assert not family.net.training
    trainable = family.full_parameters()
    for name, parameter in family.net.named_parameters():
        parameter.requires_grad_(name in trainable)
    objective = TaskObjective(family, task, 0)
    objective.loss(objective.batch(range(8), random.Random(0)))["loss"].backward()
    without = {name for name, parameter in family.net.named_parameters() if parameter.grad is None}
    assert without == set(dict(family.net.named_parameters())) - set(trainable)
    assert without <= {"logit_scale", "logit_bias", "pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_prompts_of_a_frozen_text_tower_are_encoded_once(load, kind):
    family = load(kind)
    calls = []
    family.net.text_model.register_forward_hook(lambda *_: calls.append(1))
    objective = TaskObjective(family, task_for(family, "task", CLASSES), 0)
    family.net.vision_model.requires_grad_(True)
    batch = objective.batch([0, 4], random.Random(0))
    frozen = [objective.loss(batch)["loss"] for _ in range(3)]
    assert len(calls) == 1
    assert frozen[0].requires_grad
    family.net.text_model.requires_grad_(True)
    objective = TaskObjective(family, task_for(family, "task", CLASSES), 0)
    trained = [objective.loss(batch)["loss"] for _ in range(2)]
    assert len(calls) == 3
    assert trained[0].item() == frozen[0].item()


def test_crops_come_from_the_given_generator_alone(load):
    clip = load("clip")
    objective = TaskObjective(clip, image_task("task", CLASSES), 0)
    state = torch.get_rng_state(), random.getstate()
    first = objective.batch([0, 1, 2], random.Random(3))["pixels"]
    assert torch.equal(first, objective.batch([0, 1, 2], random.Random(3))["pixels"])
    assert not torch.equal(first, objective.batch([0, 1, 2], random.Random(4))["pixels"])
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()


def test_a_share_of_the_batch_has_the_crops_of_the_whole_and_makes_all_draws(load):
    clip = load("clip")
    objective = TaskObjective(clip, image_task("task", CLASSES), 0)
    rngs = random.Random(3), random.Random(3)
    whole = objective.batch([5, 0, 7, 2], rngs[0])
    part = objective.batch([5, 0, 7, 2], rngs[1], slice(1, 3))
    assert torch.equal(whole["pixels"][1:3], part["pixels"])
    assert torch.equal(whole["labels"][1:3], part["labels"])
    assert rngs[0].getstate() == rngs[1].getstate()


# Prompts cut to their length


def chunks_of(family, prompts):
    return family.token_chunks(family.tokenize(prompts), range(len(prompts)))


@pytest.mark.parametrize("legacy_eos", [False, True], ids=["eos id", "legacy argmax"])
def test_trimmed_clip_prompts_have_the_features_of_full_length(tmp_path, legacy_eos):
    family = load_family(ModelSpec(name=str(save_clip(tmp_path, legacy_eos))))
    assert (family.net.config.text_config.eos_token_id == 2) == legacy_eos
    prompts = ["a cat", "a photo of the very big red bird", "dog", " ".join(WORDS)]
    trimmed = family.prompt_features(prompts)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    padded = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt")
    assert padded["input_ids"].shape == (4, 77)
    features = family.net.get_text_features(**padded).pooler_output
    assert torch.allclose(trimmed, F.normalize(features), atol=1e-6)
    assert chunks_of(family, prompts)[0]["input_ids"].shape == (4, 2 + len(WORDS))
    # The prompts differ, so equal features are not a matter of pooling the same place everywhere.
    assert (trimmed @ trimmed.T - torch.eye(4)).max() < 0.9999


def test_siglip_prompts_keep_their_full_length(load):
    family = load("siglip")
    prompts = ["a cat", "a photo of the very big red bird"]
    tokens = family.tokenizer(prompts, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    assert torch.equal(chunks_of(family, prompts)[0]["input_ids"], tokens)
    expected = F.normalize(family.net.get_text_features(input_ids=tokens).pooler_output)
    assert torch.allclose(family.prompt_features(prompts), expected, atol=1e-6)


def test_sentences_are_the_mean_of_their_own_tokens(load):
    family = load("bert")
    texts = ["cat", "a photo of the red bird", "very big dog"]
    features = family.prompt_features(texts)
    for text, feature in zip(texts, features, strict=True):
        ids = torch.tensor([family.tokenizer(text)["input_ids"]])
        mean = family.net(input_ids=ids).last_hidden_state.mean(dim=1)
        assert torch.allclose(feature, F.normalize(mean)[0], atol=1e-6)


def test_prompts_are_encoded_in_bounded_chunks(load):
    family = load("clip")
    prompts = [f"{first} {second}" for first in WORDS for second in WORDS][: PROMPTS_PER_CHUNK + 5]
    assert [len(chunk["input_ids"]) for chunk in chunks_of(family, prompts)] == [PROMPTS_PER_CHUNK, 5]
    assert torch.allclose(
        family.prompt_features(prompts)[-1:], family.prompt_features(prompts[-1:]), atol=1e-6
    )


def test_prompts_of_like_length_are_encoded_together(load):
    family = load("clip")
    long, short = " ".join(WORDS), [f"{first} {second}" for first in WORDS for second in WORDS]
    prompts = [long, *short[: PROMPTS_PER_CHUNK - 1], "cat", short[-1]]
    shapes = []
    encode = family.encode_prompts
    family.encode_prompts = lambda batch: shapes.append(tuple(batch["input_ids"].shape)) or encode(batch)
    features = family.prompt_features(prompts)
    assert shapes == [(PROMPTS_PER_CHUNK, 4), (2, 2 + len(WORDS))]
    alone = torch.cat([family.prompt_features([prompts[place]]) for place in (0, 1, -2, -1)])
    torch.testing.assert_close(features[[0, 1, -2, -1]], alone, atol=1e-6, rtol=0)


def test_scores_are_the_same_whichever_routine_multiplies(load, monkeypatch):
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch was built without oneDNN")
    task = image_task("task", CLASSES)
    found, used = [], []
    product = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(products, "WORTH_ONEDNN", 0)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *args: used.append(1) or product(*args))
    for quicker in (False, True):
        monkeypatch.setattr(products, "onednn_is_quicker", lambda quicker=quicker: quicker)
        family = load("clip")
        cosines = family.compare(task.test.inputs, [(prompt,) for prompt in task.prompts])[1]
        found.append((cosines, family.score([task])))
        assert bool(used) == quicker
    (plain, score), (other, other_score) = found
    torch.testing.assert_close(other, plain, atol=1e-5, rtol=0)
    assert other_score == score


def test_image_features_are_those_of_the_model(load):
    for kind in ("clip", "siglip"):
        family = load(kind)
        task = image_task("task", CLASSES)
        batch = family.test_inputs(task).test([0, 5])
        pixels = family.image_processor([task.test.inputs[i].open() for i in (0, 5)], return_tensors="pt")
        with torch.no_grad():
            theirs = family.net.get_image_features(**pixels).pooler_output
            assert torch.allclose(family.encode_inputs(batch), theirs, atol=1e-5)


# Scoring


class Oracle(SentenceEncoder):
    """Features are a table: the tokenizer's first word decides, so every prediction is known beforehand."""

    def encode_inputs(self, batch):
        return F.one_hot(batch["input_ids"][:, 1], 40).double()


@pytest.fixture
def oracle(load):
    bert = load("bert")
    return Oracle(bert.net, bert.tokenizer, context=12, lowercase=False, files={})


def scored_task(name, prompts, texts, labels):
    empty = Split((), ())
    return replace(
        text_task(name, tuple(f"class {i}" for i in range(len(prompts)))),
        prompts=tuple(prompts),
        train=empty,
        test=Split(tuple(texts), tuple(labels)),
    )


def test_pooled_and_own_label_space_in_one_pass(oracle):
    # "one" knows no bird: its own classes are equally near and the first wins; pooled, "two" has a bird.
    one = scored_task("one", ["cat", "dog"], ["cat", "dog", "bird", "bird"], [0, 1, 0, 1])
    two = scored_task("two", ["bird", "red"], ["bird", "red", "cat"], [0, 1, 1])
    scores = oracle.score([one, two])
    assert [(score.name, score.examples) for score in scores] == [("one", 4), ("two", 3)]
    assert [(score.correct, score.correct_task) for score in scores] == [(2, 3), (2, 2)]


def test_ties(oracle):
    # Class 1 of "one" and class 0 of "two" have the prompt of class 0 of "one".
    one = scored_task("one", ["cat", "cat", "dog"], ["cat", "cat", "dog"], [0, 1, 2])
    two = scored_task("two", ["cat", "bird"], ["cat", "bird", "dog"], [0, 1, 0])
    shared = oracle.score([one, two], ties="shared")
    assert [(score.correct, score.correct_task) for score in shared] == [(3, 3), (2, 3)]
    first = oracle.score([one, two], ties="first")
    assert [(score.correct, score.correct_task) for score in first] == [(2, 2), (1, 3)]


def test_the_result_does_not_depend_on_the_batch_size_and_every_example_counts_once(family):
    tasks = [
        task_for(family, "one", CLASSES, seed=1),
        task_for(family, "two", ("bird", "cat"), seed=2, per_class=4),
    ]
    seen = []
    whole = family.score(tasks, progress=seen.append)
    assert sum(seen) == 12 + 8
    seen.clear()
    assert family.score(tasks, batch_size=3, progress=seen.append) == whole
    assert seen == [3, 3, 3, 3, 3, 3, 2]
    assert [score.examples for score in whole] == [12, 8]


def test_scores_are_those_of_a_loop_over_the_model(family):
    tasks = [task_for(family, "one", CLASSES, seed=1), task_for(family, "two", ("bird", "warm cat"), seed=2)]
    prompts = [prompt for task in tasks for prompt in task.prompts]
    features = family.prompt_features(prompts)
    offset = 0
    for task, score in zip(tasks, family.score(tasks), strict=True):
        correct = correct_task = 0
        for position, label in enumerate(task.test.labels):
            batch = family.test_inputs(task).test([position])
            cosines = (F.normalize(family.encode_inputs(batch)) @ features.T)[0]
            own = cosines[offset : offset + len(task.prompts)]
            correct += int(cosines.argmax()) == offset + label
            correct_task += int(own.argmax()) == label
        assert (score.correct, score.correct_task) == (correct, correct_task)
        offset += len(task.prompts)


def test_a_limit_scores_the_first_examples_of_every_test_set(family):
    tasks = [task_for(family, "one", CLASSES, seed=1), task_for(family, "two", ("bird", "cat"), seed=2)]
    heads = [replace(task, test=Split(task.test.inputs[:4], task.test.labels[:4])) for task in tasks]
    seen = []
    assert family.score(tasks, limit=4, progress=seen.append) == family.score(heads)
    assert [score.examples for score in family.score(tasks, limit=1000)] == [12, 6]
    assert seen == [4, 4]


def test_scoring_leaves_no_graph_and_no_random_state_behind(family):
    family.net.requires_grad_(True)
    state = torch.get_rng_state()
    family.score([task_for(family, "task", CLASSES)])
    assert torch.equal(state, torch.get_rng_state())


def test_low_precision_weights_score_and_train(load):
    for kind in ("clip", "siglip", "bert"):
        family = load(kind, dtype="bfloat16")
        task = task_for(family, "task", CLASSES)
        assert family.prompt_features(task.prompts).dtype == torch.float32
        objective = TaskObjective(family, task, 0)
        assert objective.loss(objective.batch([0, 4], random.Random(0)))["loss"].dtype == torch.float32
        assert family.score([task])[0].examples == 12


# What is refused before anything runs, and what a report shows


def test_other_inputs_are_refused(family):
    other = text_task("words", CLASSES) if family.modality == "image" else image_task("pictures", CLASSES)
    with pytest.raises(UserError, match=rf"task '{other.name}' has {other.modality} inputs"):
        family.check([other])


def test_a_prompt_beyond_the_context_is_named(family):
    longest = " ".join(["cat"] * (family.context - 2))
    family.check([task_for(family, "fits", ("cat", longest), prompt="{}")])
    task = task_for(family, "long", ("cat", f"{longest} cat"), prompt="{}")
    with pytest.raises(UserError, match=rf"task 'long'.*{family.context + 1} tokens") as caught:
        family.check([task])
    assert "cat cat" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_long_examples_of_a_sentence_encoder_are_cut(load):
    family = load("bert")
    long = " ".join(["cat"] * 30)
    task = replace(text_task("task", ("cat",)), test=Split((long,), (0,)))
    assert family.test_inputs(task).test([0])["input_ids"].shape == (1, family.context)


def test_preview_shows_the_first_example_of_each_class(family):
    task = task_for(family, "task", CLASSES)
    preview = family.preview(task, count=3)
    assert [row["label"] for row in preview] == list(CLASSES[:3])
    if isinstance(family, ImageTextEncoder):
        assert all(max(row["image"].size) <= 96 for row in preview)
        assert preview[1]["image"].tobytes() == task.test.inputs[3].open().tobytes()
    else:
        assert [row["text"] for row in preview] == [task.test.inputs[index] for index in (0, 3, 6)]
