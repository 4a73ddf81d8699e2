"""Causal language models at the border of the room: loading, learning, answering, saving."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    GenerationConfig,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    XLNetConfig,
    XLNetLMHeadModel,
)

from codyra.errors import UserError
from codyra.families import ModelSpec, load_family
from codyra.families.causal_lm import CausalLM
from families.answer_tasks import PROMPTS, load, quiz
from families.tiny_lms import FURTHER_SAVERS, LM_SAVERS, WINDOW, bpe_tokenizer

SAVERS = LM_SAVERS | FURTHER_SAVERS
ALL = list(range(len(PROMPTS)))


@pytest.fixture(scope="session")
def lm_directory(tmp_path_factory):
    """Directory of a tiny language model by kind and options, made once; not to be written into."""
    made: dict[tuple, Path] = {}

    def get(kind: str, **options) -> Path:
        key = (kind, *sorted(options.items()))
        if key not in made:
            made[key] = SAVERS[kind](tmp_path_factory.mktemp(kind) / "model", **options)
        return made[key]

    return get


@pytest.fixture(params=list(SAVERS))
def family(request, lm_directory) -> CausalLM:
    return load(lm_directory(request.param))


@pytest.fixture
def llama(lm_directory) -> CausalLM:
    return load(lm_directory("llama"))


@pytest.fixture(params=["llama", "gpt2"])
def spoiled(request, lm_directory, tmp_path) -> Path:
    """A model directory that a test may spoil."""
    return shutil.copytree(lm_directory(request.param), tmp_path / "model")


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(directory: Path, **spec) -> str:
    with pytest.raises(UserError) as caught:
        load_family(ModelSpec(name=str(directory), **spec))
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)
    return str(caught.value)


# What is loaded


def test_a_loaded_model_is_frozen_and_in_eval_mode(family):
    assert family.modality == "answers"
    assert not family.net.training
    assert not any(parameter.requires_grad for parameter in family.net.parameters())
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= set(family.setup)


@pytest.mark.parametrize("kind", list(SAVERS))
def test_targets_are_the_linears_of_the_blocks_and_never_head_or_embedding(lm_directory, kind):
    family = load(lm_directory(kind))
    of_block = {"gpt2": {"attention": 2, "mlp": 2}, "opt": {"attention": 4, "mlp": 2}}.get(
        kind, {"attention": 4, "mlp": 3}
    )
    for part, number in of_block.items():
        assert len(family.target_modules(part)) == 2 * number
    whole = family.target_modules("all")
    assert sorted(whole) == sorted([*family.target_modules("attention"), *family.target_modules("mlp")])
    assert family.target_modules("all-linear") == whole
    suffix = "c_attn" if kind == "gpt2" else "q_proj"
    assert len(family.target_modules([suffix])) == 2
    for never in ("lm_head", "embed_tokens", "wte"):
        with pytest.raises(UserError, match=f"'{never}' matches no linear layer"):
            family.target_modules([never])
    with pytest.raises(UserError, match="this model has no vision tower"):
        family.target_modules("vision")


# What is refused


def test_models_that_cannot_answer_are_refused_in_one_line(tmp_path, spoiled):
    T5Config().save_pretrained(tmp_path / "t5")
    assert "is an encoder-decoder (t5)" in refusal(tmp_path / "t5")
    config = spoiled / "config.json"
    written = config.read_text()
    edit_json(config, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert "is quantised" in refusal(spoiled)
    config.write_text(written)
    edit_json(config, architectures=["LlamaForSequenceClassification"])
    assert "saved without a language model head (as LlamaForSequenceClassification)" in refusal(spoiled)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (XLNetLMHeadModel, XLNetConfig(d_model=32, n_layer=1, n_head=4, d_inner=64, vocab_size=384)),
        (RwkvForCausalLM, RwkvConfig(hidden_size=32, num_hidden_layers=2, vocab_size=384)),
    ],
)
def test_models_that_look_ahead_or_mind_the_padding_are_refused(tmp_path, kind, config):
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "model")
    bpe_tokenizer().save_pretrained(tmp_path / "model")
    assert "codyra trains causal language models with an attention mask" in refusal(tmp_path / "model")


def test_a_model_of_more_than_text_is_refused(tmp_path):
    Gemma3Config().save_pretrained(tmp_path / "model")
    assert "reads more than text (gemma3)" in refusal(tmp_path / "model")


def test_a_lost_layer_or_head_is_refused(spoiled):
    key = "num_hidden_layers" if "llama" in (spoiled / "config.json").read_text() else "n_layer"
    edit_json(spoiled / "config.json", **{key: 3})
    assert "lacks weights for" in refusal(spoiled)
    edit_json(spoiled / "config.json", **{key: 1})
    assert "has weights that config.json does not know" in refusal(spoiled)


def test_tokenizers_that_do_not_do_are_refused_in_one_line(spoiled):
    written = (spoiled / "tokenizer_config.json").read_text()
    edit_json(spoiled / "tokenizer_config.json", eos_token=None)
    assert load(spoiled)._stop_ids  # the generation config has one
    edit_json(spoiled / "generation_config.json", eos_token_id=None)
    assert "has an end-of-sequence token" in refusal(spoiled)
    (spoiled / "tokenizer_config.json").write_text(written)
    for file in spoiled.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refusal(spoiled)


def test_a_tokenizer_without_pad_pads_with_what_ends_an_answer(lm_directory):
    family = load(lm_directory("mistral"))
    assert family.tokenizer.pad_token_id is None
    assert family._pad_id == family.tokenizer.eos_token_id


def test_tasks_that_do_not_fit_are_refused_in_one_line(llama, lm_directory):
    task = quiz()
    llama.check([task])
    with pytest.raises(UserError, match="has image inputs with classes but the model"):
        llama.check([quiz(modality="image")])
    with pytest.raises(UserError, match="task 'quiz', training record 2: the answer is empty"):
        llama.check([quiz(("a", "b"), ("c", "\n"))])
    with pytest.raises(UserError, match="tokenizer has no chat template"):
        load(lm_directory("llama"), chat_template=True).check([task])
    with pytest.raises(UserError, match="tokenizer has no chat template"):
        llama.check([quiz(((("user", "a"),),), ("b",))])


def test_what_exceeds_the_window_is_refused_only_when_the_data_need_it(llama):
    llama.prepare([quiz(max_new_tokens=WINDOW - 100)])
    with pytest.raises(UserError, match=f"a test prompt .* but the model \\(llama\\) reads {WINDOW}"):
        llama.prepare([quiz(max_new_tokens=WINDOW)])
    with pytest.raises(UserError, match="a training prompt with its answer"):
        llama.prepare([quiz(("one " * 300,), ("two",))])


def test_prepare_tells_what_was_cut(lm_directory):
    family = load(lm_directory("llama"), max_prompt_tokens=20, max_answer_tokens=3)
    lines: list[str] = []
    done: list[int] = []
    family.prepare([quiz()], done.append, lines.append)
    (line,) = lines
    assert "2 of 5 training prompts, 3 of 5 training answers, 2 of 5 test prompts" in line
    assert done == [5]
    assert family.score([quiz()])[0].cut == 2


# Learning


def losses(family: CausalLM, size: int | None, processes: int = 1, positions=ALL) -> list[float]:
    """Of every process the loss of its parts together."""
    objective = family.start_task(quiz(), [], text_loss="official", micro_batch_size=size)
    return [
        sum(
            float(objective.loss(batch)["loss"])
            for batch in objective.micro_batches(positions, None, rank, processes)
        )
        for rank in range(processes)
    ]


def test_the_loss_is_that_of_the_answers_and_their_ends_alone(family):
    total, count = 0.0, 0
    for row in family._training_rows(quiz()):
        ids = row.ids.long()[None]
        logits = family.net(ids).logits[0, -row.num_answer - 1 : -1]
        total += float(F.cross_entropy(logits, ids[0, -row.num_answer :], reduction="sum"))
        count += row.num_answer
    assert losses(family, None) == pytest.approx([total / count], rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, None])
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_the_loss_of_a_batch_does_not_depend_on_how_it_is_split(llama, size, processes):
    whole = losses(llama, None)[0]
    parts = losses(llama, size, processes)
    assert sum(parts) / processes == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("size", "processes"), [(1, 2), (2, 2), (2, 3), (None, 7), (1, 7)])
def test_every_process_has_as_many_parts_and_every_example_is_in_one(llama, size, processes):
    objective = llama.start_task(quiz(), [], text_loss="official", micro_batch_size=size)
    parts = [list(objective.micro_batches(ALL, None, rank, processes)) for rank in range(processes)]
    assert len({len(of_rank) for of_rank in parts}) == 1
    assert parts[0]
    counted = [batch for of_rank in parts for batch in of_rank if batch["scale"]]
    assert sum(len(batch["input_ids"]) for batch in counted) == len(ALL)


def gradients(family: CausalLM, size: int | None) -> dict[str, torch.Tensor]:
    names = family.target_modules("all")
    weights = {name: family.net.get_submodule(name).weight.requires_grad_(True) for name in names}
    objective = family.start_task(quiz(), [], text_loss="official", micro_batch_size=size)
    for batch in objective.micro_batches(ALL, None, 0, 1):
        objective.loss(batch)["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in weights.items()}
    for weight in weights.values():
        weight.grad = None
        weight.requires_grad_(False)
    return found


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, expected in first.items():
        assert expected.isfinite().all()
        torch.testing.assert_close(second[name], expected, rtol=1e-4, atol=1e-6)


def test_padding_changes_no_gradient(family):
    assert_close(gradients(family, 1), gradients(family, None))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "opt"])
def test_checkpointing_changes_no_gradient_and_wakes_no_dropout(lm_directory, kind):
    family = load(lm_directory(kind))
    expected = gradients(family, None)
    answers = family.score([quiz()])[0].answers
    for module in family.net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    calls: list[int] = []
    mlp = {"opt": "fc1"}.get(kind, "mlp")
    for name, module in family.net.named_modules():
        if name.endswith(mlp):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    with family.checkpointed_activations(True):
        assert_close(expected, gradients(family, None))
        assert len(calls) == 4, "each of two layers, once forward and once again for the backward pass"
        assert not any(module.training for module in family.net.modules())
        assert family.score([quiz()])[0].answers == answers
    calls.clear()
    with family.checkpointed_activations(False):
        assert_close(expected, gradients(family, None))
    assert len(calls) == 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes_and_autocast(lm_directory, dtype):
    expected = losses(load(lm_directory("llama")), 2)[0]
    family = load(lm_directory("llama"), dtype=dtype)
    objective = family.start_task(quiz(), [], text_loss="official", micro_batch_size=None)
    (batch,) = objective.micro_batches(ALL, None, 0, 1)
    loss = objective.loss(batch)["loss"]
    assert loss.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert float(loss) == pytest.approx(expected, rel=2e-2)
    assert len(family.score([quiz()])[0].answers) == 5
    full = load(lm_directory("llama"))
    with torch.autocast("cpu", torch.bfloat16):
        assert losses(full, 2)[0] == pytest.approx(expected, rel=2e-2)
        assert len(full.score([quiz()])[0].answers) == 5


def test_a_few_steps_teach_the_answers(llama):
    task = quiz(max_new_tokens=12)
    weights = [
        llama.net.get_submodule(name).weight.requires_grad_(True) for name in llama.target_modules("all")
    ]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    objective = llama.start_task(task, [], text_loss="official", micro_batch_size=2)
    for _ in range(40):
        for batch in objective.micro_batches(ALL, None, 0, 1):
            objective.loss(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    (score,) = llama.score([task])
    assert score.percent("all") == 100.0
    assert score.unfinished == 0
    assert [answer for answer, _ in score.answers] == list(task.test.answers)


# Answering


def stops_in_the_middle(family: CausalLM, task) -> frozenset[int]:
    """Tokens that stand in the middle of some answers: as ends they let rows stop at different times."""
    written = {}
    for part in family._writer(task.test.inputs).greedy(
        [row.ids for row in family._test_rows(task)],
        [[row] for row in range(len(task.test))],
        task.max_new_tokens,
    ):
        written |= part
    return frozenset(written[position].ids[2 + 3 * position] for position in range(2))


def test_batches_answer_as_single_prompts_do(family):
    task = quiz(max_new_tokens=12)
    for stops in (family._stop_ids, stops_in_the_middle(family, task)):
        family._stop_ids = stops
        alone = family.score([task], batch_size=1)[0]
        for size in (2, 3, 64):
            together = family.score([task], batch_size=size)[0]
            assert together == alone
            assert together.answers == alone.answers
    assert alone.unfinished < 5


def test_answers_are_greedy_whatever_the_checkpoints_generation_config_says(lm_directory, tmp_path):
    expected = load(lm_directory("llama")).score([quiz()])[0].answers
    directory = shutil.copytree(lm_directory("llama"), tmp_path / "model")
    edit_json(
        directory / "generation_config.json",
        do_sample=True,
        temperature=5.0,
        top_k=7,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        max_length=3,
        num_beams=2,
    )
    family = load(directory)
    own = family.net.generation_config
    assert family.score([quiz()])[0].answers == expected
    assert family.net.generation_config is own
    assert own.repetition_penalty == 3.0


def test_every_end_stops_and_only_new_tokens_are_read(llama):
    task = quiz()
    (plain,) = llama.score([task])
    assert plain.unfinished == 5
    assert not any(
        answer.startswith(prompt) for (answer, _), prompt in zip(plain.answers, PROMPTS, strict=True)
    )
    llama._stop_ids = frozenset(range(384))
    (stopped,) = llama.score([task])
    assert stopped.unfinished == 0
    assert [answer for answer, _ in stopped.answers] == [""] * 5


def test_the_ends_of_the_generation_config_stop_too(lm_directory, tmp_path):
    directory = shutil.copytree(lm_directory("llama"), tmp_path / "model")
    edit_json(directory / "generation_config.json", eos_token_id=[2, 7])
    assert load(directory)._stop_ids == {2, 7}


def test_a_limit_scores_the_first_examples_and_progress_counts_them(llama):
    done: list[int] = []
    (whole,) = llama.score([quiz()])
    (part,) = llama.score([quiz()], batch_size=2, progress=done.append, limit=3)
    assert part.examples == 3
    assert part.answers == whole.answers[:3]
    assert done == [2, 1]


def test_the_score_is_made_of_the_metric_of_every_answer(llama):
    task = quiz(metric="similarity")
    (score,) = llama.score([task])
    percents = [percent for _, percent in score.answers]
    assert score.metric == "similarity"
    assert score.total == pytest.approx(sum(percents))
    assert score.squares == pytest.approx(sum(percent**2 for percent in percents))
    assert 0 < score.percent("all") < 100


def test_treelora_samples_every_prompt_by_itself_and_leaves_torchs_draws_alone(lm_directory):
    task = quiz()
    family = load(lm_directory("llama"), generation="treelora", seed=1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = family.score([task])[0].answers
    assert torch.equal(torch.rand(1), expected)
    assert family.score([task])[0].answers == first
    assert family.score([task], limit=2)[0].answers == first[:2]
    family.net.generation_config = GenerationConfig(top_k=0)
    monkey = load(lm_directory("llama"), generation="treelora", seed=2)
    assert monkey.score([dataclasses.replace(task, name="other")])[0].answers != first


def test_the_likeliest_choice(family):
    choices = (" blue", " a cat, a dog", "B", " old")
    task = quiz(choices=choices)
    sums = []
    for prompt in PROMPTS:
        of_prompt = []
        for choice in choices:
            (row,) = family._tokens.rows([prompt], [choice], ("", ""), "record", closed=False)
            ids = row.ids.long()
            with torch.no_grad():
                shares = family.net(ids[None]).logits[0].log_softmax(dim=-1)
            of_prompt.append(
                sum(float(shares[p - 1, ids[p]]) for p in range(len(ids) - row.num_answer, len(ids)))
            )
        sums.append(of_prompt)
    expected = [choices[of_prompt.index(max(of_prompt))] for of_prompt in sums]
    done: list[int] = []
    for size in (1, 3, 64):
        (score,) = family.score([task], batch_size=size, progress=done.append)
        assert [answer for answer, _ in score.answers] == expected
        assert score.unfinished == 0
    assert sum(done) == 15


def test_answers_through_a_chat_template(lm_directory):
    directory = lm_directory("llama", chat=True)
    chat = tuple((("user", prompt),) for prompt in PROMPTS)
    as_messages, as_setting = load(directory), load(directory, chat_template=True)
    task = quiz(chat, metric="sari")
    (score,) = as_messages.score([task])
    assert score.answers[0][0] == as_setting.score([quiz()])[0].answers[0][0]
    assert as_messages.answer(list(chat), 6) == as_setting.answer(list(PROMPTS), 6)
    assert as_messages.preview(task)[0] == {"label": " blue", "text": PROMPTS[0]}


def test_answers_to_prompts_of_no_task(llama):
    (score,) = llama.score([quiz()])
    assert llama.answer(PROMPTS, 6, batch_size=2) == [answer for answer, _ in score.answers]
    assert llama.answer([], 6) == []
    with pytest.raises(UserError, match="prompt 2"):
        llama.answer(["a", "one " * 300], 6)


# Saving


def test_a_saved_model_is_a_plain_directory_with_the_generation_config_it_had(family, tmp_path):
    family.save(tmp_path / "out")
    again = load(tmp_path / "out")
    assert again.fingerprint() == family.fingerprint()
    assert again.score([quiz()])[0].answers == family.score([quiz()])[0].answers
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.generation_config.eos_token_id == family.net.generation_config.eos_token_id
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == family.tokenizer.get_vocab()


def test_a_generation_config_that_transformers_would_not_save_goes_along_as_it_is(lm_directory, tmp_path):
    directory = shutil.copytree(lm_directory("llama"), tmp_path / "model")
    edit_json(directory / "generation_config.json", do_sample=False, temperature=0.9)
    load(directory).save(tmp_path / "out")
    assert (tmp_path / "out/generation_config.json").read_bytes() == (
        directory / "generation_config.json"
    ).read_bytes()


@pytest.mark.parametrize(("kind", "options"), [("llama", {}), ("gpt2", {}), ("llama", {"chat": True})])
def test_the_code_for_the_model_card_answers_as_the_family_does(
    lm_directory, tmp_path, monkeypatch, capsys, kind, options
):
    family = load(lm_directory(kind, **options), chat_template=bool(options))
    family.save(tmp_path / "out")
    code = family.usage(PROMPTS[:2])
    assert "codyra" not in code
    monkeypatch.chdir(tmp_path / "out")
    exec(code, {})
    printed = capsys.readouterr().out
    for answer in family.answer(PROMPTS[:2], 64):
        assert answer in printed


def test_long_prompts_are_shortened_in_a_preview(llama):
    (shown,) = llama.preview(quiz(("x" * 5000 + "end",), ("a",)))
    assert shown["label"] == "a"
    assert shown["text"].endswith("end")
    assert len(shown["text"]) < 1100


def test_a_slow_tokenizer_is_refused(llama):
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="codyra needs a fast one"):
        CausalLM(llama.net, Slow(), llama.settings, {})


def test_a_tokenizer_of_another_model_is_refused(lm_directory):
    family = load(lm_directory("llama"))
    family.net.resize_token_embeddings(100)
    other = CausalLM(family.net, bpe_tokenizer(), family.settings, {})
    with pytest.raises(UserError, match="use the tokenizer that this model was saved with"):
        other.prepare([quiz()])
