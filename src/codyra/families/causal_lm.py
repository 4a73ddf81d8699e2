"""Causal language models: prompts are answered, token after token, and only the answers are learnt."""

# Shapes: N rows, L tokens, A tokens of the longest answer, V vocabulary
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from codyra.errors import UserError
from codyra.families.answer_tokens import AnswerTokenizer, Row
from codyra.families.answers import AnswerObjective, answer_batch
from codyra.families.family import AnswerScore, AnswerSettings, AnswerSplit, AnswerTask, Batch, Family, Prompt
from codyra.families.generation import NewTokens, Writer
from codyra.families.likelihood import alike, log_likelihoods
from codyra.families.quantized import Quantization, QuantizedLinear, quantize_linears
from codyra.families.saving import save_directory
from codyra.families.shares import batches_by_length, share, together
from codyra.families.targets import find_targets
from codyra.text_metrics import METRICS

PREVIEW_CHARACTERS = 1000


class CausalLM(Family):
    """A causal language model of transformers with its head.

    Args:
        net: has `generate`.
        tokenizer: a fast one.
        settings: how prompts and answers become tokens.
        files: the generation config of the directory, by its name, handed on when the model is saved.

    Raises:
        UserError: the tokenizer cannot tell where a token begins and ends, or nothing says what ends an answer.
    """

    modality = "answers"
    pooled = False
    default_prompt = "{}"
    library_name = "transformers"
    pipeline_tag = "text-generation"

    def __init__(self, net: Any, tokenizer: Any, settings: AnswerSettings, files: Mapping[str, bytes]):
        super().__init__(net, tokenizer)
        self.settings = settings
        self._files = files
        if not tokenizer.is_fast:
            raise UserError(
                f"the tokenizer ({type(tokenizer).__name__}) does not tell which characters a token "
                "holds; codyra needs a fast one (tokenizer.json)"
            )
        of_config = net.generation_config.eos_token_id
        ends = [of_config] if isinstance(of_config, int) else list(of_config or [])
        if tokenizer.eos_token_id is not None:
            ends.insert(0, tokenizer.eos_token_id)
        if not ends:
            raise UserError(
                "neither the tokenizer nor the generation config has an end-of-sequence token, so no "
                "answer would ever end; set eos_token in tokenizer_config.json"
            )
        self._stop_ids = frozenset(ends)
        self._pad_id: int = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        num_embeddings = net.get_input_embeddings().num_embeddings
        if self._pad_id >= num_embeddings:  # added to the tokenizer alone
            self._pad_id = ends[0]
        self._tokens = AnswerTokenizer(tokenizer, settings, ends[0], num_embeddings)
        self._forward_options = frozenset(inspect.signature(net.forward).parameters)
        self._checkpointed: list[GradientCheckpointingLayer] = []
        self._rows: dict[tuple[object, ...], list[Row]] = {}
        self._unquantized: tuple[str, int] | None = None

    @torch.no_grad()
    def check_reading(self) -> None:
        """Look whether the network is causal, and whether padding on the left says nothing to it.

        Raises:
            UserError: it is not; transformers counts some encoders among the causal language models.
        """
        short, longer = (Row(torch.arange(length), length - 2, False, False) for length in (3, 4))
        logits_NAV = self.answer_logits(self._answer_batch([short, longer])).float()
        after_two, followed = logits_NAV[0, -1], logits_NAV[1, 0]
        tolerance = 1e-3 if self.net.dtype in (torch.float32, torch.float64) else 0.1
        if (after_two - followed).abs().max() > tolerance * after_two.std():
            raise UserError(
                f"a {self.model_type} model reads what comes later or what only fills up a row; codyra trains causal "
                "language models with an attention mask"
            )

    # What a task is to it

    @property
    def towers(self) -> dict[str, str]:
        return {}

    @cached_property
    def window(self) -> int | None:
        """Longest text in tokens that the positions of the model allow; None where nothing says."""
        config: Any = self.net.config
        return getattr(config, "max_position_embeddings", None)

    def target_modules(self, targets: str | Sequence[str]) -> list[str]:
        """As `Family.target_modules`; the head is never among them."""
        net: Any = self.net
        return find_targets(self.net, targets, self.towers, head=net.get_output_embeddings())

    # Weights in 8 or 4 bit

    def quantize(self, kind: Quantization, device: torch.device | str) -> dict[str, Tensor]:
        exact = super().fingerprint(), super().num_parameters
        weights = quantize_linears(self.net, self.target_modules("all"), kind, device)
        self._unquantized = exact
        return weights

    def write_weights(self, weights: Mapping[str, Tensor]) -> None:
        """As `Family.write_weights`; a quantised layer quantises its tensor."""
        plain = {}
        for name, weight in weights.items():
            layer = self.net.get_submodule(name.rpartition(".")[0])
            if isinstance(layer, QuantizedLinear):
                layer.hold(weight.to(layer.weight.device))
            else:
                plain[name] = weight
        super().write_weights(plain)

    def fingerprint(self) -> str:
        """As `Family.fingerprint`; of the weights before they were quantised."""
        return super().fingerprint() if self._unquantized is None else self._unquantized[0]

    @property
    def num_parameters(self) -> int:
        return super().num_parameters if self._unquantized is None else self._unquantized[1]

    def check(self, tasks: Sequence[AnswerTask]) -> None:
        """Look for what would only fail in the middle of a run; lengths are looked at by `prepare`.

        Raises:
            UserError: a task has nothing to be answered, an answer is empty, or the package of a metric or the chat
                template is missing.
        """
        for task in tasks:
            if task.modality != self.modality:
                raise UserError(
                    f"task '{task.name}' has {task.modality} inputs with classes but the model ({self.model_type}) "
                    "answers prompts; choose another model or give the task prompts and answers"
                )
            METRICS[task.metric].check()
            for split, what in ((task.train, "training"), (task.test, "test")):
                for number, answer in enumerate(split.answers, start=1):
                    if not answer.strip():
                        raise UserError(
                            f"task '{task.name}', {what} record {number}: the answer is empty; mend or drop the record"
                        )
            if self._has_chat(task.test.inputs):
                try:
                    _ = self._tokens.end_of_turn_id
                except UserError as error:
                    raise UserError(f"task '{task.name}', {error}") from error

    def prepare(
        self,
        tasks: Sequence[AnswerTask],
        progress: Callable[[int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Tokenise all training and test examples.

        Raises:
            UserError: an example has more tokens than the model can read, or the tokenizer or the chat template
                refuses it.
        """
        for task in tasks:
            training, test = self._training_rows(task), self._test_rows(task)
            at = f"task '{task.name}': a"
            self._check_window(f"{at} training prompt", max(len(row.ids) for row in training))
            longest = max(len(row.ids) for row in test) + task.max_new_tokens
            if task.choices:
                longest = max(len(row.ids) for row in self._choice_rows(task))
            self._check_window(f"{at} test prompt", longest)
            if say is not None and (notice := _notice(task.name, training, test)):
                say(notice)
            if progress is not None:
                progress(len(task.test))

    def _check_window(self, what: str, needed: int) -> None:
        if self.window is not None and needed > self.window:
            raise UserError(
                f"{what} with its answer can have {needed} tokens, but the model "
                f"({self.model_type}) reads {self.window}; lower max_prompt_tokens, or max_answer_tokens and "
                "max_new_tokens"
            )

    def preview(self, task: AnswerTask, count: int = 8) -> list[dict[str, Any]]:
        """{"label": the answer, "text": the prompt, its middle left out when it is long}."""
        return [
            {"label": answer, "text": _shortened(_plain(prompt))}
            for prompt, answer in zip(task.test.inputs[:count], task.test.answers[:count], strict=True)
        ]

    # Training

    def start_task(
        self,
        task: AnswerTask,
        earlier: Sequence[AnswerTask],
        *,
        text_loss: Literal["official", "current"],
        micro_batch_size: int | None,
    ) -> AnswerObjective:
        return AnswerObjective(
            self.net, self.answer_logits, self._training_rows(task), self._answer_batch, micro_batch_size
        )

    def answer_logits(self, batch: Batch) -> Tensor:
        """Logits (N, A, V) for every entry of `targets`, in the dtype that the network gives."""
        longest = batch["targets"].shape[1]
        options = {"position_ids": batch["position_ids"], "logits_to_keep": longest}
        with self._recomputing():
            logits_NLV: Tensor = self.net(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
                **{name: value for name, value in options.items() if name in self._forward_options},
            ).logits
        # The gradient of a slice is a copy, even when it is a slice of everything.
        return logits_NLV if logits_NLV.shape[1] == longest else logits_NLV[:, -longest:]

    @contextmanager
    def checkpointed_activations(self, wanted: bool) -> Iterator[None]:
        net: Any = self.net
        layers = [module for module in net.modules() if isinstance(module, GradientCheckpointingLayer)]
        if wanted and not layers:
            raise UserError(
                f"train.gradient_checkpointing: transformers cannot compute the activations of a {self.model_type} "
                "model again; set it to false"
            )
        self._checkpointed = layers if wanted else []
        for layer in self._checkpointed:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(_compute_again, layer)
        try:
            yield
        finally:
            for layer in self._checkpointed:
                layer.gradient_checkpointing = False
            self._checkpointed = []

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Lets the layers recompute, which transformers does in training mode only; see `_compute_again`."""
        for layer in self._checkpointed:
            layer.training = True
        try:
            yield
        finally:
            for layer in self._checkpointed:
                layer.training = False

    # Answering

    @torch.no_grad()
    def score(
        self,
        tasks: Sequence[AnswerTask],
        batch_size: int = 64,
        ties: Literal["shared", "first"] = "shared",
        progress: Callable[[int], None] | None = None,
        limit: int | None = None,
    ) -> list[AnswerScore]:
        """Answer every test prompt and hold the answers against the true ones; see `Family.score`."""
        return [self._score(task, batch_size, progress or (lambda more: None), limit) for task in tasks]

    @torch.no_grad()
    def answer(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        choices: Sequence[str] = (),
        frame: tuple[str, str] = ("", ""),
        batch_size: int = 64,
    ) -> list[str]:
        """Greedy answers to finished prompts, or the likeliest of `choices` where there are any.

        Raises:
            UserError: a prompt with such an answer exceeds what the model reads, or the chat template refuses one.
        """
        if choices:
            repeated = [prompt for prompt in prompts for _ in choices]
            given = list(choices) * len(prompts)
            rows = self._tokens.rows(repeated, given, frame, "prompt and choice", closed=False)
            return self._likeliest(rows, choices, batch_size, lambda more: None)
        rows = self._tokens.rows(prompts, None, frame, "prompt")
        for number, row in enumerate(rows, start=1):
            self._check_window(f"prompt {number}", len(row.ids) + max_new_tokens)
        batches = batches_by_length([len(row.ids) for row in rows], batch_size)
        written: dict[int, NewTokens] = {}
        for part in self._writer(prompts).greedy([row.ids for row in rows], batches, max_new_tokens):
            written |= part
        return [self._decode(written[position].ids) for position in range(len(prompts))]

    def _score(
        self, task: AnswerTask, batch_size: int, progress: Callable[[int], None], limit: int | None
    ) -> AnswerScore:
        rows = self._test_rows(task)[:limit]
        if task.choices:
            predictions = self._likeliest(
                self._choice_rows(task)[: len(rows) * len(task.choices)], task.choices, batch_size, progress
            )
            unfinished = 0
        else:
            predictions, unfinished = self._written(task, rows, batch_size, progress)
        metric = METRICS[task.metric]
        percents = [
            metric.score(_plain(prompt), prediction, answer)
            for prompt, prediction, answer in zip(
                task.test.inputs[:limit], predictions, task.test.answers[:limit], strict=True
            )
        ]
        return AnswerScore(
            name=task.name,
            examples=len(percents),
            metric=task.metric,
            total=math.fsum(percents),
            squares=math.fsum(percent**2 for percent in percents),
            cut=sum(row.prompt_cut for row in rows),
            unfinished=unfinished,
            answers=tuple(zip(predictions, percents, strict=True)),
        )

    def _written(
        self, task: AnswerTask, rows: Sequence[Row], batch_size: int, progress: Callable[[int], None]
    ) -> tuple[list[str], int]:
        """The answers, and how many had not ended."""
        writer = self._writer(task.test.inputs)
        prompts = [row.ids for row in rows]
        if self.settings.generation == "treelora":
            positions = share(range(len(rows)))
            parts = writer.sampled(prompts, positions, task.max_new_tokens, self.settings.seed, task.name)
        else:
            batches = share(batches_by_length([len(prompt) for prompt in prompts], batch_size))
            parts = writer.greedy(prompts, batches, task.max_new_tokens)
        written = together(parts, len(rows), progress)
        return [self._decode(new.ids) for new in written], sum(not new.ended for new in written)

    def _likeliest(
        self, rows: Sequence[Row], choices: Sequence[str], batch_size: int, progress: Callable[[int], None]
    ) -> list[str]:
        """Of every example, which has a row for each choice, the likeliest choice; of equal ones the first."""
        num_choices = len(choices)
        groups = alike(rows)
        batches = share(batches_by_length([len(rows[group[0]].ids) for group in groups], batch_size))
        parts = log_likelihoods(
            rows,
            ([groups[index] for index in batch] for batch in batches),
            self.answer_logits,
            self._answer_batch,
        )
        sums = together(parts, len(rows), progress, per_example=num_choices)
        return [
            max(enumerate(choices), key=lambda choice: sums[example * num_choices + choice[0]])[1]
            for example in range(len(rows) // num_choices)
        ]

    def _writer(self, prompts: Sequence[Prompt]) -> Writer:
        ends = set(self._stop_ids)
        if self._has_chat(prompts) and self._tokens.end_of_turn_id is not None:
            ends.add(self._tokens.end_of_turn_id)
        return Writer(self.net, ends, self._pad_id)

    def _has_chat(self, prompts: Sequence[Prompt]) -> bool:
        return any(self._tokens.is_chat(prompt) for prompt in prompts)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    # Tokens

    def _training_rows(self, task: AnswerTask) -> list[Row]:
        return self._kept(task.train, task.train.inputs, task.train.answers, task, "training record")

    def _test_rows(self, task: AnswerTask) -> list[Row]:
        """Prompts alone."""
        return self._kept(task.test, task.test.inputs, None, task, "test record")

    def _choice_rows(self, task: AnswerTask) -> list[Row]:
        """Of every test prompt one row per choice."""
        prompts = [prompt for prompt in task.test.inputs for _ in task.choices]
        return self._kept(
            task.test,
            prompts,
            tuple(task.choices) * len(task.test),
            task,
            "test prompt and choice",
            closed=False,
        )

    def _kept(
        self,
        split: AnswerSplit,
        prompts: Sequence[Prompt],
        answers: Sequence[str] | None,
        task: AnswerTask,
        what: str,
        closed: bool = True,
    ) -> list[Row]:
        """Rows of a split, tokenised once."""
        key = (split.fingerprint, task.frame, what, tuple(task.choices))
        if key not in self._rows:
            at = f"task '{task.name}', {what}"
            self._rows[key] = self._tokens.rows(prompts, answers, task.frame, at, closed)
        return self._rows[key]

    def _answer_batch(self, rows: Sequence[Row]) -> Batch:
        return answer_batch(rows, self._pad_id, self.device)

    # Saving

    def save(self, directory: Path) -> None:
        assert self._unquantized is None, "a checkout is made of the weights that were quantised"
        net: Any = self.net
        own = net.generation_config
        # transformers refuses to save some of the configs that it loads; the file goes along as it was.
        net.generation_config = GenerationConfig(eos_token_id=own.eos_token_id)
        try:
            save_directory(directory, net, self.tokenizer, files=self._files)
        finally:
            net.generation_config = own

    def usage(self, prompts: Sequence[str]) -> str:
        """Python code that answers `prompts` with what `save` wrote, run in its directory and without codyra."""
        if self.settings.chat_template:
            batch = """tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )"""
        elif self.tokenizer.bos_token is None:
            batch = 'tokenizer(prompt, add_special_tokens=False, return_tensors="pt")'
        else:
            batch = 'tokenizer(tokenizer.bos_token + prompt, add_special_tokens=False, return_tensors="pt")'
        return f"""\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its id once it is on a hub
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompts = {list(prompts)!r}
for prompt in prompts:
    batch = {batch}
    with torch.no_grad():
        tokens = model.generate(**batch, do_sample=False, max_new_tokens=64)
    print(tokenizer.decode(tokens[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def _compute_again(layer: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """Run a layer's forward now and once more in the backward pass, without its dropout both times."""
    layer.training = False
    return checkpoint(function, *args, use_reentrant=False)


def _plain(prompt: Prompt) -> str:
    """A prompt as one text, for people and for metrics that look at it."""
    return prompt if isinstance(prompt, str) else "\n".join(content for _, content in prompt)


def _shortened(text: str) -> str:
    if len(text) <= PREVIEW_CHARACTERS:
        return text
    half = PREVIEW_CHARACTERS // 2
    return f"{text[:half]} [...] {text[-half:]}"


def _notice(name: str, training: Sequence[Row], test: Sequence[Row]) -> str | None:
    """What was cut, for the user."""
    counts = {
        "training prompts": (sum(row.prompt_cut for row in training), len(training)),
        "training answers": (sum(row.answer_cut for row in training), len(training)),
        "test prompts": (sum(row.prompt_cut for row in test), len(test)),
    }
    cut = [f"{count} of {total} {what}" for what, (count, total) in counts.items() if count]
    return f"task '{name}': {', '.join(cut)} are longer than allowed and were cut" if cut else None
