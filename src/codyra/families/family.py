"""What a family of models and its surroundings agree on: the model wanted, the tasks, the scores."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from codyra import metrics
from codyra.digest import tensors_sha256
from codyra.errors import UserError
from codyra.families.observing import Visitor
from codyra.families.quantized import Quantization
from codyra.families.targets import find_targets
from codyra.update import Head, write_weights

Batch = dict[str, Any]
"""Network inputs and whatever the loss needs, tensors on the network's device."""


NO_TARGET = -100
"""In place of a true token: nothing to be predicted there."""


class ModelSpec(BaseModel):
    """The `model:` section of a configuration."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """Hugging Face hub id or local directory."""
    revision: str | None = None
    """Branch, tag or commit on the hub; of no meaning for a local directory."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Data type the weights are held in."""
    quantize: Quantization | None = None
    """What a run holds the linears of the blocks in while it trains and scores; merged weights are of `dtype`."""

    @model_validator(mode="after")
    def _can_be_quantized(self) -> Self:
        if self.quantize is not None and self.dtype == "float64":
            raise ValueError("quantize needs dtype float32, bfloat16 or float16")
        return self


@dataclass(frozen=True)
class AnswerSettings:
    """How prompts and answers of a causal language model become tokens and how it answers; docs/answers.md.

    `seed` feeds the sampling of `generation: treelora`, nothing else.
    """

    max_prompt_tokens: int = 1024
    max_answer_tokens: int = 512
    truncation: Literal["keep_instruction", "treelora"] = "keep_instruction"
    generation: Literal["greedy", "treelora", "likelihood"] = "greedy"
    chat_template: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TaskScore:
    """Counts of one test set: right among the classes of all tasks, and right among its own."""

    name: str
    examples: int
    correct: int
    correct_task: int

    def percent(self, label_space: Literal["all", "task"]) -> float:
        """Accuracy in percent, in the pooled label space or the task's own."""
        return 100.0 * (self.correct if label_space == "all" else self.correct_task) / self.examples

    def standard_error(self, label_space: Literal["all", "task"]) -> float:
        """Of `percent`, in points; binomial."""
        return metrics.standard_error(self.percent(label_space), self.examples)


@dataclass(frozen=True)
class AnswerScore:
    """What a test set of prompts came to: sums over its answers of the metric (percent) and of its square.

    Attributes:
        metric: name in `codyra.text_metrics`.
        cut: prompts that were longer than allowed.
        unfinished: answers that had not ended when they were as long as allowed.
        answers: (answer, its percent) in file order, of every example; no part of the score itself.
    """

    name: str
    examples: int
    metric: str
    total: float
    squares: float
    cut: int
    unfinished: int
    answers: tuple[tuple[str, float], ...] = field(default=(), compare=False, repr=False)

    def percent(self, label_space: Literal["all", "task"]) -> float:
        """Mean over the examples; a task of answers has no label space."""
        return self.total / self.examples

    def standard_error(self, label_space: Literal["all", "task"]) -> float:
        """Of `percent`, in points: sqrt(variance / n), the variance with divisor n; binomial for right or wrong."""
        variance = self.squares / self.examples - self.percent(label_space) ** 2
        return math.sqrt(max(0.0, variance) / self.examples)


Score = TaskScore | AnswerScore


class ImageFile(Protocol):
    """An image that is decoded only when it is needed."""

    @property
    def name(self) -> str: ...

    def open(self) -> Image.Image: ...


class TaskSplit(Protocol):
    """Inputs (all texts or all images) and the class index of each."""

    @property
    def inputs(self) -> Sequence[str | ImageFile]: ...

    @property
    def labels(self) -> Sequence[int]: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over exactly these inputs, in order."""
        ...


class ClassificationTask(Protocol):
    """The part of a task that a dual encoder reads.

    `prompts` holds one finished sentence per class, for training; `scored_prompts` holds for each class those that
    score together.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> str: ...

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def scored_prompts(self) -> Sequence[Sequence[str]]: ...

    @property
    def train(self) -> TaskSplit: ...

    @property
    def test(self) -> TaskSplit: ...


Prompt = str | tuple[tuple[str, str], ...]
"""A text, or the (role, content) of each message of a chat before the answer."""


class AnswerSplit(Protocol):
    """Prompts and the true answer to each; `fingerprint` is a SHA-256 over exactly these, in order."""

    @property
    def inputs(self) -> Sequence[Prompt]: ...

    @property
    def answers(self) -> Sequence[str]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...


class AnswerTask(Protocol):
    """The part of a task that a causal language model reads.

    `metric` is a key of `codyra.text_metrics.METRICS`. `choices` are the answers that the likeliest is taken
    from; without any an answer of at most `max_new_tokens` is generated. `frame` holds what the prompts begin and end
    with and what is never cut out of them; two empty texts when that is not known.
    """

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> str: ...

    @property
    def train(self) -> AnswerSplit: ...

    @property
    def test(self) -> AnswerSplit: ...

    @property
    def metric(self) -> str: ...

    @property
    def choices(self) -> Sequence[str]: ...

    @property
    def max_new_tokens(self) -> int: ...

    @property
    def frame(self) -> tuple[str, str]: ...


