"""Dual encoders: prompts and examples become vectors, and an example is of the class whose prompt is nearest.

This file holds what CLIP, SigLIP and sentence encoders share: the objective of docs/method.md and the
scoring of every test set in the pooled and in its own label space, in one pass, with a head where there is one
(`fusion.py`). `image_text.py` and `sentence.py` say how inputs become features.
"""

# Shapes: N examples of the batch, C classes of the task, U distinct prompts (or ensembles) of all tasks, D features
import random
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from codyra.errors import UserError
from codyra.families.family import (
    Batch,
    ClassificationTask,
    Family,
    ImageFile,
    Objective,
    Outputs,
    TaskScore,
    both_ways,
)
from codyra.families.fusion import Fusion, Prompts
from codyra.families.gather import gather_features, gather_labels, share_of
from codyra.families.observing import Visitor, observed_inputs
from codyra.families.references import ReferenceTexts
from codyra.families.shares import Progress, share, summed, together
from codyra.families.tokens import TokenTable
from codyra.tuner import quick_linears
from codyra.update import Head

PROMPTS_PER_CHUNK = 256


class TrainingInputs(Protocol):
    """The training examples of a task, ready to become batches."""

    def train(self, positions: Sequence[int], rng: random.Random, own: slice = slice(None)) -> Batch:
        """Augmented network inputs of the examples at `positions[own]`, on the CPU.

        Of `rng` as much is drawn for the others as for these, so that processes with a share each stay in step.
        """
        ...


class EvaluationInputs(Protocol):
    """The test examples of a task, ready to become batches."""

    def test(self, positions: Sequence[int]) -> Batch:
        """Network inputs of these examples, on the CPU."""
        ...

    def reading_order(self) -> list[int]:
        """All positions, each once, in the order that is cheapest to score."""
        ...


