"""Prompts and answers as token ids: where the answer begins, what a long prompt keeps, what ends an answer."""

# Shapes: N rows, L tokens of the longest
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from codyra.errors import UserError
from codyra.families.family import AnswerSettings, Prompt
from codyra.families.prompting import Prompting, Text

TEXTS_PER_CALL = 256


class Row(NamedTuple):
    """One prompt, with its answer or alone: ids int32 (L,), of which the last `num_answer` are the answer.

    `prompt_cut` and `answer_cut`: it was longer than allowed.
    """

    ids: Tensor
    num_answer: int
    prompt_cut: bool
    answer_cut: bool


class AnswerTokenizer:
    """Tokenises as docs/answers.md says.

    Special tokens are put in by this class and by the chat template, never by the data: "</s>" in a prompt or an
    answer is read as four characters.

    Args:
        tokenizer: a fast one.
        eos_id: ends an answer outside a chat template, and inside one that has no token of its own for that.
        num_embeddings: rows of the model's embedding.
    """

    def __init__(self, tokenizer: Any, settings: AnswerSettings, eos_id: int, num_embeddings: int):
        self._tokenizer = tokenizer
        self._settings = settings
        self._eos_id = eos_id
        self._num_embeddings = num_embeddings
        self._prompting = Prompting(tokenizer, settings)

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The token that ends an answer in the chat template, if it has one.

        Raises:
            UserError: there is no template.
        """
        token = self._prompting.end_of_turn
        return None if token is None else self._tokenizer.convert_tokens_to_ids(token)

    def is_chat(self, prompt: Prompt) -> bool:
        """Whether the prompt goes through the chat template."""
        return self._prompting.is_chat(prompt)

    def rows(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[str] | None,
        frame: tuple[str, str],
        at: str,
        closed: bool = True,
    ) -> list[Row]:
        """Rows of prompts with their answers, or of prompts alone.

        A prompt and its answer are tokenised together; a token that holds characters of both belongs to the
        answer. A prompt alone is tokenised alone, so there its last token may be another one.

        Args:
            frame: what every prompt begins and ends with, or two empty texts.
            at: names the records in an error, which adds a number from 1.
            closed: answers end with EOS or the end of the turn, if there is room for it.

        Raises:
            UserError: nothing stands before an answer, a token is not the model's, the frame alone is too long, or
                the chat template does not fit.
        """
        rows: list[Row] = []
        for start in range(0, len(prompts), TEXTS_PER_CALL):
            numbers = range(start, min(start + TEXTS_PER_CALL, len(prompts)))
            places = [f"{at} {number + 1}" for number in numbers]
            texts = [
                self._prompting.text(
                    prompts[n], None if answers is None else answers[n], frame, place, closed
                )
                for n, place in zip(numbers, places, strict=True)
            ]
            for text, (ids, ends), place in zip(texts, self._encode(texts), places, strict=True):
                rows.append(self._row(text, ids, ends, place, answers is not None, closed))
        return rows

    def _encode(self, texts: Sequence[Text]) -> list[tuple[list[int], list[int]]]:
        """Ids of every text without any added to it, and the character behind each of them."""
        parts = [part for text in texts for part in text.parts]
        found: dict[tuple[str, bool], tuple[list[int], list[tuple[int, int]]]] = {}
        for special in (False, True):
            chosen = [part for part in parts if part[1] == special]
            if chosen:
                tokens = self._tokenizer(
                    [characters for characters, _ in chosen],
                    add_special_tokens=False,
                    split_special_tokens=not special,
                    return_offsets_mapping=True,
                    padding=False,
                    truncation=False,
                    verbose=False,
                )
                found.update(
                    zip(chosen, zip(tokens["input_ids"], tokens["offset_mapping"], strict=True), strict=True)
                )
        encoded = []
        for text in texts:
            ids: list[int] = []
            ends: list[int] = []
            position = 0
            for part in text.parts:
                part_ids, offsets = found[part]
                ids += part_ids
                ends += [position + end for _, end in offsets]
                position += len(part[0])
            encoded.append((ids, ends))
        return encoded

    def _row(
        self, text: Text, ids: list[int], ends: list[int], at: str, has_answer: bool, closed: bool
    ) -> Row:
        border = bisect_right(ends, text.num_prompt)
        bos_id = self._tokenizer.bos_token_id
        first = [] if text.is_chat or bos_id is None else [bos_id]
        room = self._settings.max_prompt_tokens - len(first)
        prompt = first + self._cut(text, ids[:border], ends, room, at)
        answer = ids[border:]
        if has_answer and closed and not (text.is_chat and answer and answer[-1] == self.end_of_turn_id):
            answer.append(self._eos_id)
        kept = answer[: self._settings.max_answer_tokens]
        if not prompt:
            raise UserError(
                f"{at}: no token stands before the answer to predict it from; give a longer prompt"
            )
        if max(prompt + kept) >= self._num_embeddings:
            raise UserError(
                f"{at} has the token {max(prompt + kept)}, but the model knows {self._num_embeddings}; use the "
                "tokenizer that this model was saved with"
            )
        return Row(
            torch.tensor(prompt + kept, dtype=torch.int32), len(kept), border > room, len(kept) < len(answer)
        )

    def _cut(self, text: Text, prompt: list[int], ends: list[int], room: int, at: str) -> list[int]:
        """At most `room` tokens of a prompt: all of its head and tail, and what fits from between them."""
        if len(prompt) <= room:
            return prompt
        head = bisect_right(ends, text.head) if text.head else 0
        # A token that reaches into the tail belongs to it.
        tail = bisect_right(ends, text.num_prompt - text.tail, hi=len(prompt)) if text.tail else len(prompt)
        head = min(head, tail)
        free = room - head - (len(prompt) - tail)
        if free < 0:
            raise UserError(
                f"{at}: the part of the prompt that must not be cut has {room - free} tokens, but {room} are allowed; "
                "raise max_prompt_tokens"
            )
        body = prompt[head:tail]
        kept = body[:free] if text.keep == "start" else body[len(body) - free :]
        return prompt[:head] + kept + prompt[tail:]


def left_pad(rows: Sequence[Tensor], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `position_ids`, int64 (N, L), of rows of ids; padding is masked, and every
    row counts its positions from 0."""
    ids_NL = pad_sequence(list(rows), batch_first=True, padding_value=pad_id, padding_side="left").long()
    lengths_N = torch.tensor([len(row) for row in rows])
    longest = ids_NL.shape[1]
    positions_NL = torch.arange(longest) - (longest - lengths_N)[:, None]
    return {
        "input_ids": ids_NL,
        "attention_mask": (positions_NL >= 0).long(),
        "position_ids": positions_NL.clamp(min=0),
    }
