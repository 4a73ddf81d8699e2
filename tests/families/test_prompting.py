"""Prompts through a chat template."""

import datetime

import pytest

from codyra.errors import UserError
from codyra.families import AnswerSettings
from codyra.families.answer_tokens import AnswerTokenizer
from families.tiny_lms import VOCABULARY, bpe_tokenizer

CHAT = (("system", "Be short."), ("user", "Which animal barks?"))


def tokenizer_with(template: str | None = None):
    tokenizer = bpe_tokenizer(chat=True)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def rows(tokenizer, prompts, answers, frame=("", ""), closed=True, **settings):
    settings = AnswerSettings(**{"chat_template": True} | settings)
    made = AnswerTokenizer(tokenizer, settings, tokenizer.eos_token_id, VOCABULARY)
    return made.rows(prompts, answers, frame, "record", closed)


def texts(tokenizer, prompt, answer, **options) -> tuple[str, str]:
    (row,) = rows(tokenizer, [prompt], None if answer is None else [answer], **options)
    border = len(row.ids) - row.num_answer
    return tokenizer.decode(row.ids[:border]), tokenizer.decode(row.ids[border:])


def test_a_plain_prompt_is_one_user_message_and_the_template_ends_the_answer_once():
    tokenizer = tokenizer_with()
    prompt, answer = texts(tokenizer, "Which animal barks?", "a dog")
    assert prompt == "<|user|>Which animal barks?</s><|assistant|>"
    assert answer == "a dog</s>"
    assert texts(tokenizer, "Which animal barks?", None) == (prompt, "")
    assert texts(tokenizer, "Which animal barks?", "a dog", closed=False) == (prompt, "a dog")


def test_messages_go_through_the_template_whatever_the_settings_say():
    prompt, answer = texts(tokenizer_with(), CHAT, "a dog", chat_template=False)
    assert prompt == "<|system|>Be short.</s><|user|>Which animal barks?</s><|assistant|>"
    assert answer == "a dog</s>"


def test_the_ids_are_those_of_the_tokenizers_own_rendering():
    tokenizer = tokenizer_with()
    messages = [{"role": role, "content": content} for role, content in CHAT]
    (alone,) = rows(tokenizer, [CHAT], None)
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert alone.ids.tolist() == expected
    (whole,) = rows(tokenizer, [CHAT], ["a dog"])
    answered = [*messages, {"role": "assistant", "content": "a dog"}]
    assert whole.ids.tolist() == tokenizer.apply_chat_template(answered)["input_ids"]


IM = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_an_answer_ends_with_the_end_of_its_turn_and_what_stands_behind_is_not_learnt():
    tokenizer = tokenizer_with(IM)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    prompt, answer = texts(tokenizer, "  one  ", " two\n")
    assert prompt == "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    assert answer == "two<|im_end|>"
    made = AnswerTokenizer(tokenizer, AnswerSettings(), tokenizer.eos_token_id, VOCABULARY)
    assert made.end_of_turn_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_template_without_end_of_turn_gets_eos():
    tokenizer = tokenizer_with("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    tokenizer.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    assert texts(tokenizer, "one", "user") == ("user: one\nassistant: ", "user</s>")


def test_the_text_of_special_tokens_in_a_message_stays_text():
    tokenizer = tokenizer_with()
    (row,) = rows(tokenizer, ["<s> import </s> os"], ["x </s> y"])
    ids = row.ids.tolist()
    assert tokenizer.decode(ids) == "<|user|><s> import </s> os</s><|assistant|>x </s> y</s>"
    assert ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.bos_token_id not in ids
    border = len(ids) - row.num_answer
    assert tokenizer.decode(ids[border:]) == "x </s> y</s>"


def test_a_cut_prompt_keeps_what_the_template_puts_around_it():
    tokenizer = tokenizer_with()
    body = "one two three four five six seven eight nine ten " * 4
    head, tail = "Count:\n", "\nHow many?"
    prompt, _ = texts(tokenizer, head + body + tail, "ten", frame=(head, tail), max_prompt_tokens=60)
    assert prompt.startswith("<|user|>Count:\none two")
    assert prompt.endswith("\nHow many?</s><|assistant|>")
    prompt, _ = texts(tokenizer, body + "end", "ten", max_prompt_tokens=60)
    assert prompt.startswith("<|user|>")
    assert prompt.endswith("ten end</s><|assistant|>")
    assert len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) == 60
    chat = (("user", body), ("assistant", "yes"), ("user", "and now?"))
    prompt, _ = texts(tokenizer, chat, "ten", max_prompt_tokens=60)
    assert not prompt.startswith("<|user|>")
    assert prompt.endswith("<|assistant|>yes</s><|user|>and now?</s><|assistant|>")


def test_a_template_that_writes_the_date_writes_the_same_one_every_day():
    template = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}|{{ m.content }}{% endfor %}|"
    prompt, answer = texts(tokenizer_with(template), "one", "two")
    assert prompt == "2024-07-26|one|"
    assert datetime.date.today().isoformat() not in prompt
    assert answer == "two</s>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "record 1: the model's tokenizer has no chat template; choose a model tuned for chats"),
        ("{{ raise_exception('no system messages') }}", "record 1: the model's chat template refuses these"),
        ("{% for m in messages %}{{ m.content }}{{ add_generation_prompt }}{% endfor %}", "right behind"),
    ],
)
def test_templates_that_do_not_fit_are_refused_in_one_line(template, message):
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message) as caught:
        rows(tokenizer, [CHAT], ["a dog"], chat_template=False)
    assert "\n" not in str(caught.value)
