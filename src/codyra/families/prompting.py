"""Prompts as the text a tokenizer reads: as they are, or through the model's chat template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jinja2 import TemplateError

from codyra.errors import UserError
from codyra.families.family import AnswerSettings, Prompt

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Put around the text of a special token in a message, to tell it from the template's own; Unicode reserves both."""

FIXED_DAY = {"%d": "26", "%-d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24"}
"""What templates that write today's date are told: prompts must be the same tomorrow."""


@dataclass(frozen=True)
class Text:
    """A prompt and what follows it.

    Attributes:
        parts: (characters, whether the special tokens written in them are meant) one after the other.
        num_prompt: characters of the prompt.
        head, tail: characters at the start and the end of the prompt that are never cut.
        keep: which end of what lies between them stays when the prompt is too long.
        is_chat: begins and ends as a chat template has it; else BOS comes before and EOS after it.
    """

    parts: tuple[tuple[str, bool], ...]
    num_prompt: int
    head: int
    tail: int
    keep: Literal["start", "end"]
    is_chat: bool


class Prompting:
    """How the prompts and answers of one model are written; docs/answers.md."""

    def __init__(self, tokenizer: Any, settings: AnswerSettings):
        self._tokenizer = tokenizer
        self._settings = settings
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(re.escape(token) for token in longest_first) or "(?!)")

    def is_chat(self, prompt: Prompt) -> bool:
        """Whether the prompt goes through the chat template."""
        return self._settings.chat_template or not isinstance(prompt, str)

    def text(
        self, prompt: Prompt, answer: str | None, frame: tuple[str, str], at: str, closed: bool = True
    ) -> Text:
        """A prompt with its answer, or alone.

        Args:
            frame: what the prompt begins and ends with and must keep.
            at: names the record in an error.
            closed: the answer is followed by the end of its turn, where a template has one.

        Raises:
            UserError: the chat template is missing or refuses the messages.
        """
        if isinstance(prompt, str) and not self._settings.chat_template:
            head, tail, keep = self._framed(prompt, frame)
            return Text(((prompt + (answer or ""), False),), len(prompt), head, tail, keep, is_chat=False)
        messages = [("user", prompt)] if isinstance(prompt, str) else list(prompt)
        before, after = self._rendered(messages, answer, at, closed)
        head, tail, keep = self._framed_in_chat(prompt, before, frame)
        parts = re.split(f"{OPEN}(.*?){CLOSE}", before + after, flags=re.DOTALL)
        return Text(
            tuple((part, index % 2 == 0) for index, part in enumerate(parts) if part),
            len(_unmarked(before)),
            head,
            tail,
            keep,
            is_chat=True,
        )

    @cached_property
    def end_of_turn(self) -> str | None:
        """The special token that the chat template puts behind an answer, if it does.

        Raises:
            UserError: there is no template, or it writes no answer.
        """
        found = self._special.search(self._closing)
        return found[0] if found else None

    @cached_property
    def _closing(self) -> str:
        """All that the template puts behind an answer."""
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": OPEN}]
        return self._apply(chat, "chats").partition(OPEN)[2]

    def _framed(self, prompt: str, frame: tuple[str, str]) -> tuple[int, int, Literal["start", "end"]]:
        """`head`, `tail` and `keep` of a prompt without template."""
        head, tail = frame
        fits = len(prompt) >= len(head) + len(tail) and prompt.startswith(head) and prompt.endswith(tail)
        if self._settings.truncation == "treelora" or not (head or tail) or not fits:
            return 0, 0, "end"
        return len(head), len(tail), "start"

    def _framed_in_chat(
        self, prompt: Prompt, rendered: str, frame: tuple[str, str]
    ) -> tuple[int, int, Literal["start", "end"]]:
        """The same where the template adds to it. What a template puts around one prompt is never cut; of several
        messages the oldest text goes first."""
        if isinstance(prompt, str) and self._settings.truncation != "treelora":
            content = self._marked(prompt.strip())  # most templates strip
            start = rendered.find(content)
            if start >= 0:
                head, tail, keep = self._framed(prompt, frame)
                around = (rendered[:start], rendered[start + len(content) :])
                before, after = (len(_unmarked(part)) for part in around)
                stripped_start = len(prompt) - len(prompt.lstrip())
                stripped_end = len(prompt) - len(prompt.rstrip())
                return before + max(0, head - stripped_start), after + max(0, tail - stripped_end), keep
        bos = self._tokenizer.bos_token
        return len(bos) if bos and rendered.startswith(bos) else 0, 0, "end"

    def _rendered(
        self, messages: Sequence[tuple[str, str]], answer: str | None, at: str, closed: bool
    ) -> tuple[str, str]:
        """The messages up to where the answer begins, and the answer up to the token that ends it; both marked."""
        chat = [{"role": role, "content": self._marked(content)} for role, content in messages]
        before = self._apply(chat, at, add_generation_prompt=True)
        if answer is None:
            return before, ""
        whole = self._apply([*chat, {"role": "assistant", "content": self._marked(answer)}], at)
        end = len(whole) - len(self._closing)
        if not whole.startswith(before) or not whole.endswith(self._closing) or end <= len(before):
            raise UserError(
                f"{at}: the model's chat template does not write the answer right behind the prompt that it writes "
                "for an answer; use plain prompts and chat_template: false, or another model"
            )
        ending = self._special.search(self._closing)
        return before, whole[len(before) : end] + (self._closing[: ending.end()] if closed and ending else "")

    @cached_property
    def _template(self) -> str | None:
        """The tokenizer's template, on a day that never changes."""
        if not self._tokenizer.chat_template:
            return None
        template: str = self._tokenizer.get_chat_template()
        if "strftime_now" not in template:
            return template
        replaced = "".join(f".replace('{code}', '{part}')" for code, part in FIXED_DAY.items())
        return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}{template}"

    def _apply(self, chat: list[dict[str, str]], at: str, add_generation_prompt: bool = False) -> str:
        try:
            if self._template is None:
                raise UserError(
                    f"{at}: the model's tokenizer has no chat template; choose a model tuned for chats, or give "
                    "prompts as plain text with chat_template: false"
                )
            text: str = self._tokenizer.apply_chat_template(
                chat,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except UserError:
            raise
        except (TemplateError, ValueError, TypeError) as error:
            raise UserError(
                f"{at}: the model's chat template refuses these messages ({error}); mend them or leave the record out"
            ) from error
        return text

    def _marked(self, content: str) -> str:
        return self._special.sub(f"{OPEN}\\g<0>{CLOSE}", _unmarked(content))


def _unmarked(text: str) -> str:
    return text.replace(OPEN, "").replace(CLOSE, "")
