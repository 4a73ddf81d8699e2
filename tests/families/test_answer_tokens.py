"""Where an answer begins, what ends it, and what a long prompt keeps."""

import pytest
import torch

from codyra.errors import UserError
from codyra.families import AnswerSettings
from codyra.families.answer_tokens import AnswerTokenizer, Row, left_pad
from families.tiny_lms import VOCABULARY, bpe_tokenizer

NO_FRAME = ("", "")


def tokens(tokenizer=None, **settings) -> AnswerTokenizer:
    tokenizer = tokenizer or bpe_tokenizer()
    return AnswerTokenizer(tokenizer, AnswerSettings(**settings), tokenizer.eos_token_id, VOCABULARY)


def row_of(prompt, answer, tokenizer=None, frame=NO_FRAME, closed=True, **settings) -> Row:
    answers = None if answer is None else [answer]
    (row,) = tokens(tokenizer, **settings).rows([prompt], answers, frame, "record", closed)
    return row


def split(row: Row, tokenizer) -> tuple[list[str], list[str]]:
    """Tokens of the prompt and of the answer as text."""
    border = len(row.ids) - row.num_answer
    texts = [tokenizer.decode([token]) for token in row.ids.tolist()]
    return texts[:border], texts[border:]


def test_a_prompt_with_its_answer_is_tokenised_in_one_piece_between_bos_and_eos():
    tokenizer = bpe_tokenizer()
    row = row_of("The answer is", " seven.", tokenizer)
    whole = tokenizer("The answer is seven.", add_special_tokens=False)["input_ids"]
    assert row.ids.tolist() == [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]
    prompt, answer = split(row, tokenizer)
    assert "".join(prompt) == "<s>The answer is"
    assert "".join(answer) == " seven.</s>"


def test_a_token_across_the_border_belongs_to_the_answer():
    tokenizer = bpe_tokenizer()
    prompt, answer = split(row_of("The hou", "se", tokenizer), tokenizer)
    assert "".join(prompt) == "<s>The"
    assert answer == [" house", "</s>"]
    alone, none = split(row_of("The hou", None, tokenizer), tokenizer)
    assert "".join(alone) == "<s>The hou"
    assert none == []


@pytest.mark.parametrize("prompt", ["Größe:\n", "価格は", "🙂"])
def test_the_border_is_counted_in_characters_not_bytes(prompt):
    tokenizer = bpe_tokenizer()
    row = row_of(prompt, "naïve 🙂", tokenizer)
    answer = row.ids[len(row.ids) - row.num_answer :].tolist()
    assert tokenizer.decode(answer) == "naïve 🙂</s>"


def test_special_tokens_written_in_the_data_are_ordinary_characters():
    tokenizer = bpe_tokenizer()
    row = row_of("<s> import os", "</s> x <pad>", tokenizer)
    ids = row.ids.tolist()
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.pad_token_id not in ids
    assert tokenizer.decode(ids[1:-1]) == "<s> import os</s> x <pad>"


def test_bos_only_where_the_tokenizer_has_one():
    tokenizer = bpe_tokenizer(bos=None)
    assert split(row_of("a", " house", tokenizer), tokenizer) == (["a"], [" house", "</s>"])


def test_a_prompt_alone_is_the_start_of_the_row_with_its_answer():
    whole, alone = row_of("The answer is", " seven."), row_of("The answer is", None)
    assert whole.ids[: len(alone.ids)].equal(alone.ids)
    assert alone.num_answer == 0


def test_eos_counts_among_the_tokens_of_an_answer_and_a_cut_answer_has_none():
    tokenizer = bpe_tokenizer()
    text = "abcdefgh"
    length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    for limit in range(1, length + 3):
        row = row_of("The: ", text, tokenizer, max_answer_tokens=limit)
        assert row.num_answer == min(limit, length + 1)
        assert (row.ids[-1] == tokenizer.eos_token_id) == (limit > length)
        assert row.answer_cut == (limit <= length)


def test_a_choice_to_be_compared_has_no_eos():
    tokenizer = bpe_tokenizer()
    assert split(row_of("Choose", " A", tokenizer, closed=False), tokenizer)[1] == [" A"]


def test_long_prompts_are_cut_from_the_left_behind_bos():
    tokenizer = bpe_tokenizer()
    full = row_of("The house is old and the river is cold", " yes", tokenizer)
    body = full.ids[1 : len(full.ids) - full.num_answer]
    assert not full.prompt_cut
    for limit in (2, 5, len(body)):
        row = row_of("The house is old and the river is cold", " yes", tokenizer, max_prompt_tokens=limit)
        assert row.prompt_cut
        assert row.ids[0] == tokenizer.bos_token_id
        assert row.ids[1:limit].equal(body[-(limit - 1) :])
        assert row.ids[limit:].equal(full.ids[-full.num_answer :])
    exact = row_of(
        "The house is old and the river is cold", " yes", tokenizer, max_prompt_tokens=len(body) + 1
    )
    assert exact.ids.equal(full.ids)
    assert not exact.prompt_cut


HEAD, TAIL = "Translate the words.\n", "\nAnswer:"
BODY = "one two three four five six seven eight nine ten " * 3


@pytest.mark.parametrize("answer", [" yes", None])
@pytest.mark.parametrize("limit", [30, 40, 60])
def test_keep_instruction_keeps_head_tail_and_the_start_of_what_lies_between(answer, limit):
    tokenizer = bpe_tokenizer()
    row = row_of(HEAD + BODY + TAIL, answer, tokenizer, frame=(HEAD, TAIL), max_prompt_tokens=limit)
    prompt = tokenizer.decode(row.ids[1 : len(row.ids) - row.num_answer])
    assert row.prompt_cut
    assert len(row.ids) - row.num_answer == limit
    assert prompt.startswith(HEAD + "one two")
    assert prompt.endswith(TAIL)
    assert (HEAD + BODY).startswith(prompt.removesuffix(TAIL))


def test_without_a_known_frame_or_with_treelora_the_left_goes():
    tokenizer = bpe_tokenizer()
    for options in (
        {"frame": NO_FRAME},
        {"frame": ("Something else", TAIL)},
        {"frame": (HEAD, TAIL), "truncation": "treelora"},
    ):
        row = row_of(HEAD + BODY + TAIL, " yes", tokenizer, max_prompt_tokens=30, **options)
        prompt = tokenizer.decode(row.ids[1 : len(row.ids) - row.num_answer])
        assert (HEAD + BODY + TAIL).endswith(prompt)
        assert len(row.ids) - row.num_answer == 30


def test_what_cannot_be_tokenised_is_refused_in_one_line():
    with pytest.raises(UserError, match="record 1: the part of the prompt that must not be cut has"):
        row_of(HEAD + BODY + TAIL, " yes", frame=(HEAD, TAIL), max_prompt_tokens=5)
    with pytest.raises(UserError, match="record 1: no token stands before the answer"):
        row_of("", "yes", bpe_tokenizer(bos=None))
    assert split(row_of("", "yes"), bpe_tokenizer())[0] == ["<s>"]
    tokenizer = bpe_tokenizer()
    with pytest.raises(UserError, match="use the tokenizer that this model was saved with"):
        AnswerTokenizer(tokenizer, AnswerSettings(), 2, 50).rows(["house"], None, NO_FRAME, "record")


def test_left_padding_is_masked_and_positions_begin_at_the_first_token():
    batch = left_pad([torch.tensor([5, 6, 7]), torch.tensor([8])], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
