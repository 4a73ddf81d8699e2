"""What a method keeps from one task to the next, beside the updates: named tensors of a declared kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Kind = Literal["weights", "statistics", "features", "samples"]
"""From what says least about single examples to what says most; gradients of a task are statistics of it."""
Stores = Literal["none", "weights", "statistics", "features", "samples"]
"""The most telling kind that a method keeps. `weights` of earlier tasks follow from the updates of a run."""

_POSITIONS, _EXAMPLE_BYTES = "positions", "example_bytes"


def covers(stores: Stores, kind: Kind) -> bool:
    """Does who declares `stores` say that this kind is kept?"""
    kinds = get_args(Kind)
    return stores != "none" and kinds.index(kind) <= kinds.index(stores)


@dataclass
class Memory:
    """Tensors by kind, name of the store, and key: `memory.store("statistics", "fisher")["layers.0.q.lora_A"]`.

    A store is a plain dict of tensors, kept on the CPU between tasks, and everything in it is counted by `num_bytes`:
    what is not in a store does not outlive the task.
    """

    stores: dict[tuple[Kind, str], dict[str, Tensor]] = field(default_factory=dict)

    def store(self, kind: Kind, name: str) -> dict[str, Tensor]:
        """The tensors of one store; an empty one is made where there is none."""
        return self.stores.setdefault((kind, name), {})

    def keep_examples(self, task_index: int, positions: Sequence[int], sizes: Sequence[int]) -> None:
        """Keep training examples of a task: where they are found, and the bytes that each would take here.

        They are read again from the stream, so that a run folder holds nobody's pictures; `num_bytes` counts them
        as if they were copied into it.
        """
        self.store("samples", _POSITIONS)[str(task_index)] = torch.tensor(positions, dtype=torch.int64)
        self.store("samples", _EXAMPLE_BYTES)[str(task_index)] = torch.tensor(sizes, dtype=torch.int64)

    def kept_examples(self) -> list[tuple[int, int]]:
        """(task index, position) of every example that is kept, sorted."""
        kept = self.store("samples", _POSITIONS)
        return sorted((int(task), position) for task in kept for position in kept[task].tolist())

    def drop_empty(self) -> None:
        """Forget stores that hold nothing."""
        self.stores = {key: tensors for key, tensors in self.stores.items() if tensors}

    def num_bytes(self) -> dict[Kind, int]:
        """Bytes of the tensors, and of the examples that they point at, by kind; kinds without any are left out."""
        counted: dict[Kind, int] = {}
        for (kind, name), tensors in self.stores.items():
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            if (kind, name) == ("samples", _EXAMPLE_BYTES):
                size += sum(int(sizes.sum()) for sizes in tensors.values())
            counted[kind] = counted.get(kind, 0) + size
        return {kind: size for kind, size in counted.items() if size}

    def allowed(self, stores: Stores) -> bool:
        """Does a method that declares `stores` say all that is in here?"""
        return all(covers(stores, kind) for kind in self.num_bytes())

    def to_tensors(self) -> dict[str, Tensor]:
        """All of it under flat names, as a file holds it."""
        return {
            f"{kind}/{name}/{key}": tensor.detach().to("cpu").contiguous()
            for (kind, name), tensors in self.stores.items()
            for key, tensor in tensors.items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Memory":
        """What `to_tensors` gave.

        Raises:
            ValueError: a name is none of those that `to_tensors` gives.
        """
        memory = cls()
        for flat, tensor in tensors.items():
            kind, name, key = [*flat.split("/", 2), "", ""][:3]
            if kind not in get_args(Kind) or not name or not key:
                raise ValueError(f"{flat!r} is no part of a method's memory")
            memory.store(cast(Kind, kind), name)[key] = tensor
        return memory