class DualEncoder(Family):
    """A pre-trained dual encoder, loaded by `load_family`.

    Attributes:
        context: longest text in tokens.
    """

    modality: Literal["image", "text"]
    pooled = True

    def __init__(self, net: nn.Module, tokenizer: Any, context: int):
        super().__init__(net, tokenizer)
        self.context = context
        self._head: Head | None = None
        self._head_classes: list[Prompts] = []

    # What a kind of dual encoder says of itself

    @abstractmethod
    def logit_scale(self) -> Tensor | float:
        """Frozen factor of the cosines; as a tensor a scalar of at least float32 without gradient."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> TokenTable:
        """Token ids of texts, whole or `truncate`d to the model's context."""

    @abstractmethod
    def prompt_parameters(self) -> Iterator[nn.Parameter]:
        """Everything a prompt's features depend on."""

    @abstractmethod
    def encode_prompts(self, batch: Batch) -> Tensor:
        """Features (C, D) of tokenised prompts, of any length."""

    @abstractmethod
    def encode_inputs(self, batch: Batch) -> Tensor:
        """Features (N, D) of the examples of a batch, of any length."""

    @abstractmethod
    def training_inputs(self, task: ClassificationTask) -> TrainingInputs:
        """The training examples of a task."""

    @abstractmethod
    def test_inputs(self, task: ClassificationTask) -> EvaluationInputs:
        """The test examples of a task; read once, however often they are scored."""

    @abstractmethod
    def loose_inputs(self, examples: Sequence[str | ImageFile]) -> EvaluationInputs:
        """Examples that belong to no task, treated as test examples are; not kept."""

    @abstractmethod
    def size_of(self, example: str | ImageFile) -> int:
        """Bytes that keeping an example takes: UTF-8 for a text, uint8 RGB at the model's size for an image."""

    @abstractmethod
    def sample(self, example: str | ImageFile) -> dict[str, Any]:
        """An example as a report shows it: {"text": str}, or {"image": Pillow image of at most 96 x 96}."""

    # What all of them share

    def use_head(self, head: Head | None, classes: Sequence[Sequence[str]] = ()) -> None:
        """Decide with this head from now on, or with prompts alone.

        Args:
            classes: the prompts that score each column of the head, in the order of the columns.
        """
        assert head is None or head.num_classes == len(classes), "a column of the head belongs to each class"
        self._head, self._head_classes = head, [tuple(prompts) for prompts in classes]

    def fusion(self, places: Mapping[Prompts, int]) -> Fusion | None:
        """The head in a label space of these prompts; None without a head."""
        if self._head is None:
            return None
        return Fusion(self._head.to(self.device), self._head_classes, places, self.logit_scale())

    def check(self, tasks: Sequence[ClassificationTask]) -> None:
        """Look for what would only fail in the middle of a run.

        Raises:
            UserError: a task has inputs this model cannot read, or a prompt longer than the model's context.
        """
        for task in tasks:
            if task.modality != self.modality:
                what = "asks for answers" if task.modality == "answers" else f"has {task.modality} inputs"
                raise UserError(
                    f"task '{task.name}' {what} but the model ({self.model_type}) reads {self.modality} inputs; "
                    "choose another model or another data source"
                )
            of_each_class = [
                {prompt, *scored} for prompt, scored in zip(task.prompts, task.scored_prompts, strict=True)
            ]
            self.check_prompts(task.name, task.class_names, of_each_class)

    def check_prompts(
        self, task_name: str, class_names: Sequence[str], prompts: Sequence[Collection[str]]
    ) -> None:
        """Look for a prompt that is longer than the model's context, among all of each class.

        Raises:
            UserError: there is one.
        """
        owners = [name for name, of_class in zip(class_names, prompts, strict=True) for _ in of_class]
        lengths = self.tokenize([prompt for of_class in prompts for prompt in of_class]).lengths
        for class_name, length in zip(owners, lengths, strict=True):
            if length > self.context:
                raise UserError(
                    f"task '{task_name}': the prompt of class '{class_name}' has {length} tokens but the "
                    f"model reads {self.context}; shorten the prompt or the class name"
                )

    def preview(self, task: ClassificationTask, count: int = 8) -> list[dict[str, Any]]:
        """{"label"} and `sample` of the first test example of each of the first `count` classes with any."""
        first: dict[int, int] = {}
        for position, label in enumerate(task.test.labels):
            first.setdefault(label, position)
        return [
            {"label": task.class_names[label], **self.sample(task.test.inputs[first[label]])}
            for label in sorted(first)[:count]
        ]

    def start_task(
        self,
        task: ClassificationTask,
        earlier: Sequence[ClassificationTask],
        *,
        text_loss: Literal["official", "current"],
        micro_batch_size: int | None,
    ) -> "TaskObjective":
        """The training objective of one task; see `TaskObjective`."""
        if micro_batch_size is not None:
            raise UserError(
                "train.micro_batch_size: the loss of a dual encoder compares all examples of a batch, so it cannot be "
                "split; remove the key, or lower train.batch_size"
            )
        num_earlier = sum(len(before.class_names) for before in earlier) if text_loss == "official" else 0
        return TaskObjective(self, task, num_earlier)

    def prompt_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit-length features (C, D), at least float32, of prompts encoded in chunks of bounded size.

        Processes share the chunks and all get all features, without gradients; every one has to ask.
        """
        table = self.tokenize(prompts)
        by_length = sorted(range(len(table)), key=table.lengths.__getitem__)  # so that little is padding
        chunks = self.token_chunks(table, by_length)
        with quick_linears(self.net):
            parts = ({i: self.encode_chunks([chunks[i]]).detach().cpu()} for i in share(range(len(chunks))))
            features_CD = torch.cat(together(parts, len(chunks), lambda more: None))
        return features_CD[torch.tensor(by_length).argsort()].to(self.device)

    def class_features(self, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Unit-length features (C, D), at least float32, of classes that are described by one or more prompts.

        Several prompts make an ensemble: the mean of their unit-length features, normalised again
        (docs/method.md). A prompt that several classes share is encoded once.
        """
        place: dict[str, int] = {}
        for of_class in prompts:
            for prompt in of_class:
                place.setdefault(prompt, len(place))
        features_UD = self.prompt_features(list(place))
        if all(len(of_class) == 1 for of_class in prompts):
            return features_UD[[place[prompt] for (prompt,) in prompts]]
        means = [features_UD[[place[prompt] for prompt in of_class]].mean(dim=0) for of_class in prompts]
        return unit_length(torch.stack(means))

    def token_chunks(self, table: TokenTable, positions: Sequence[int]) -> list[Batch]:
        """These texts of a table on the network's device, at most PROMPTS_PER_CHUNK together."""
        return [_to_device(table.take(chunk), self.device) for chunk in _chunks(positions, PROMPTS_PER_CHUNK)]

    def encode_chunks(self, chunks: Sequence[Batch]) -> Tensor:
        """Unit-length features (C, D) of the texts of `token_chunks`."""
        return unit_length(torch.cat([self.encode_prompts(chunk) for chunk in chunks]))

    def random_tokens(self, count: int, length: int, rng: random.Random) -> TokenTable:
        """`count` texts of `length` ordinary tokens each, drawn from `rng`, between the special ones of any text.

        Raises:
            UserError: the text tower reads no texts but those of examples.
        """
        raise UserError(
            f"random texts are for models of images and texts; a {self.model_type} model reads texts alone"
        )

    def encode_examples(self, batch: Batch) -> Tensor:
        """Unit-length features (N, D) of the examples of a batch, wherever it lies."""
        return unit_length(self.encode_inputs(_to_device(batch, self.device)))

    @torch.no_grad()
    def score(
        self,
        tasks: Sequence[ClassificationTask],
        batch_size: int = 64,
        ties: Literal["shared", "first"] = "shared",
        progress: Callable[[int], None] | None = None,
        limit: int | None = None,
    ) -> list[TaskScore]:
        """Score every test set against the classes of all `tasks` and against its own, in one pass.

        Processes share the batches and all know all scores, so every one of them has to ask.

        Args:
            tasks: their classes together are the pooled label space.
            batch_size: test examples encoded together; says nothing about the result.
            ties: which class wins when several have the same prompt: "shared" counts a prediction when its
                prompt is the true one, "first" counts only the first of these classes, as released code does.
            progress: called after every batch with the number of examples it held.
            limit: score only the first so many examples of every test set.
        """
        # Classes of equal prompts share one row, so that they tie exactly and the rule above decides, not rounding.
        prompt_ids: dict[tuple[str, ...], int] = {}
        for task in tasks:
            for prompts in task.scored_prompts:
                prompt_ids.setdefault(tuple(prompts), len(prompt_ids))
        prompts_UD = self.class_features(list(prompt_ids))
        fusion, all_ids = self.fusion(prompt_ids), torch.arange(len(prompt_ids), device=self.device)
        correct = torch.zeros(len(tasks), 2, dtype=torch.int64, device=self.device)
        num_scored: list[int] = []
        num_batches = 0
        claimed: set[int] = set()
        for task, correct_2 in zip(tasks, correct, strict=True):
            ids = [prompt_ids[tuple(prompts)] for prompts in task.scored_prompts]
            pooled_C = self._credited(ids, claimed, ties)
            own_C = self._credited(ids, set(), ties)
            own_ids = torch.tensor(list(dict.fromkeys(ids)), device=self.device)
            labels = torch.tensor(task.test.labels)
            inputs = self.test_inputs(task)
            order = inputs.reading_order()
            assert len(order) == len(labels), "test inputs were cached for another test set"
            if limit is not None:
                order = [position for position in order if position < limit]
            batches = list(_chunks(order, batch_size))
            own_batches = share(batches, before=num_batches)
            shown = Progress(progress or (lambda more: None), len(order))
            for positions, features_ND, cosines_NU in self._compare(inputs, own_batches, prompts_UD):
                labels_N = labels[positions].to(self.device, non_blocking=True)
                pooled_NU, own_NK = cosines_NU, cosines_NU[:, own_ids]
                if fusion is not None:
                    regressed_NU = fusion.regressed(features_ND)
                    pooled_NU = fusion.scores(cosines_NU, regressed_NU, all_ids)
                    own_NK = fusion.scores(cosines_NU, regressed_NU, own_ids)
                predicted_N = pooled_NU.argmax(dim=1)
                predicted_own_N = own_ids[own_NK.argmax(dim=1)]
                correct_2[0] += (predicted_N == pooled_C[labels_N]).sum()
                correct_2[1] += (predicted_own_N == own_C[labels_N]).sum()
                shown(len(positions))
            shown.finish()
            num_scored.append(len(order))
            num_batches += len(batches)
        return [
            TaskScore(task.name, examples, pooled, own)
            for task, examples, (pooled, own) in zip(tasks, num_scored, summed(correct).tolist(), strict=True)
        ]

    @torch.no_grad()
    def compare(
        self, examples: Sequence[str | ImageFile], prompts: Sequence[Sequence[str]], batch_size: int = 64
    ) -> tuple[Tensor, Tensor]:
        """Unit-length features (N, D) of examples, and their cosines (N, C) with classes, each described by one or
        more prompts; both at least float32. Without a head `score` takes the largest cosine.
        """
        prompts_CD = self.class_features(prompts)
        features_ND = prompts_CD.new_empty(len(examples), prompts_CD.shape[1])
        cosines_NC = prompts_CD.new_empty(len(examples), len(prompts))
        inputs = self.loose_inputs(examples)
        for positions, *of_batch in self._compare(
            inputs, _chunks(inputs.reading_order(), batch_size), prompts_CD
        ):
            features_ND[positions], cosines_NC[positions] = of_batch
        return features_ND, cosines_NC

    def _compare(
        self, inputs: EvaluationInputs, batches: Iterable[Sequence[int]], prompts_CD: Tensor
    ) -> Iterator[tuple[Sequence[int], Tensor, Tensor]]:
        """Of every batch the positions of its examples, their features (N, D) and cosines (N, C)."""
        with quick_linears(self.net):
            for positions in batches:
                features_ND = self.encode_examples(inputs.test(positions))
                yield positions, features_ND, cosines(features_ND, prompts_CD)

    def _credited(self, ids: Sequence[int], claimed: set[int], ties: str) -> Tensor:
        """The prompt that must be predicted for each class (C,); -1 where `ties` favours an earlier class.

        Prompts seen are added to `claimed`.
        """
        credited = []
        for prompt_id in ids:
            credited.append(-1 if ties == "first" and prompt_id in claimed else prompt_id)
            claimed.add(prompt_id)
        return torch.tensor(credited, device=self.device)


