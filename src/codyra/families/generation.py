"""Answers written by a causal language model, token after token."""

# Shapes: N prompts, L tokens of the longest
import contextlib
import copy
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig

from codyra.families.answer_tokens import left_pad
from codyra.families.hush import hush

TEMPERATURE = 0.1


class NewTokens(NamedTuple):
    """What was written after a prompt: ids without the one that ended it, and whether one did."""

    ids: list[int]
    ended: bool


class Writer:
    """Lets a network continue prompts.

    Args:
        net: with transformers' `generate`.
        stop_ids: any of these ends an answer.
        pad_id: fills shorter rows; masked.
    """

    def __init__(self, net: Any, stop_ids: Collection[int], pad_id: int):
        self._net = net
        self._stop_ids = set(stop_ids)
        self._pad_id = pad_id

    def greedy(
        self, prompts: Sequence[Tensor], batches: Iterable[Sequence[int]], max_new_tokens: int
    ) -> Iterator[dict[int, NewTokens]]:
        """The likeliest token each time, without the penalties and the sampling of the model's generation config.

        Yields for each batch of positions what follows the prompts there. The batch that a prompt is in says nothing
        about the result beyond rounding.
        """
        config = GenerationConfig(do_sample=False, num_beams=1, **self._limits(max_new_tokens))
        for positions in batches:
            # transformers fills in what this config leaves open from the model's own.
            with _generation_config(self._net, GenerationConfig()):
                written = self._generate([prompts[position] for position in positions], config)
            yield dict(zip(positions, written, strict=True))

    def sampled(
        self,
        prompts: Sequence[Tensor],
        positions: Iterable[int],
        max_new_tokens: int,
        seed: int,
        purpose: str,
    ) -> Iterator[dict[int, NewTokens]]:
        """As TreeLoRA answers: one prompt at a time, sampled at temperature 0.1, all else as the model's generation
        config has it. Every prompt has draws of its own, keyed by `seed`, `purpose` and its position."""
        config = copy.deepcopy(self._net.generation_config)
        config.update(
            do_sample=True,
            temperature=TEMPERATURE,
            num_return_sequences=1,
            return_dict_in_generate=False,
            max_length=None,
            **self._limits(max_new_tokens),
        )
        devices = [self._net.device] if self._net.device.type == "cuda" else []
        for position in positions:
            digest = hashlib.sha256(f"{seed}/generate/{purpose}/{position}".encode()).digest()
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
                (written,) = self._generate([prompts[position]], config)
            yield {position: written}

    def _limits(self, max_new_tokens: int) -> dict[str, Any]:
        return {
            "max_new_tokens": max_new_tokens,
            "eos_token_id": sorted(self._stop_ids),
            "pad_token_id": self._pad_id,
        }

    def _generate(self, prompts: Sequence[Tensor], config: GenerationConfig) -> list[NewTokens]:
        batch = left_pad(prompts, self._pad_id)
        longest = batch["input_ids"].shape[1]
        with hush():
            # Positions are left to transformers, which counts them by the mask where the network has any.
            ids_NL: Tensor = self._net.generate(
                input_ids=batch["input_ids"].to(self._net.device),
                attention_mask=batch["attention_mask"].to(self._net.device),
                generation_config=config,
            )
        return [self._up_to_end(ids) for ids in ids_NL[:, longest:].tolist()]

    def _up_to_end(self, ids: list[int]) -> NewTokens:
        end = next((index for index, token in enumerate(ids) if token in self._stop_ids), None)
        return NewTokens(ids[:end], end is not None)


@contextlib.contextmanager
def _generation_config(net: Any, config: GenerationConfig) -> Iterator[None]:
    own = net.generation_config
    net.generation_config = config
    try:
        yield
    finally:
        net.generation_config = own
