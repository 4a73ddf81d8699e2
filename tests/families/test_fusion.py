"""A dual encoder with a head: who decides, among which classes, and what classes of one prompt share."""

import pytest
import torch

from codyra.families.dual_encoder import cosines, unit_length
from codyra.update import PrimalHead
from families.tiny_encoders import task_for


def random_head(num_features, num_classes, fusion=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    H = torch.randn(num_features, 30, generator=generator)
    W = torch.randn(30, num_classes, generator=generator, dtype=torch.float64) / 10
    return PrimalHead(torch.tensor(fusion, dtype=torch.float64), H, W)


def dimension(family):
    return family.class_features([("a",)]).shape[1]


def features_of(family, task):
    inputs = family.test_inputs(task)
    return unit_length(family.encode_inputs(inputs.test(range(len(task.test.labels)))))


def of_classes(tasks):
    return [prompts for task in tasks for prompts in task.scored_prompts]


@pytest.fixture
def tasks(family):
    named = {"first": ("red", "green"), "second": ("cat", "dog", "bird"), "third": ("square", "circle")}
    return [
        task_for(family, name, classes, per_class=6, seed=i)
        for i, (name, classes) in enumerate(named.items())
    ]


@torch.no_grad()
def expected(family, head, tasks, learnt):
    """(pooled, own) counts of every task by the rule in words, one example at a time."""
    prompts_CD = family.class_features(of_classes(tasks))
    num_learnt = sum(len(task.class_names) for task in tasks[:learnt])
    counts, start = [], 0
    for task in tasks:
        right = [0, 0]
        own = range(start, start + len(task.class_names))
        for f, label in zip(features_of(family, task), task.test.labels, strict=True):
            zero_shot = (family.logit_scale() * cosines(f[None], prompts_CD).double())[0]
            scores = head.scores(f[None])[0]
            for space, classes in enumerate((range(len(prompts_CD)), own)):
                shares = dict(zip(classes, zero_shot[list(classes)].softmax(0).tolist(), strict=True))
                best = max(shares, key=shares.get)
                if best < num_learnt:
                    fused = {c: 0.2 * shares[c] + 0.8 * float(scores[c]) for c in shares if c < num_learnt}
                    best = max(fused, key=fused.get)
                right[space] += best == start + label
        counts.append(tuple(right))
        start += len(task.class_names)
    return counts


@pytest.mark.parametrize("learnt", [1, 2, 3])
def test_counts_are_those_of_the_rule(family, tasks, learnt):
    without = family.score(tasks)
    head = random_head(dimension(family), sum(len(task.class_names) for task in tasks[:learnt]))
    family.use_head(head, of_classes(tasks[:learnt]))
    for batch_size in (1, 5, 64):
        found = [(score.correct, score.correct_task) for score in family.score(tasks, batch_size)]
        assert found == expected(family, head, tasks, learnt)
    # Whatever is asked for first, columns follow the prompts.
    assert [score.correct for score in family.score(tasks[::-1])] == [count for count, _ in found[::-1]]
    family.use_head(None)
    assert family.score(tasks) == without


def test_what_zero_shot_gives_to_unseen_classes_stays(family, tasks):
    prompts_CD = family.class_features(of_classes(tasks))
    head = random_head(dimension(family), 2)
    family.use_head(head, of_classes(tasks[:1]))
    fusion = family.fusion({prompts: place for place, prompts in enumerate(of_classes(tasks))})
    stayed = 0
    with torch.no_grad():
        for task in tasks:
            features_ND = features_of(family, task)
            cosines_NC = cosines(features_ND, prompts_CD)
            scores_NC = fusion.scores(
                cosines_NC, fusion.regressed(features_ND), torch.arange(len(prompts_CD))
            )
            winners, decided = cosines_NC.argmax(1), scores_NC.argmax(1)
            assert torch.equal(decided[winners >= 2], winners[winners >= 2])
            assert (decided[winners < 2] < 2).all()
            stayed += int((winners >= 2).sum())
    assert stayed


def test_classes_of_one_prompt_share_the_sum_of_their_columns(family):
    """Two tasks with a class of the same prompt are to everything the one task that both make."""
    first = task_for(family, "first", ("red", "cat"), per_class=4)
    second = task_for(family, "second", ("dog", "red"), per_class=4, seed=1)
    head = random_head(dimension(family), 4)
    family.use_head(head, of_classes([first, second]))
    split = family.score([first, second])
    merged = PrimalHead(
        head.fusion, head.H, torch.stack([head.W[:, 0] + head.W[:, 3], head.W[:, 1], head.W[:, 2]], 1)
    )
    family.use_head(merged, of_classes([first, second])[:3])
    assert family.score([first, second]) == split
    by_first = family.score([first, second], ties="first")
    assert by_first[0] == split[0]
    assert by_first[1].correct <= split[1].correct
    assert by_first[1].correct_task == split[1].correct_task


def test_a_column_belongs_to_each_class(family):
    with pytest.raises(AssertionError, match="a column"):
        family.use_head(random_head(dimension(family), 3), [("a",)])
