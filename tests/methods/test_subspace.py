"""The memory of InfLoRA and GPM: what is inside, what is outside, and that both bases mean the same projector."""

import pytest
import torch

from codyra.methods.pieces.subspace import Subspace


def moments(seed, dims=12, used=12, decay=0.7):
    """E[x x^T] of random inputs with a falling spectrum in `used` directions."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, used, generator=generator) * decay ** torch.arange(used)
    return (x @ torch.randn(used, dims, generator=generator)).T.cov(correction=0)


def projector(subspace):
    """M M^T, whichever basis is held."""
    identity = torch.eye(len(subspace.basis), dtype=torch.float64)
    return identity - subspace.without(identity)


def dimension(subspace):
    held = subspace.basis.shape[1]
    return len(subspace.basis) - held if subspace.complement else held


def empty(dims=12):
    return Subspace(torch.zeros(dims, 0))


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95, 0.999])
def test_the_fewest_directions_that_reach_the_share(share):
    subspace = empty()
    for task in range(3):
        C = moments(task).double()
        before, subspace = subspace, subspace.extended(C, share)
        outside = torch.trace(C - projector(subspace) @ C) / torch.trace(C)
        assert outside <= 1 - share + 1e-6
        # The past stays inside, and with one direction less the share would not be reached.
        assert (projector(subspace) @ projector(before) - projector(before)).abs().max() < 1e-5
        free = torch.eye(12) - projector(before)
        energy = torch.linalg.eigvalsh(free @ C @ free).flip(0)
        added = dimension(subspace) - dimension(before)
        if added:
            assert energy[added - 1 :].sum() / torch.trace(C) > 1 - share


def test_the_basis_is_orthonormal_and_the_smaller_one_is_held():
    C = moments(0)
    small, large = empty().extended(C, 0.6), empty().extended(C, 0.9999)
    assert not small.complement
    assert large.complement
    for subspace in (small, large, small.extended(moments(1), 0.9999), large.extended(moments(1), 0.99999)):
        held = subspace.basis
        assert held.dtype == torch.float32
        assert held.shape[1] <= 6
        torch.testing.assert_close(held.T @ held, torch.eye(held.shape[1]), rtol=0, atol=1e-5)


def test_a_basis_and_its_complement_are_one_projector():
    span = empty().extended(moments(0), 0.6)
    _, free = span.free_directions(torch.zeros(12, 12))
    other = Subspace(free, complement=True)
    torch.testing.assert_close(projector(span), projector(other), rtol=0, atol=1e-6)
    rows = torch.randn(5, 12)
    torch.testing.assert_close(span.without(rows), other.without(rows), rtol=0, atol=1e-5)
    # Both go on alike, too.
    C = moments(1)
    torch.testing.assert_close(
        projector(span.extended(C, 0.9)), projector(other.extended(C, 0.9)), rtol=0, atol=1e-5
    )


def test_all_of_the_energy_is_all_that_is_above_rounding():
    C = moments(0, used=5, decay=1.0)
    subspace = empty().extended(C, 1.0)
    assert dimension(subspace) == 5
    assert dimension(empty().extended(moments(0, decay=1.0), 1.0)) == 12
    full = empty().extended(moments(0, decay=1.0), 1.0)
    assert full.basis.shape == (12, 0)
    assert not full.without(torch.randn(3, 12)).any()
    assert dimension(full.extended(moments(1), 1.0)) == 12


def test_inputs_that_are_zero_add_nothing():
    assert empty().extended(torch.zeros(12, 12), 0.95).basis.shape == (12, 0)
    assert not empty().extended(torch.zeros(12, 12), 0.95).complement
