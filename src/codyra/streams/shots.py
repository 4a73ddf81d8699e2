"""Few-shot sampling by a private generator, and the stored choice that wins over it."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from codyra.errors import UserError


def draw_shots(positions: Sequence[Sequence[int]], *, seed: int, dataset: str, shots: int) -> list[int]:
    """Draw up to `shots` training examples of each class, without replacement.

    The generator is keyed by its purpose: it neither reads nor moves a global random state, and what one
    task draws does not depend on the tasks before it.

    Args:
        positions: of each class, in label order: the positions of its examples, in file order.

    Returns:
        Positions class after class, each class in the order drawn.
    """
    generator = random.Random(f"{seed}/{dataset}/{shots}")
    return [
        position
        for of_class in positions
        for position in generator.sample(of_class, min(shots, len(of_class)))
    ]


def choose_shots(
    positions: Sequence[Sequence[int]],
    *,
    seed: int,
    dataset: str,
    shots: int | None,
    stored: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], list[int] | None]:
    """Content of shots.json, and the positions to train on; None for all of them.

    Args:
        stored: content of shots.json of a run that goes on; it wins over the generator.

    Raises:
        UserError: the stored choice does not fit.
    """
    if stored is not None:
        return dict(stored), restore_shots(stored, positions, dataset=dataset, shots=shots)
    chosen = None
    if shots is not None:
        chosen = draw_shots(positions, seed=seed, dataset=dataset, shots=shots)
    return {"seed": seed, "dataset": dataset, "shots": shots, "positions": chosen}, chosen


def draw_test(positions: Sequence[int], *, seed: int, dataset: str, count: int | None) -> list[int]:
    """At most `count` of these test examples, in file order; None: all of them.

    The generator is keyed by its purpose, as that of `draw_shots`.
    """
    if count is None or count >= len(positions):
        return list(positions)
    generator = random.Random(f"{seed}/{dataset}/test/{count}")
    return sorted(generator.sample(positions, count))


def restore_shots(
    stored: Mapping[str, Any], positions: Sequence[Sequence[int]], *, dataset: str, shots: int | None
) -> list[int] | None:
    """The stored choice, once it is known to fit the data.

    Raises:
        UserError: the choice is of another task or number of shots, or the data have changed.
    """
    if stored.get("dataset") != dataset or stored.get("shots") != shots:
        raise UserError("its stored shots belong to another configuration; start a new run")
    if shots is None:
        return None
    chosen = stored.get("positions")
    if not isinstance(chosen, list) or not all(isinstance(position, int) for position in chosen):
        raise UserError("its stored shots are damaged, positions must be a list of integers; start a new run")
    wanted = [min(shots, len(of_class)) for of_class in positions]
    found = [len(set(of_class).intersection(chosen)) for of_class in positions]
    if found != wanted or len(chosen) != sum(wanted):
        raise UserError(
            "its stored shots do not fit the data, which have changed; restore the data or start a new run"
        )
    return chosen
