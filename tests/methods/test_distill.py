"""Distillation: the formula, a teacher that is the model before the task, and no second network."""

import gc
import random

import pytest
import torch
from torch.nn import functional as F

from codyra.families.references import ReferenceTexts
from codyra.methods.pieces.distill import distance, drawn
from codyra.methods.teacher import teaching
from families.tiny_encoders import CLIPConfig, save_clip, task_for
from methods.taught import CLASSES, KINDS, first_batch, gradients, load, method_loss, move, start

LORA = {"name": "lwf", "r": 2}
FULL = {"name": "lwf", "adapter": "full"}
RANDOM = {"name": "lwf_vr", "r": 2, "random_texts": 30}


def divergence(student, teacher, temperature):
    """T^2 * mean over rows of sum_c p_c (log p_c - log q_c), written out."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        p, q = (torch.exp(x / temperature) / torch.exp(x / temperature).sum() for x in (t, s))
        total += float((p * (p.log() - q.log())).sum())
    return temperature**2 * total / len(student)


def entropy(teacher, temperature):
    p = (teacher.double() / temperature).softmax(dim=1)
    return temperature**2 * float(-(p * p.log()).sum(dim=1).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_distance_is_the_divergence_and_the_entropy_of_the_teacher(temperature):
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7) * 3, torch.randn(5, 7) * 3
    found = float(distance(student, teacher, temperature)) / 5
    expected = divergence(student, teacher, temperature) + entropy(teacher, temperature)
    assert found == pytest.approx(expected, rel=1e-5)
    leaf = student.double().requires_grad_()
    distance(leaf, teacher.double(), temperature).backward()
    by_hand = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1))
    torch.testing.assert_close(leaf.grad.float(), by_hand, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [LORA, FULL, RANDOM], ids=["lora", "full", "random texts"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_like_its_teacher_has_no_gradient_and_one_unlike_it_has(kind, options, tmp_path):
    if options is RANDOM and kind in ("bert", "llama"):
        pytest.skip("models of images only")
    family = load(kind, tmp_path, "float64")
    method, ctx = start(family, options)
    batch = first_batch(ctx)
    still = gradients(method_loss(method, ctx, batch), ctx)
    assert max(gradient.abs().max() for gradient in still.values()) < 1e-12
    move(ctx)
    moved = gradients(method_loss(method, ctx, batch), ctx)
    for tower in family.towers.values() or [""]:
        sizes = [gradient.abs().max() for name, gradient in moved.items() if name.startswith(tower)]
        assert max(sizes) > 1e-6, tower


@pytest.mark.parametrize("options", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_logits_before_the_task(kind, options, tmp_path):
    family = load(kind, tmp_path)
    fresh, ctx = start(family, options | {"distill_weight": 0.7, "distill_temperature": 3.0})
    batch = first_batch(ctx)
    before = [(logits.detach().clone(), share) for logits, share in ctx.data.outputs(batch).comparisons]
    assert len(before) == (1 if kind == "llama" else 2)
    move(ctx)
    expected = sum(
        share * len(logits) * (divergence(own.detach(), logits, 3.0) + entropy(logits, 3.0))
        for (own, _), (logits, share) in zip(ctx.data.outputs(batch).comparisons, before, strict=True)
    )
    assert all(share * len(logits) == pytest.approx(1) for logits, share in before)
    assert method_loss(fresh, ctx, batch).item() == pytest.approx(0.7 * expected, rel=1e-4)


@pytest.mark.parametrize("options", [LORA, FULL, RANDOM], ids=["lora", "full", "random texts"])
def test_what_the_teacher_makes_of_texts_is_encoded_once_and_equals_what_it_makes_later(options, tmp_path):
    family = load("clip", tmp_path)
    method, ctx = start(family, options)
    kept = ctx.state["taught_texts"]
    move(ctx)
    batch, calls = first_batch(ctx), []
    hook = family.net.text_model.register_forward_hook(lambda *_: calls.append(1))
    method_loss(method, ctx, batch)
    hook.remove()
    assert len(calls) == (2 if options is RANDOM else 1), "the student's classes, and its random texts"
    (piece,) = (piece for piece in method.pieces if hasattr(piece, "distill_weight"))
    with teaching(ctx, "previous"):
        assert torch.equal(piece.texts(ctx), kept)
    assert not torch.equal(piece.texts(ctx), kept)


@pytest.mark.parametrize("options", [LORA, FULL], ids=["lora", "full"])
def test_the_teacher_is_in_place_only_while_it_is_asked(options, tmp_path):
    family = load("clip", tmp_path)
    plain = {name: weight.detach().clone() for name, weight in family.net.named_parameters()}
    _, ctx = start(family, options)
    batch = first_batch(ctx)
    first = ctx.data.outputs(batch).logits.detach()
    move(ctx)
    outputs = ctx.data.outputs(batch)
    trained = {name: (weight.data_ptr(), weight.detach().clone()) for name, weight in ctx.trained().items()}
    with teaching(ctx, "previous"):
        assert torch.equal(ctx.data.outputs(batch).logits, first)
        assert ctx.trained().keys() == trained.keys()
    for name, weight in ctx.trained().items():
        assert weight.data_ptr() == trained[name][0]
        assert torch.equal(weight, trained[name][1])
    # A graph that was built before is still whole.
    assert torch.equal(ctx.data.outputs(batch).logits, outputs.logits)
    outputs.logits.sum().backward()
    with pytest.raises(ZeroDivisionError), teaching(ctx, "previous"):
        _ = 1 / 0
    assert torch.equal(ctx.data.outputs(batch).logits, outputs.logits)
    start_of_net = plain if options is FULL else {}
    with teaching(ctx, "pretrained"):
        assert torch.equal(ctx.data.outputs(batch).logits, first)
        assert all(
            torch.equal(family.net.get_parameter(name), weight) for name, weight in start_of_net.items()
        )


def test_the_pretrained_teacher_is_the_base_model_whatever_came_before(tmp_path):
    family = load("clip", tmp_path)
    base = {name: weight.detach().clone() for name, weight in family.net.named_parameters()}
    for options in (LORA, FULL):
        family.write_weights(base)
        method, ctx = start(family, options)
        task_batch = first_batch(ctx)
        expected = ctx.data.outputs(task_batch).logits.detach()
        method.adapter.discard(ctx)
        family.write_weights({name: base[name] * 1.1 for name in ctx.base})  # an earlier task
        method, later = start(family, options)
        later.base = ctx.base
        move(later)
        with teaching(later, "pretrained"):
            assert torch.equal(later.data.outputs(task_batch).logits, expected)
        with teaching(later, "previous"):
            assert not torch.equal(later.data.outputs(task_batch).logits, expected)
        method.adapter.discard(later)


def test_under_autocast_the_teacher_is_not_what_the_student_was_cast_to(tmp_path):
    family = load("clip", tmp_path)
    _, ctx = start(family, FULL)
    batch = first_batch(ctx)
    with torch.autocast("cpu", torch.bfloat16):
        first = ctx.data.outputs(batch).logits.detach()
    move(ctx, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        student = ctx.data.outputs(batch)
        with teaching(ctx, "previous"):
            assert torch.equal(ctx.data.outputs(batch).logits, first)
        again = ctx.data.outputs(batch)
        assert torch.equal(again.logits, student.logits)
        again.logits.sum().backward()
    assert all(weight.grad is not None for name, weight in ctx.trained().items() if "pos" not in name)


def held_bytes():
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_no_second_network_is_held(tmp_path):
    family = load("clip", tmp_path)
    size = sum(weight.nbytes for weight in family.net.parameters())
    method, ctx = start(family, LORA | {"r": 1})
    batch = first_batch(ctx)
    ctx.base = {}
    before = held_bytes()
    with teaching(ctx, "previous"):
        ctx.data.outputs(batch)
        inside = held_bytes()
    outputs = method_loss(method, ctx, batch)
    del outputs
    assert max(inside, held_bytes()) - before < size / 100


def test_random_texts_are_drawn_once_per_task_by_the_seed(tmp_path):
    family = load("clip", tmp_path)

    def rows(**changes):
        method, ctx = start(family, RANDOM, **changes)
        texts = ctx.state["random_texts"]
        assert isinstance(texts, ReferenceTexts)
        method_loss(method, ctx, first_batch(ctx))
        ctx.step = 7
        method_loss(method, ctx, first_batch(ctx))
        assert ctx.state["random_texts"] is texts
        method.adapter.discard(ctx)
        return torch.stack(texts.tokens.rows)

    first = rows()
    assert first.shape == (30, 12)
    assert torch.equal(first, rows())
    assert not torch.equal(first, rows(seed="4"))
    assert not torch.equal(first, rows(task_index=1))
    begin, end = family.tokenizer.bos_token_id, family.tokenizer.eos_token_id
    assert (first[:, 0] == begin).all()
    assert (first[:, -1] == end).all()
    inner = set(first[:, 1:-1].flatten().tolist())
    assert not inner & set(family.tokenizer.all_special_ids)
    assert inner == set(family.tokenizer.get_vocab().values()) - set(family.tokenizer.all_special_ids)


@pytest.mark.parametrize("kind", ["clip", "legacy", "siglip"])
def test_random_tokens_are_read_as_their_text_is(kind, tmp_path):
    if kind == "legacy":
        from codyra.families import ModelSpec, load_family

        family = load_family(ModelSpec(name=str(save_clip(tmp_path / "legacy", legacy_eos=True))))
        assert CLIPConfig.from_pretrained(tmp_path / "legacy").text_config.eos_token_id == 2
    else:
        family = load(kind, tmp_path)
    table = family.random_tokens(6, 10, random.Random(0))
    texts = family.tokenizer.batch_decode([row.tolist() for row in table.rows], skip_special_tokens=True)
    if not any("[UNK]" in text for text in texts):
        with torch.no_grad():
            found = ReferenceTexts(family, table).features(range(6))
            assert torch.allclose(found, family.prompt_features(texts), atol=1e-6)
    assert [len(row) for row in table.rows] == [len(row) for row in family.tokenize(texts).rows]


def test_a_step_may_compare_with_a_part_of_the_random_texts(tmp_path):
    family = load("clip", tmp_path)
    method, ctx = start(family, RANDOM | {"random_texts_per_step": 4})
    batch, seen = first_batch(ctx), []
    real = ctx.state["random_texts"].features
    ctx.state["random_texts"].features = lambda positions: seen.append(list(positions)) or real(positions)
    move(ctx)
    for step in (0, 0, 1):
        ctx.step = step
        method_loss(method, ctx, batch)
    assert [len(positions) for positions in seen] == [4, 4, 4]
    assert seen[0] == seen[1] != seen[2]
    assert drawn(ctx, "x", 5, 9) == range(5) == drawn(ctx, "x", 5, None)


def test_weight_zero_is_no_term_and_no_pass(tmp_path):
    family = load("clip", tmp_path)
    for options in (LORA, RANDOM):
        method, ctx = start(family, options | {"distill_weight": 0})
        assert method_loss(method, ctx, first_batch(ctx)) is None
        assert "taught_texts" not in ctx.state
        method.adapter.discard(ctx)


def test_the_student_still_learns_the_texts_after_the_teacher_was_asked(tmp_path):
    """The objective keeps the features of a frozen text tower; that of the teacher must not be taken for one."""
    family = load("clip", tmp_path)
    method, ctx = start(family, LORA)
    batch = first_batch(ctx)
    method_loss(method, ctx, batch)
    assert ctx.data.outputs(batch).prompts.requires_grad
    assert len(CLASSES) == len(ctx.data.prompt_features())


def test_a_frozen_text_tower_is_distilled_in_the_other(tmp_path):
    family = load("clip", tmp_path)
    for options in (LORA, RANDOM):
        method, ctx = start(family, options | {"targets": "vision"})
        move(ctx)
        found = gradients(method_loss(method, ctx, first_batch(ctx)), ctx)
        assert all(name.startswith("vision_model.") for name in found)
        assert max(gradient.abs().max() for gradient in found.values()) > 0
        method.adapter.discard(ctx)


def test_logits_of_bfloat16_are_compared_in_float32():
    student, teacher = torch.randn(3, 8).bfloat16(), torch.randn(3, 8).bfloat16()
    found = distance(student, teacher, 2.0)
    assert found.dtype == torch.float32
    target = (teacher.float() / 2).softmax(1)
    torch.testing.assert_close(found, 4 * F.cross_entropy(student.float() / 2, target, reduction="sum"))


@pytest.fixture
def references(tmp_path):
    """Gives (family, references): five captions and seven images."""

    def make(kind, dtype="float32"):
        family = load(kind, tmp_path, dtype)
        images = task_for(family, "reference", CLASSES).train.inputs[:7]
        texts = ["a red bird", "a very big dog " * 60, "a cat", "the dark circle", "warm"]
        return family, family.references(texts, images)

    return make


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_reference_data_are_compared_with_what_the_pretrained_model_says(references, kind):
    family, reference = references(kind)
    options = {"name": "zscl", "anchor_weight": 0, "reference_texts_per_step": 3}
    method, ctx = start(family, options, reference)
    batch = first_batch(ctx)
    images = ctx.rng("reference images", 4).sample(range(7), 2)
    texts = ctx.rng("reference texts", 4).sample(range(5), 3)

    def logits():
        scale = family.logit_scale()
        return (scale * reference.images.features(images) @ reference.texts.features(texts).T).detach()

    pretrained = logits()
    move(ctx)
    ctx.step = 4
    expected = 0.0
    for own, other in ((logits(), pretrained), (logits().T, pretrained.T)):
        expected += divergence(own, other, 2.0) + entropy(other, 2.0)
    assert method_loss(method, ctx, batch).item() == pytest.approx(expected, rel=1e-3)


def test_reference_data_move_both_towers_once_the_student_has_moved(references):
    family, reference = references("clip", "float64")
    method, ctx = start(family, {"name": "zscl", "reference_texts_per_step": None}, reference)
    batch = first_batch(ctx)
    still = gradients(method_loss(method, ctx, batch), ctx)
    assert max(gradient.abs().max() for gradient in still.values()) < 1e-12
    move(ctx)
    moved = gradients(method_loss(method, ctx, batch), ctx)
    for tower in family.towers.values():
        assert max(moved[name].abs().max() for name in moved if name.startswith(tower)) > 1e-6


def test_captions_are_cut_to_what_the_model_reads(references):
    family, reference = references("clip")
    assert reference.texts.tokens.lengths[1] == family.context
    assert reference.texts.tokens.rows[1][-1] == family.tokenizer.eos_token_id
    assert torch.allclose(
        reference.texts.features([2, 0]), family.prompt_features(["a cat", "a red bird"]), atol=1e-6
    )
