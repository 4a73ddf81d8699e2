"""Tokenised texts of unequal length, padded only as far as the batch at hand needs."""

# Shapes: N texts, L tokens of the longest text in the batch
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class TokenTable:
    """Token ids of many texts, kept without padding.

    Texts are cut out and padded on the right to the longest of the batch. For a causal text tower pooled at
    end-of-text, and for a bidirectional one that is given the mask, this changes no feature beyond rounding:
    what lies right of the last token is never looked at. Texts that must keep a fixed length arrive already
    padded.
    """

    def __init__(self, token_ids: Sequence[Sequence[int]], pad_id: int):
        self.rows = [torch.tensor(ids, dtype=torch.int32) for ids in token_ids]
        self.lengths = [len(ids) for ids in token_ids]
        self.pad_id = pad_id

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` of the texts at these positions, int64 (N, L), on the CPU."""
        ids_NL = pad_sequence([self.rows[i] for i in positions], batch_first=True, padding_value=self.pad_id)
        lengths_N = torch.tensor([self.lengths[i] for i in positions])
        mask_NL = torch.arange(ids_NL.shape[1]) < lengths_N[:, None]
        return {"input_ids": ids_NL.long(), "attention_mask": mask_NL.long()}
