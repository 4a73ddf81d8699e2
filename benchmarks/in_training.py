"""A task in the middle of its training, put together from the parts that a run puts together."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from codyra.engine.config import TrainConfig
from codyra.engine.plan import make_accelerator
from codyra.engine.rng import private_random
from codyra.engine.trainer import batches, train_task
from codyra.families import Family
from codyra.methods import TaskContext, build_method
from codyra.methods.registry import parse_options
from codyra.tuner import short_attention

SEED = 0


class Training:
    """CoDyRA on one task: `put_adapters_on`, `begin`, then any number of `step`s, or `all_steps`.

    Args:
        task: of the kind that the family trains on.
        train: entries of the `train:` section of a config.
        method: entries of its `method:` section.
        total_steps: of the task; from the first on the threshold is above 0, so that ranks are pruned.
    """

    def __init__(
        self,
        family: Family,
        task: Any,
        train: dict[str, Any],
        method: dict[str, Any],
        total_steps: int = 1000,
    ) -> None:
        self.family, self.task = family, task
        self.train = TrainConfig(**train)
        self.method = build_method(parse_options({"name": "codyra", "dense_fraction": 0.0, **method}))
        assert self.method.targets is not None
        self.targets = family.target_modules(self.method.targets)
        self.accelerator = make_accelerator(self.train)
        self.total_steps = total_steps

    def put_adapters_on(self) -> None:
        """Fresh ones and an optimizer of `step` for them, as at the beginning of every task."""
        self.ctx = TaskContext(self.family.net, self.targets, [], 0, self.total_steps, None)
        self.method.before_task(self.ctx)
        train = self.train
        self.ctx.optimizer = torch.optim.AdamW(
            self.method.param_groups(self.ctx, train.lr), train.lr, train.betas, train.eps, weight_decay=0.0
        )
        self.method.optimizer_ready(self.ctx)

    def begin(self) -> None:
        """Make the objective of the task, which is not among what is counted as its end or beginning."""
        self.objective = self.family.start_task(
            self.task, [], text_loss="official", micro_batch_size=self.train.micro_batch_size
        )
        # With a number of epochs they flow into each other, and no batch is smaller than the others.
        self.positions = batches(
            len(self.task.train), self.train.batch_size, private_random(SEED), epochs=10**6
        )
        self._rng = private_random(SEED)

    def step(self) -> None:
        """Batch, forward, backward, optimizer, proximal step."""
        optimizer = self.ctx.optimizer
        assert optimizer is not None
        with self._modes():
            for batch in self.objective.micro_batches(next(self.positions), self._rng, 0, 1):
                with self.accelerator.autocast():
                    loss = self.objective.loss(batch)["loss"]
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def all_steps(self) -> None:
        """`total_steps` of the engine's own loop, which has an optimizer of its own and keeps records."""
        accelerator = make_accelerator(self.train)  # there is one precision per process, the latest
        with self._modes():
            train_task(
                self.method, self.ctx, self.objective, self.positions, self.train, SEED, accelerator, log=[]
            )

    @contextmanager
    def _modes(self) -> Iterator[None]:
        """What holds in a run while it trains."""
        with (
            short_attention(self.family.net),
            self.family.checkpointed_activations(self.train.gradient_checkpointing),
        ):
            yield
