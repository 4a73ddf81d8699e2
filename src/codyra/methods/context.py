"""What a method may see and keep while one task is learnt."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from codyra.methods.memory import Memory
from codyra.update import TaskUpdate

Batch = dict[str, Any]
"""Inputs of the network and what the loss needs, made by a `TaskData`."""


Comparisons = Sequence[tuple[Tensor, float]]
"""Logits (rows, choices), each with what makes a sum over its rows a share of the loss; see `Outputs`."""


class Outputs(Protocol):
    """What the network says of a batch, with gradients.

    `comparisons` are logits (rows, choices) to be compared under a softmax over the choices, each with the factor that
    turns a sum over its rows into its share of the loss: for classes the examples among the prompts and the prompts
    among the examples, for answers every token of the true answer among the vocabulary.
    """

    @property
    def comparisons(self) -> "Comparisons": ...

    @property
    def features(self) -> Tensor | None:
        """Unit-length features (N, D) of the examples of all processes; None for answers."""
        ...


class Encoded(Protocol):
    """Texts or images that belong to no class, as the network sees them at the moment."""

    def __len__(self) -> int: ...

    def features(self, positions: Sequence[int]) -> Tensor:
        """Unit-length features (K, D) of those at these positions, with gradients."""
        ...


class Reference(Protocol):
    """What the user supplied to a method that declares `needs_reference_data`."""

    @property
    def texts(self) -> Encoded: ...

    @property
    def images(self) -> Encoded: ...


class TaskData(Protocol):
    """The training examples of a task and what the network makes of them; the objective of a family is one."""

    def __len__(self) -> int: ...

    def plain_batches(self, positions: Sequence[int], size: int) -> Iterator[Batch]:
        """These examples as they are scored, `size` together: no crops, the same on every process."""
        ...

    def outputs(self, batch: Batch, prompts: Tensor | None = None) -> Outputs:
        """Of a batch; among texts with these features (C, D) where they are given, else among the classes."""
        ...

    def prompt_features(self) -> Tensor | None:
        """Unit-length features (C, D) of the classes as the network sees them now; None for answers."""
        ...

    def loss(self, batch: Batch, outputs: Any = None, num_terms: int | None = None) -> dict[str, Tensor]:
        """`loss` and its parts; computes the outputs when they are not given. `num_terms`: what its mean is taken over
        where the batch is a part of more."""
        ...

    def log_likelihoods(self, batch: Batch) -> Tensor:
        """log p(true class or answer | input) of every example (N,), with gradients."""
        ...

    def num_terms(self, positions: Sequence[int]) -> int:
        """What the loss of these examples is a mean over: their number, or the tokens of their answers."""
        ...

    def visit_inputs(
        self,
        modules: Sequence[str],
        positions: Sequence[int],
        size: int,
        visit: Callable[[str, Tensor], None],
    ) -> dict[str, str]:
        """Call `visit` with what these linears of the network read in a pass over these examples, `size` together, and
        over the prompts of the classes, once: the name of the linear and (positions, features), without gradients and
        padding, held by nobody else.

        A tensor that several linears read is given once, under the name of the first of them.

        Returns:
            {linear: the first that reads the same tensor}; linears that did not run are left out.
        """
        ...

    def example_bytes(self, positions: Sequence[int]) -> int:
        """Bytes that keeping these examples takes: UTF-8 for text, uint8 RGB at the model's size for images,
        int32 token ids for prompts with answers."""
        ...


class ComparedData(TaskData, Protocol):
    """The training examples of a dual encoder, which can also be compared with other texts."""

    def compared(self, features: Tensor, prompts: Tensor) -> Comparisons:
        """Unit-length features of examples (N, D) and of texts (C, D), compared both ways."""
        ...

    def random_texts(self, count: int, length: int, rng: random.Random) -> Encoded:
        """Texts of `length` ordinary tokens each, drawn at random; for models of images."""
        ...


@dataclass
class TaskContext:
    """Everything a method may see and keep while one task is learnt."""

    net: nn.Module
    """The plain network; adapters swap linears inside it in place and give them back at task end."""
    target_modules: list[str]
    """Dotted names of the linears that `targets` selects; empty for methods without that option."""
    full_parameters: list[str]
    """Names of what full fine-tuning trains: all parameters but the logit scale."""
    task_index: int
    """From 0."""
    total_steps: int
    """Optimizer steps of this task."""
    previous: TaskUpdate | None
    """What the task before left behind."""
    base: Mapping[str, Tensor] = field(default_factory=dict)
    """Pre-trained weights that an update may change, on the CPU."""
    memory: Memory = field(default_factory=Memory)
    """What the method kept of the tasks before; what it holds after `end_training` is kept for the next one."""
    num_tasks: int | None = None
    """Tasks of the whole stream, known to methods that declare `needs_number_of_tasks` only."""
    batch_size: int = 1
    """Examples that may be computed together in a pass over data."""
    make_data: Callable[[int], TaskData] | None = None
    """Behind `data` and `data_of`; None while options are only checked."""
    seed: str = ""
    """What draws are made from; see `rng`."""
    reference: Reference | None = None
    """Texts and images that the user supplied, for methods that declare `needs_reference_data` only."""
    step: int = 0
    """Optimizer steps taken before the one at hand."""
    model: nn.Module = field(init=False)
    """The network with adapters, once `before_task` has run; the plain one until then."""
    optimizer: torch.optim.Optimizer = field(init=False)
    """Set before `optimizer_ready`."""
    state: dict[str, Any] = field(default_factory=dict)
    """Private to the pieces while the task is learnt: the proximal step, weights before the task, ..."""

    def __post_init__(self) -> None:
        self.model = self.net
        self._data: TaskData | None = None

    @property
    def data(self) -> Any:
        """The examples of this task, a `TaskData`; of a dual encoder a `ComparedData`."""
        if self._data is None:
            self._data = self.data_of(self.task_index)
        return self._data

    def data_of(self, task_index: int) -> TaskData:
        """The examples of this task, or of one of which the memory keeps examples, made anew at every call.

        Raises:
            RuntimeError: it is another task.
        """
        assert self.make_data is not None, "no data while options are checked"
        if task_index not in (self.task_index, *(task for task, _ in self.memory.kept_examples())):
            raise RuntimeError(
                f"no example of task {task_index} is kept; a method sees its own task and its memory"
            )
        return self.make_data(task_index)

    def rng(self, *purpose: str | int) -> random.Random:
        """A generator of its own for one purpose in this task; the same in every attempt and on every process."""
        return random.Random("/".join(map(str, (self.seed, self.task_index, *purpose))))

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name; adapters among them."""
        return {name: weight for name, weight in self.net.named_parameters() if weight.requires_grad}

    def num_trained(self) -> int:
        """How many numbers these parameters have."""
        return sum(weight.numel() for weight in self.trained().values())
