"""The loss of answers is torch's cross-entropy, whatever is computed at once."""

import pytest
import torch
from torch.nn import functional as F

from codyra.families.answers import NO_TARGET, POSITIONS_AT_ONCE, AnswerObjective

VOCABULARY = 11


def batch(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of 2 rows, and targets of which the second row has three."""
    draws = torch.Generator().manual_seed(0)
    longest = 2 * POSITIONS_AT_ONCE + 5
    logits = torch.randn(2, longest, VOCABULARY, generator=draws, dtype=torch.float64).mul(3).to(dtype)
    targets = torch.randint(VOCABULARY, (2, longest), generator=draws)
    targets[1, :-3] = NO_TARGET
    return logits.requires_grad_(), targets


def loss_of(logits: torch.Tensor, targets: torch.Tensor, scale: float) -> torch.Tensor:
    objective = AnswerObjective(torch.nn.Module(), lambda batch: logits, [], lambda rows: {}, None)
    return objective.loss({"targets": targets, "scale": scale})["loss"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_those_of_torch(dtype):
    logits, targets = batch(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    known = targets != NO_TARGET
    expected = F.cross_entropy(logits[known].to(wide), targets[known], reduction="sum") * 0.25
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = loss_of(logits, targets, 0.25)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.dtype == wide
    assert gradient.dtype == dtype
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    assert not gradient[~known].any()


def test_a_part_that_does_not_count_has_neither_loss_nor_gradient():
    logits, targets = batch(torch.float32)
    loss = loss_of(logits, targets, 0.0)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_no_target_anywhere_is_no_loss():
    logits, targets = batch(torch.float32)
    loss = loss_of(logits, torch.full_like(targets, NO_TARGET), 1.0)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