class TaskPart(Protocol):
    """Examples of a task; `fingerprint` is a SHA-256 over exactly these, in order."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...


class AnyTask(Protocol):
    """The part of a task that every family reads."""

    @property
    def name(self) -> str: ...

    @property
    def modality(self) -> str: ...

    @property
    def train(self) -> TaskPart: ...

    @property
    def test(self) -> TaskPart: ...


@dataclass(frozen=True)
class Outputs:
    """What the network says of a batch, with gradients.

    Attributes:
        logits: of classes (N, C), or of the vocabulary (P, V) at the positions of the answers.
        targets: true classes (N,), or tokens (P,) with NO_TARGET where there is none.
        features, prompts: unit-length vectors (N, D) of the examples and (C, D) of the classes; None for answers.
        scale: of answers, what turns a sum over tokens into a share of the mean over those of the global batch.
    """

    logits: Tensor
    targets: Tensor
    features: Tensor | None = None
    prompts: Tensor | None = None
    scale: float | None = None

    @property
    def comparisons(self) -> list[tuple[Tensor, float]]:
        """Logits (rows, choices) to be compared under a softmax over the choices, each with the factor that turns a
        sum over its rows into its share of the loss: examples among classes and classes among examples, or the tokens
        of the answers among the vocabulary.
        """
        if self.scale is not None:
            return [(self.logits[self.targets != NO_TARGET], self.scale)]
        return both_ways(self.logits)


def both_ways(logits_NC: Tensor) -> list[tuple[Tensor, float]]:
    """Examples among classes and classes among examples, each with the factor that makes a sum over rows a mean."""
    num_examples, num_classes = logits_NC.shape
    return [(logits_NC, 1 / num_examples), (logits_NC.T, 1 / num_classes)]


class Objective(ABC):
    """What one task trains on: batches of its examples, and their loss."""

    @abstractmethod
    def __len__(self) -> int:
        """Training examples."""

    @abstractmethod
    def micro_batches(
        self, positions: Sequence[int], rng: random.Random, rank: int, num_processes: int
    ) -> Iterator[Batch]:
        """What process `rank` computes of the global batch of these training examples, part by part.

        As many parts on every process, and at least one. All draws come from `rng`, and as many on every process.
        """

    @abstractmethod
    def plain_batches(self, positions: Sequence[int], size: int) -> Iterator[Batch]:
        """These training examples as test examples are read, `size` together; the same on every process."""

    @abstractmethod
    def outputs(self, batch: Batch, prompts: Tensor | None = None) -> Outputs:
        """What the network says of a batch.

        Args:
            prompts: unit-length features (C, D) of texts in the place of the classes; of no meaning for answers.
        """

    def prompt_features(self) -> Tensor | None:
        """Unit-length features (C, D) of the classes as the network sees them now; None for answers."""
        return None

    @abstractmethod
    def loss(
        self, batch: Batch, outputs: Outputs | None = None, num_terms: int | None = None
    ) -> dict[str, Tensor]:
        """`loss`, a differentiable scalar, and its parts, detached.

        The sum over the parts of a process, averaged over processes, is the loss of the global batch.

        Args:
            outputs: those of this batch where they are known; computed otherwise.
            num_terms: what means are taken over, where a plain batch is a part of more examples than it holds; sums, as
                the text-to-image loss, are those of the part.
        """

    @abstractmethod
    def log_likelihoods(self, batch: Batch) -> Tensor:
        """log p(true class or answer | input) of every example (N,), in at least float32, with gradients."""

    @abstractmethod
    def num_terms(self, positions: Sequence[int]) -> int:
        """What the loss of these examples is a mean over: their number, or the tokens of their answers."""

    @abstractmethod
    def visit_inputs(
        self, modules: Sequence[str], positions: Sequence[int], size: int, visit: Visitor
    ) -> dict[str, str]:
        """Call `visit` with what these linears read in a pass over these training examples, as soon as they read it.

        A dual encoder reads the prompts of the task's classes as well, once.

        Args:
            size: examples read together; says nothing about the result.
            visit: takes the name of a linear and its input (positions, features), without gradients and padding. A
                tensor that several linears read is given once, under the name of the first of them.

        Returns:
            {linear: the first that reads the same tensor}; linears that did not run are left out.
        """

    @abstractmethod
    def example_bytes(self, positions: Sequence[int]) -> int:
        """Bytes that keeping these examples takes: UTF-8 for text, uint8 RGB at the model's size for images,
        int32 token ids for prompts with answers."""


class Family(ABC):
    """A kind of pre-trained model: how it is loaded, batched, trained on a batch and scored.

    Attributes:
        net: the plain transformers model, in eval mode, with every parameter frozen. peft exchanges linears
            inside it in place, so everything here goes through it anew at every call.
        modality: what examples are: "image", "text" (both classified), or "answers" (prompts to be answered).
        pooled: scores of a task depend on which other tasks there are.
        model_type: as in the model's config.json.
        default_prompt: the prompt of a task that names none.
        setup: SHA-256 of the files beside the weights that scores depend on.
        features_in_usage: in the code that `usage` gives, the unit-length features (N, D) of the examples; "" where
            there are none.
        library_name, pipeline_tag: what the Hugging Face hub calls a saved model of this kind.
    """

    modality: Literal["image", "text", "answers"]
    pooled: ClassVar[bool]
    default_prompt: str
    features_in_usage: ClassVar[str] = ""
    library_name: str
    pipeline_tag: str

    def __init__(self, net: nn.Module, tokenizer: Any) -> None:
        self.net = net
        self.tokenizer = tokenizer
        self.setup: dict[str, str] = {}
        self.model_type: str = net.config.model_type  # type: ignore[assignment,union-attr]

    @property
    @abstractmethod
    def towers(self) -> dict[str, str]:
        """Prefix of the parameter names of each tower that exists, under "vision" and "text"."""

    @abstractmethod
    def check(self, tasks: Sequence[Any]) -> None:
        """Look for what would only fail in the middle of a run.

        Raises:
            UserError: a task cannot be learnt by this model.
        """

    @abstractmethod
    def prepare(
        self,
        tasks: Sequence[Any],
        progress: Callable[[int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Read all test examples, so that a broken one is found now and scoring is quick.

        Args:
            progress: called with how many more of all test examples are ready.
            say: takes a line for the user.

        Raises:
            UserError: an example cannot be read; the message names it.
        """

    @abstractmethod
    def preview(self, task: Any, count: int = 8) -> list[dict[str, Any]]:
        """The first `count` examples as a report shows them: {"label", and "text" or "image"}."""

    @abstractmethod
    def start_task(
        self,
        task: Any,
        earlier: Sequence[Any],
        *,
        text_loss: Literal["official", "current"],
        micro_batch_size: int | None,
    ) -> Objective:
        """The training objective of one task.

        Args:
            earlier: the tasks before it.
            text_loss: see docs/method.md; of no meaning for answers.
            micro_batch_size: examples computed together; None for the whole share of a process.

        Raises:
            UserError: the family cannot split a batch.
        """

    @abstractmethod
    def score(
        self,
        tasks: Sequence[Any],
        batch_size: int = 64,
        ties: Literal["shared", "first"] = "shared",
        progress: Callable[[int], None] | None = None,
        limit: int | None = None,
    ) -> Sequence[Score]:
        """Score the test set of every task.

        Args:
            batch_size: test examples computed together.
            ties: see `DualEncoder.score`; of no meaning for answers.
            progress: called after every batch with how many more examples are scored.
            limit: score only the first so many examples of every test set.
        """

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write a plain directory that transformers (or sentence-transformers) loads without codyra."""

    @abstractmethod
    def usage(self, prompts: Sequence[str]) -> str:
        """Python code that uses what `save` wrote, run in its directory and without codyra.

        Args:
            prompts: of some classes, or of a task of answers.
        """

    def use_head(self, head: Head | None, classes: Sequence[Sequence[str]] = ()) -> None:
        """Decide with this head, or without any; only a dual encoder can have one, see `DualEncoder.use_head`."""
        assert head is None, f"a {self.model_type} model has no features for a head"

    def write_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy tensors into the parameters of the same names, in place."""
        write_weights(self.net, weights)

    def quantize(self, kind: Quantization, device: torch.device | str) -> dict[str, Tensor]:
        """Hold the linears of the blocks in 8 or 4 bit on `device`, as a view of what `write_weights` is given.

        Returns:
            The weights that were quantised, by name; the network has let go of them.

        Raises:
            UserError: the model cannot be held so.
        """
        raise UserError(
            f"model.quantize is for causal language models; set it to null for a {self.model_type} model"
        )

    @contextmanager
    def checkpointed_activations(self, wanted: bool) -> Iterator[None]:
        """While this is open and `wanted`, activations are computed again in the backward pass instead of kept.

        Raises:
            UserError: the model cannot.
        """
        if wanted:
            raise UserError(
                f"train.gradient_checkpointing is for causal language models; a {self.model_type} model keeps its "
                "activations"
            )
        yield

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the network; batches follow it."""
        self.net.to(device)
        return self

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.net.parameters())

    def fingerprint(self) -> str:
        """SHA-256 over the names, types, shapes and bytes of all parameters, in the order of their names."""
        return tensors_sha256(self.net.named_parameters())

    def target_modules(self, targets: str | Sequence[str]) -> list[str]:
        """Full names of the linear layers that `targets` means; see `find_targets`.

        Raises:
            UserError: something in `targets` matches no layer.
        """
        return find_targets(self.net, targets, self.towers)

    def full_parameters(self) -> list[str]:
        """Names of the parameters that full fine-tuning trains: all but the scale and bias of the logits."""
        return [name for name, _ in self.net.named_parameters() if name not in ("logit_scale", "logit_bias")]
