"""The two ridge regressions of RAIL against the closed forms, and what they keep against what they declare."""

import math

import pytest
import torch

from codyra.families.family import Outputs
from codyra.methods import Memory, TaskContext, build_method, parse_options
from codyra.methods.pieces.ridge import one_hot
from codyra.methods.pieces.ridge_dual import coefficients
from codyra.methods.pieces.ridge_primal import recursion
from codyra.update import DualHead, PrimalHead, expanded, gaussian_kernel

FEATURES, CLASSES = 6, 4
EXACT = {"rtol": 1e-8, "atol": 1e-8}


def unit(num, seed):
    rows = torch.randn(num, FEATURES, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


class Task:
    """Features of which the encoder is no part; classes one after another."""

    def __init__(self, num, seed, classes=CLASSES):
        self.features, self.labels, self.classes = unit(num, seed), torch.arange(num) % classes, classes

    def __len__(self):
        return len(self.labels)

    def plain_batches(self, positions, size):
        for start in range(0, len(positions), size):
            yield list(positions)[start : start + size]

    def outputs(self, batch):
        return Outputs(torch.empty(0), self.labels[batch], self.features[batch], unit(self.classes, 0))


def learn(tasks, batch_size=5, seed="8", **options):
    """What every task left behind: [(update, bytes of the memory file's tensors by kind)]."""
    method, left, memory = build_method(parse_options(options)), [], Memory()
    for index in range(len(tasks)):
        ctx = TaskContext(
            torch.nn.Linear(1, 1), [], [], index, 0, left[-1][0] if left else None, memory=memory,
            batch_size=batch_size, make_data=tasks.__getitem__, seed=seed,
        )  # fmt: skip
        method.collect(ctx)
        left.append((method.after_task(ctx), ctx.memory.num_bytes()))
        memory = Memory.from_tensors({name: t.clone() for name, t in ctx.memory.to_tensors().items()})
    return left


def all_of(tasks):
    """Features of all tasks, and the column of each among the classes of all."""
    starts = [sum(task.classes for task in tasks[:index]) for index in range(len(tasks))]
    columns = torch.cat([start + task.labels for start, task in zip(starts, tasks, strict=True)])
    return torch.cat([task.features for task in tasks]), columns, sum(task.classes for task in tasks)


def ridge(Phi, Y, ridge_lambda):
    """(Phi^T Phi + lambda I)^-1 Phi^T Y."""
    return torch.linalg.solve(
        Phi.T @ Phi + ridge_lambda * torch.eye(Phi.shape[1], dtype=Phi.dtype), Phi.T @ Y
    )


TASKS = [Task(9, 1), Task(14, 2, classes=3), Task(5, 3, classes=2)]


@pytest.mark.parametrize("hidden", [7, 40], ids=["fewer features than examples", "more"])
def test_the_recursion_is_the_regression_of_all_examples(hidden):
    options = {"name": "rail_primal", "hidden": hidden, "ridge_lambda": 0.1}
    for count in (1, 2, 3):
        head = learn(TASKS[:count], 4, **options)[-1][0].head
        features, columns, num_classes = all_of(TASKS[:count])
        Phi = expanded(features, head.H)
        torch.testing.assert_close(head.W, ridge(Phi, one_hot(columns, num_classes), 0.1), **EXACT)


@pytest.mark.parametrize("order", range(3))
def test_the_recursion_knows_no_order_and_no_batches(order):
    generator = torch.Generator().manual_seed(order)
    Phi = torch.relu(torch.randn(23, 11, generator=generator, dtype=torch.float64))
    Y = one_hot(torch.randint(0, 4, (23,), generator=generator), 4)
    R, W = torch.eye(11, dtype=torch.float64) / 0.1, torch.zeros(11, 4, dtype=torch.float64)
    for rows in torch.randperm(23, generator=generator).split(order * 5 + 1):
        R, W = recursion(R, W, Phi[rows], Y[rows])
    expected_R = torch.linalg.inv(Phi.T @ Phi + 0.1 * torch.eye(11, dtype=torch.float64))
    torch.testing.assert_close(R, expected_R, **EXACT)
    torch.testing.assert_close(W, expected_R @ Phi.T @ Y, **EXACT)
    assert torch.equal(R, R.T)


def test_any_split_into_tasks_scores_alike():
    """One task, or its classes in two tasks: the same columns."""
    whole = Task(16, 4, classes=4)
    parts = [Task(0, 0), Task(0, 0)]
    for part, chosen in zip(parts, (whole.labels < 2, whole.labels >= 2), strict=True):
        part.features, part.labels, part.classes = whole.features[chosen], whole.labels[chosen] % 2, 2
    for name in ("rail_primal", "rail_dual"):
        queries = unit(8, 9)
        one, two = (learn(tasks, name=name)[-1][0].head.scores(queries) for tasks in ([whole], parts))
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-7)