class TaskObjective(Objective):
    """What one task trains on: batches of its examples, and the loss of docs/method.md.

    Prompts are tokenised once. When nothing that they depend on is being trained, their features are computed
    once too, at the first loss.

    Args:
        family: the model.
        task: its training part and its prompts are used.
        num_earlier_classes: rows of earlier tasks that count as zero in the mean of the text-to-image loss.
    """

    def __init__(self, family: DualEncoder, task: ClassificationTask, num_earlier_classes: int):
        self._family = family
        self._labels = torch.tensor(task.train.labels)
        self._examples = task.train.inputs
        self._inputs = family.training_inputs(task)
        self._tokens = family.tokenize(task.prompts)
        self._prompt_chunks = family.token_chunks(self._tokens, range(len(self._tokens)))
        self._num_rows = num_earlier_classes + len(task.prompts)
        self._frozen_prompts_CD: Tensor | None = None

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, positions: Sequence[int], rng: random.Random, own: slice = slice(None)) -> Batch:
        """Network inputs and `labels` int64 (N,) of the training examples at `positions[own]`, on the network's device.

        Image crops are drawn from `rng` alone, by exactly one `rng.getrandbits(64)` per example of `positions`
        and in their order, whatever `own` is.
        """
        batch = self._inputs.train(positions, rng, own)
        batch["labels"] = self._labels[list(positions[own])]
        return _to_device(batch, self._family.device)

    def micro_batches(
        self, positions: Sequence[int], rng: random.Random, rank: int, num_processes: int
    ) -> Iterator[Batch]:
        """One part: the loss is that of the whole batch on every process, which gather each other's features."""
        if num_processes == 1:
            yield self.batch(positions, rng)
            return
        own, sizes = share_of(len(positions), rank, num_processes)
        yield {**self.batch(positions, rng, own), "sizes": sizes}

    def plain_batches(self, positions: Sequence[int], size: int) -> Iterator[Batch]:
        inputs = self._family.loose_inputs([self._examples[position] for position in positions])
        labels = self._labels[list(positions)]
        for part in _chunks(range(len(positions)), size):
            yield _to_device({**inputs.test(part), "labels": labels[list(part)]}, self._family.device)

    def outputs(self, batch: Batch, prompts: Tensor | None = None) -> Outputs:
        """Logits of the examples of all processes among the classes of the task, or other texts."""
        features_ND, labels_N = unit_length(self._family.encode_inputs(batch)), batch["labels"]
        if shared := "sizes" in batch:
            features_ND = gather_features(features_ND, batch["sizes"])
            labels_N = gather_labels(labels_N, batch["sizes"])
        prompts_CD = self._prompts(shared) if prompts is None else prompts
        return Outputs(self._logits(features_ND, prompts_CD), labels_N, features_ND, prompts_CD)

    def prompt_features(self) -> Tensor:
        # Not by way of `_prompts`: what is asked for may be the features of other weights than those trained.
        return self._family.encode_chunks(self._prompt_chunks)

    def compared(self, features: Tensor, prompts: Tensor) -> list[tuple[Tensor, float]]:
        """Logits of examples (N, D) among texts (C, D), both of unit length, as `Outputs.comparisons` has them."""
        return both_ways(self._logits(features, prompts))

    def random_texts(self, count: int, length: int, rng: random.Random) -> ReferenceTexts:
        """`count` texts of `length` ordinary tokens each, drawn from `rng`, between the special ones of any text."""
        return ReferenceTexts(self._family, self._family.random_tokens(count, length, rng))

    def _logits(self, features_ND: Tensor, prompts_CD: Tensor) -> Tensor:
        return self._family.logit_scale() * cosines(features_ND, prompts_CD)

    def log_likelihoods(self, batch: Batch) -> Tensor:
        outputs = self.outputs(batch)
        return -F.cross_entropy(outputs.logits, outputs.targets, reduction="none")

    def num_terms(self, positions: Sequence[int]) -> int:
        return len(positions)

    def visit_inputs(
        self, modules: Sequence[str], positions: Sequence[int], size: int, visit: Visitor
    ) -> dict[str, str]:
        family = self._family
        first_of: dict[str, str] = {}
        for batch in self.plain_batches(positions, size):
            with observed_inputs(family.net, modules, visit, batch.get("attention_mask")) as of_batch:
                family.encode_inputs(batch)
            first_of |= of_batch
        # Once, however many batches there are: what is seen must not depend on their size.
        for chunk in self._prompt_chunks:
            with observed_inputs(family.net, modules, visit, chunk["attention_mask"]) as of_prompts:
                family.encode_prompts(chunk)
            first_of |= of_prompts
        return first_of

    def example_bytes(self, positions: Sequence[int]) -> int:
        return sum(self._family.size_of(self._examples[position]) for position in positions)

    def loss(
        self, batch: Batch, outputs: Outputs | None = None, num_terms: int | None = None
    ) -> dict[str, Tensor]:
        """`loss` = `image_to_text` + `text_to_image`; the parts are detached. Scalars, at least float32."""
        outputs = outputs or self.outputs(batch)
        image_to_text = F.cross_entropy(outputs.logits, outputs.targets)
        if num_terms is not None:
            image_to_text = image_to_text * len(outputs.targets) / num_terms
        text_to_image = text_to_image_loss(outputs.logits, outputs.targets, self._num_rows)
        return {
            "loss": image_to_text + text_to_image,
            "image_to_text": image_to_text.detach(),
            "text_to_image": text_to_image.detach(),
        }

    def _prompts(self, shared: bool) -> Tensor:
        """Unit-length features (C, D) of the task's prompts; of a batch that processes share they share these too."""
        if self._frozen_prompts_CD is not None:
            return self._frozen_prompts_CD
        if any(parameter.requires_grad for parameter in self._family.prompt_parameters()):
            if not shared:
                return self._family.encode_chunks(self._prompt_chunks)
            chunks, sizes = self._own_prompts
            return gather_features(self._family.encode_chunks(chunks), sizes)
        with torch.no_grad():
            self._frozen_prompts_CD = self._family.encode_chunks(self._prompt_chunks)
        return self._frozen_prompts_CD

    @cached_property
    def _own_prompts(self) -> tuple[list[Batch], list[int]]:
        """The prompts that this process encodes while a task trains, and the number of prompts of every process."""
        num_prompts = len(self._tokens)
        own, sizes = share_of(num_prompts, dist.get_rank(), dist.get_world_size())
        return self._family.token_chunks(self._tokens, range(num_prompts)[own]), sizes


def text_to_image_loss(logits_NC: Tensor, labels_N: Tensor, num_rows: int) -> Tensor:
    """Cross-entropy over the batch against "this image shows the class", mean over `num_rows` class rows.

    Rows are not normalised: a class shown twice counts twice, one that is not shown (or that belongs to an
    earlier task and is not even among the C) adds nothing but itself to the divisor. docs/method.md.
    """
    log_share_NC = logits_NC.log_softmax(dim=0)
    return -log_share_NC.gather(1, labels_N[:, None]).sum() / num_rows


def unit_length(features_ND: Tensor) -> Tensor:
    """Rows divided by their Euclidean norm, in at least float32."""
    return F.normalize(features_ND.to(torch.promote_types(features_ND.dtype, torch.float32)), dim=-1)


def cosines(features_ND: Tensor, prompts_CD: Tensor) -> Tensor:
    """Cosines (N, C) of unit-length rows, outside autocast: times 100 they do not survive bfloat16."""
    with torch.autocast(features_ND.device.type, enabled=False):
        return features_ND @ prompts_CD.T


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _chunks(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(positions), size):
        yield positions[start : start + size]
