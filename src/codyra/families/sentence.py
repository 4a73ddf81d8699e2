"""Sentence encoders: one BERT-type tower reads prompts and examples alike; its token vectors are averaged."""

# Shapes: N texts, L tokens, D features
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codyra.families.dual_encoder import Batch, DualEncoder
from codyra.families.family import ClassificationTask, ImageFile
from codyra.families.saving import save_directory
from codyra.families.tokens import TokenTable

LOGIT_SCALE = 20.0
"""Factor of the cosines; sentence-transformers trains its encoders with the same one."""


class SentenceEncoder(DualEncoder):
    """A BERT-type encoder with mean pooling, as sentence-transformers saves it or plain.

    Args:
        net: encoder with `last_hidden_state`.
        tokenizer: its tokenizer.
        context: longest text in tokens; longer examples are cut, longer prompts refused.
        lowercase: texts are lower-cased before the tokenizer sees them.
        files: the sentence-transformers files of the directory, by relative name, handed on when it is saved.
    """

    modality = "text"
    default_prompt = "{}"
    features_in_usage = "embed(texts)"

    def __init__(
        self, net: nn.Module, tokenizer: Any, context: int, lowercase: bool, files: Mapping[str, bytes]
    ):
        super().__init__(net, tokenizer, context)
        self._lowercase = lowercase
        self._files = files
        self.library_name = "sentence-transformers" if files else "transformers"
        self.pipeline_tag = "sentence-similarity" if files else "feature-extraction"
        self._test_tokens: dict[str, TokenTable] = {}

    @property
    def towers(self) -> dict[str, str]:
        return {"text": ""}

    def logit_scale(self) -> float:
        return LOGIT_SCALE

    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> TokenTable:
        if self._lowercase:
            texts = [text.lower() for text in texts]
        tokens = self.tokenizer(
            list(texts), truncation=truncate, max_length=self.context if truncate else None, verbose=False
        )
        return TokenTable(tokens["input_ids"], pad_id=self.tokenizer.pad_token_id or 0)

    def prompt_parameters(self) -> Iterator[nn.Parameter]:
        return self.net.parameters()

    def full_parameters(self) -> list[str]:
        """Names of the parameters that full fine-tuning trains: all but the pooler, which is not used."""
        return [name for name in super().full_parameters() if not name.startswith("pooler.")]

    def encode_prompts(self, batch: Batch) -> Tensor:
        return self.encode_inputs(batch)

    def encode_inputs(self, batch: Batch) -> Tensor:
        mask_NL = batch["attention_mask"]
        tokens_NLD: Tensor = self.net(input_ids=batch["input_ids"], attention_mask=mask_NL).last_hidden_state
        tokens_NLD = tokens_NLD.to(torch.promote_types(tokens_NLD.dtype, torch.float32))
        weights_NL1 = mask_NL.unsqueeze(-1).to(tokens_NLD.dtype)
        return (tokens_NLD * weights_NL1).sum(dim=1) / weights_NL1.sum(dim=1)

    def training_inputs(self, task: ClassificationTask) -> "Texts":
        return Texts(self._examples(task.train.inputs))

    def prepare(
        self,
        tasks: Sequence[ClassificationTask],
        progress: Callable[[int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        for task in tasks:
            self.test_inputs(task)
            if progress is not None:
                progress(len(task.test.inputs))

    def test_inputs(self, task: ClassificationTask) -> "Texts":
        key = task.test.fingerprint
        if key not in self._test_tokens:
            self._test_tokens[key] = self._examples(task.test.inputs)
        return Texts(self._test_tokens[key])

    def loose_inputs(self, examples: Sequence[str | ImageFile]) -> "Texts":
        return Texts(self._examples(examples))

    def _examples(self, inputs: Sequence[str | ImageFile]) -> TokenTable:
        texts = [text for text in inputs if isinstance(text, str)]
        assert len(texts) == len(inputs), "an image among texts; DualEncoder.check looks at the modality"
        return self.tokenize(texts, truncate=True)

    def size_of(self, example: str | ImageFile) -> int:
        assert isinstance(example, str)
        return len(example.encode())

    def sample(self, example: str | ImageFile) -> dict[str, Any]:
        return {"text": example}

    def save(self, directory: Path) -> None:
        save_directory(directory, self.net, self.tokenizer, files=self._files)

    def usage(self, prompts: Sequence[str]) -> str:
        lowered = "[text.lower() for text in texts]" if self._lowercase else "texts"
        return f"""\
import torch
from transformers import AutoModel, AutoTokenizer

folder = "."  # this folder, or its id once it is on a hub
model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def embed(texts):
    batch = tokenizer({lowered}, padding=True, truncation=True, max_length={self.context}, return_tensors="pt")
    with torch.no_grad():
        tokens = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((tokens * mask).sum(dim=1) / mask.sum(dim=1))


prompts = {list(prompts)!r}
texts = ["a text of yours"]
shares = ({LOGIT_SCALE} * embed(texts) @ embed(prompts).T).softmax(dim=1)[0]
for prompt, share in zip(prompts, shares.tolist()):
    print(f"{{100 * share:.1f}} %  {{prompt}}")
"""


class Texts:
    """Tokenised examples; nothing about them is random."""

    def __init__(self, tokens: TokenTable):
        self._tokens = tokens

    def train(self, positions: Sequence[int], rng: random.Random, own: slice = slice(None)) -> Batch:
        return self._tokens.take(positions[own])

    def test(self, positions: Sequence[int]) -> Batch:
        return self._tokens.take(positions)

    def reading_order(self) -> list[int]:
        """Texts of like length together, so that little is padded."""
        return sorted(range(len(self._tokens)), key=self._tokens.lengths.__getitem__)
