"""Batches, learning rates and private generators: what a comparison of methods rests on."""

import itertools
import math
import random

import pytest
import torch

from codyra.engine.rng import derive_seed, private_random, seeded_torch
from codyra.engine.trainer import batches, lr_factor


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 4), (8, 4), (3, 5), (1, 1)])
def test_every_epoch_shows_every_example_once(num_examples, batch_size):
    per_epoch = math.ceil(num_examples / batch_size)
    plan = batches(num_examples, batch_size, random.Random(1))
    orders = []
    for _ in range(3):
        epoch = list(itertools.islice(plan, per_epoch))
        assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (per_epoch - 1)
        orders.append([position for batch in epoch for position in batch])
        assert sorted(orders[-1]) == list(range(num_examples))
    if num_examples == 10:
        assert orders[0] != orders[1]


def test_cosine_is_that_of_the_method():
    factors = [lr_factor(step, 500, "cosine", 0) for step in range(500)]
    assert factors[0] == 1.0
    assert factors[250] == pytest.approx(0.5)
    assert all(earlier > later for earlier, later in itertools.pairwise(factors))
    assert 0 < factors[-1] < 1e-4


def test_constant_and_warm_up():
    assert [lr_factor(step, 4, "constant", 0) for step in range(4)] == [1.0] * 4
    assert [lr_factor(step, 9, "constant", 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_generators_of_two_purposes_are_unrelated_and_reproducible():
    assert derive_seed(8, "batches", 0) == derive_seed(8, "batches", 0)
    seeds = {
        derive_seed(seed, purpose, task)
        for seed in (8, 9)
        for purpose in ("batches", "crops")
        for task in (0, 1)
    }
    assert len(seeds) == 8
    assert private_random(8, "crops", 0).random() == private_random(8, "crops", 0).random()


def test_the_global_generator_is_given_back():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded_torch(8, "adapters", 0):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded_torch(8, "adapters", 0):
        assert torch.equal(torch.rand(3), inside)
