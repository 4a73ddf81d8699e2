"""The network of a run, with the updates of its tasks merged in."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from codyra.families import Family
from codyra.update import TaskUpdate, add_updates, compose


class MergedNetwork:
    """Puts weights into the network of a family, each time those that the base model and all updates give.

    Where no sum is cast, the weights after a task are those after the task before plus its update, to the last bit.
    Then it is added to what the network holds, so that a task takes no longer, the more there were before.

    Args:
        base: weights of the base model that updates may change, on the CPU.
        read: the update of a task, by its index.
        added: every update is added to those before; False where it replaces them.
    """

    def __init__(
        self, family: Family, base: Mapping[str, Tensor], read: Callable[[int], TaskUpdate], added: bool
    ) -> None:
        self._family = family
        self._base = base
        self._read = read
        held = {name: weight.dtype for name, weight in family.net.named_parameters()}
        # Quantised weights are no parameters of the network.
        self._readable = all(held.get(name) == weight.dtype for name, weight in base.items())
        self._adds_up = added and all(
            weight.dtype in (torch.float32, torch.float64) for weight in base.values()
        )
        self._num_tasks: int | None = None

    def put(self, updates: Iterable[TaskUpdate]) -> dict[str, Tensor]:
        """Re-compute the network from the base model and these updates; its weights, on the CPU."""
        self._num_tasks = None
        return self._write(self._base, updates)

    def put_tasks(self, num_tasks: int) -> dict[str, Tensor]:
        """Make the network the one after the first `num_tasks` tasks; its weights, on the CPU.

        They may be the network's own, or the base's: to be read, and not after the network changes.
        """
        done = self._num_tasks if self._can_go_on(num_tasks) else None
        self._num_tasks = None  # until all is written
        if done is None:
            weights = self._write(self._base, map(self._read, range(num_tasks)))
        else:
            weights = self._go_on(done, num_tasks)
        self._num_tasks = num_tasks
        return weights

    def _go_on(self, done: int, num_tasks: int) -> dict[str, Tensor]:
        """From the network after `done` tasks; beside the base there is one copy of its weights on the CPU."""
        net, more = self._family.net, done < num_tasks
        weights = {name: net.get_parameter(name).detach().to("cpu", copy=more) for name in self._base}
        if more:
            add_updates(net, weights, map(self._read, range(done, num_tasks)))
            self._family.write_weights(weights)
        return weights

    def _can_go_on(self, num_tasks: int) -> bool:
        """Whether the network holds that state, or an earlier one to which the updates can still be added."""
        if not self._readable or self._num_tasks is None:
            return False
        return self._num_tasks == num_tasks or (self._adds_up and self._num_tasks < num_tasks)

    def _write(self, start: Mapping[str, Tensor], updates: Iterable[TaskUpdate]) -> dict[str, Tensor]:
        weights = compose(self._family.net, start, updates)
        self._family.write_weights(weights)
        return weights
