"""The few-shot sampler: exactly the documented draw, private, without replacement."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codyra.errors import UserError
from codyra.streams.shots import draw_shots, restore_shots

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=6)


def positions_of(sizes: list[int]) -> list[list[int]]:
    """Classes that take turns in the file, the later ones lasting longer, so that no class is one run."""
    order = [name for turn in range(max(sizes)) for name, size in enumerate(sizes) if turn < size]
    return [[place for place, name in enumerate(order) if name == wanted] for wanted in range(len(sizes))]


@given(sizes=SIZES, seed=st.integers(0, 2**40), shots=st.integers(1, 20))
def test_each_class_gives_its_share_once(sizes: list[int], seed: int, shots: int) -> None:
    positions = positions_of(sizes)
    drawn = draw_shots(positions, seed=seed, dataset="pets", shots=shots)
    assert drawn == draw_shots(positions, seed=seed, dataset="pets", shots=shots)
    assert len(set(drawn)) == len(drawn)
    counts = [min(shots, size) for size in sizes]
    starts = np.cumsum([0, *counts])
    for index, of_class in enumerate(positions):
        share = drawn[starts[index] : starts[index + 1]]
        assert len(share) == counts[index]
        assert set(share) <= set(of_class)
    assert starts[-1] == len(drawn)
    assert (
        restore_shots(
            {"seed": seed, "dataset": "pets", "shots": shots, "positions": drawn},
            positions,
            dataset="pets",
            shots=shots,
        )
        == drawn
    )


def test_no_global_generator_is_read_or_moved() -> None:
    random.seed(1)
    first = draw_shots([list(range(50))], seed=8, dataset="pets", shots=5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    random.seed(2)
    random.setstate(before[0])
    assert draw_shots([list(range(50))], seed=8, dataset="pets", shots=5) == first
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_golden_draw() -> None:
    generator = random.Random("8/pets/2")
    expected = generator.sample([0, 2, 4, 6], 2) + generator.sample([1, 3, 5], 2)
    assert draw_shots([[0, 2, 4, 6], [1, 3, 5]], seed=8, dataset="pets", shots=2) == expected == [4, 6, 5, 3]


def test_seed_name_and_number_of_shots_all_matter() -> None:
    def draw(seed: int, dataset: str, shots: int) -> list[int]:
        return draw_shots([list(range(1000))], seed=seed, dataset=dataset, shots=shots)[:4]

    draws = [draw(8, "pets", 4), draw(9, "pets", 4), draw(8, "cars", 4), draw(8, "pets", 5)]
    assert len({tuple(draw) for draw in draws}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "cars"}, "another configuration"),
        ({"shots": 3}, "another configuration"),
        ({"positions": None}, "list of integers"),
        ({"positions": ["0", "1", "2", "3"]}, "list of integers"),
        ({"positions": [0, 1, 2]}, "do not fit the data"),
        ({"positions": [0, 2, 1, 1]}, "do not fit the data"),
        ({"positions": [0, 2, 4, 1]}, "do not fit the data"),
        ({"positions": [0, 2, 1, 3, 99]}, "do not fit the data"),
        ({"positions": [0, 2, 1, -1]}, "do not fit the data"),
    ],
)
def test_stored_shots_must_fit(change: dict[str, object], message: str) -> None:
    stored = {"seed": 8, "dataset": "pets", "shots": 2, "positions": [4, 0, 5, 1]}
    positions = [[0, 2, 4], [1, 3, 5]]
    assert restore_shots(stored, positions, dataset="pets", shots=2) == [4, 0, 5, 1]
    with pytest.raises(UserError, match=message):
        restore_shots(stored | change, positions, dataset="pets", shots=2)
