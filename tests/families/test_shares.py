"""Batches of test examples over processes: each exactly once, all results everywhere."""

from collections import Counter
from functools import partial

import pytest

from codyra.families import shares

LENGTHS = [3, 9, 1, 9, 4, 4, 7]


def test_batches_hold_every_position_once_the_longest_first():
    for size in (1, 3, 64):
        batches = shares.batches_by_length(LENGTHS, size)
        flat = [position for batch in batches for position in batch]
        assert sorted(flat) == list(range(len(LENGTHS)))
        assert [LENGTHS[position] for position in flat] == sorted(LENGTHS, reverse=True)
        assert {len(batch) for batch in batches[:-1]} <= {size}


def gather(given, into, own):
    into[:] = given


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_each_process_does_its_share_and_knows_all(monkeypatch, processes):
    batches = shares.batches_by_length(LENGTHS, 2)
    done = Counter()
    parts = []
    monkeypatch.setattr(shares.dist, "is_initialized", lambda: processes > 1)
    monkeypatch.setattr(shares.dist, "get_world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(shares.dist, "get_rank", lambda rank=rank: rank)
        own = shares.share(batches)
        assert all(batch in batches for batch in own)
        done.update(position for batch in own for position in batch)
        parts.append([{position: LENGTHS[position] for position in batch} for batch in own])
    assert done == Counter(range(len(LENGTHS)))
    everything = [{position: length for part in own for position, length in part.items()} for own in parts]
    monkeypatch.setattr(shares.dist, "all_gather_object", partial(gather, everything))
    for own in parts:
        told = []
        assert shares.together(own, len(LENGTHS), told.append) == LENGTHS
        assert sum(told) == len(LENGTHS)
        assert min(told) >= 0


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_of_small_test_sets_no_process_gets_more_than_one_batch_more(monkeypatch, processes):
    monkeypatch.setattr(shares.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(shares.dist, "get_world_size", lambda: processes)
    sets = [["a"], ["b", "c", "d"], [], ["e"], ["f"]]
    dealt = []
    for rank in range(processes):
        monkeypatch.setattr(shares.dist, "get_rank", lambda rank=rank: rank)
        before, own = 0, []
        for batches in sets:
            own += shares.share(batches, before)
            before += len(batches)
        dealt.append(own)
    assert sorted(batch for own in dealt for batch in own) == list("abcdef")
    assert {len(own) for own in dealt} == {6 // processes}


def test_progress_supposes_as_much_elsewhere(monkeypatch):
    monkeypatch.setattr(shares, "num_processes", lambda: 3)
    told = []
    progress = shares.Progress(told.append, 10)
    for _ in range(2):
        progress(2)
    progress.finish()
    assert told == [6, 4]


def test_examples_of_several_positions_are_told_when_they_are_whole():
    told = []
    assert shares.together([{0: "a", 2: "c"}, {1: "b", 3: "d"}], 4, told.append, per_example=2) == list(
        "abcd"
    )
    assert told == [1, 1]