def test_the_dual_is_the_kernel_regression_of_all_examples():
    features, columns, num_classes = all_of(TASKS)
    update, _ = learn(TASKS, name="rail_dual", gamma=0.7, ridge_lambda=0.01)[-1]
    queries, kernel = unit(8, 9), torch.cdist(features.double(), features.double()).square().mul(-0.7).exp()
    weights = torch.linalg.solve(
        kernel + 0.01 * torch.eye(28, dtype=torch.float64), one_hot(columns, num_classes)
    )
    expected = torch.cdist(queries.double(), features.double()).square().mul(-0.7).exp() @ weights
    torch.testing.assert_close(update.head.scores(queries), expected, rtol=1e-6, atol=1e-6)
    assert update.head.features.tolist() == features.tolist()


def test_dual_and_primal_agree_on_a_finite_feature_map():
    """phi(f) = K^-1/2 k(F, f) has the kernel k on F, and between F and any f."""
    features, queries = unit(12, 5), unit(7, 6)
    Y = one_hot(torch.arange(12) % 3, 3)
    kernel = gaussian_kernel(features, features, 2.0)
    values, vectors = torch.linalg.eigh(kernel)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    R, W = torch.eye(12, dtype=torch.float64) / 0.3, torch.zeros(12, 3, dtype=torch.float64)
    R, W = recursion(R, W, kernel @ root, Y)
    crossed = gaussian_kernel(queries, features, 2.0)
    torch.testing.assert_close(crossed @ root @ W, crossed @ coefficients(kernel, Y, 0.3), **EXACT)


def test_what_is_kept_is_what_is_declared():
    for update, kept in learn(TASKS, name="rail_primal", hidden=11):
        assert kept == {"statistics": 8 * 11 * 11}
        assert update.head.num_parameters == FEATURES * 11 + 11 * update.head.num_classes
    seen = 0
    for task, (update, kept) in zip(TASKS, learn(TASKS, name="rail_dual"), strict=True):
        seen += len(task)
        assert kept == {"features": seen * (4 * FEATURES + 8)}  # float32 features, int64 classes
        assert update.head.num_parameters == seen * (FEATURES + update.head.num_classes)
    method = build_method(parse_options({"name": "rail_primal", "hidden": 11}))
    assert sum(piece.kept_bytes(None, 2) for piece in method.pieces) == 8 * 11 * 11
    assert method.learns
    assert not method.trains


def test_numbers_are_counted_as_the_paper_counts_them():
    head = PrimalHead(torch.tensor(0.8), torch.empty(512, 15_000), torch.empty(15_000, 1_100))
    assert head.num_parameters == pytest.approx(24.18e6, rel=1e-3)


def test_the_random_layer_is_of_the_seed_and_stays():
    first, second, _ = (update.head for update, _ in learn(TASKS, name="rail_primal", hidden=300))
    assert torch.equal(first.H, second.H)
    assert torch.equal(first.H, learn(TASKS[:1], name="rail_primal", hidden=300)[0][0].head.H)
    assert not torch.equal(first.H, learn(TASKS[:1], seed="9", name="rail_primal", hidden=300)[0][0].head.H)
    assert first.H.abs().max() <= 1 / math.sqrt(FEATURES)
    assert first.H.std() == pytest.approx(1 / math.sqrt(3 * FEATURES), rel=0.05)


# --- the fusion


def primal(fusion=0.8):
    return PrimalHead(torch.tensor(fusion, dtype=torch.float64), torch.zeros(1, 1), torch.zeros(1, 2))


def test_a_zero_shot_winner_that_is_not_learnt_stays():
    shares = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    regressed = torch.tensor([[9.0, 9.0, 9.0]], dtype=torch.float64)
    fused = primal().fused(shares, regressed, torch.tensor([True, True, False]))
    assert torch.equal(fused, shares)


def test_a_learnt_winner_gives_way_to_the_best_learnt_class():
    shares = torch.tensor([[0.5, 0.1, 0.4]], dtype=torch.float64)
    regressed = torch.tensor([[0.1, 0.6, 9.0]], dtype=torch.float64)
    fused = primal().fused(shares, regressed, torch.tensor([True, True, False]))
    torch.testing.assert_close(fused[0, :2], torch.tensor([0.18, 0.5], dtype=torch.float64))
    assert fused[0, 2] == -math.inf
    assert torch.equal(primal(0.0).fused(shares, regressed, torch.ones(3, dtype=torch.bool)), shares)


@pytest.mark.parametrize("kind", ["primal", "dual"])
def test_scores_depend_on_no_other_example(kind):
    f = unit(9, 7)
    scalar = torch.tensor(0.5, dtype=torch.float64)
    head = (
        PrimalHead(scalar, torch.randn(FEATURES, 20), torch.randn(20, 3).double())
        if kind == "primal"
        else DualHead(scalar, scalar, unit(20, 8), torch.randn(20, 3).double())
    )
    together, alone = head.scores(f), torch.cat([head.scores(row[None]) for row in f])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
