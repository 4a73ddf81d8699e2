"""A-GEM: no step against the gradient of earlier tasks, and no step touched that is not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from codyra.errors import UserError
from codyra.methods import Memory, build_method, parse_options
from codyra.methods.gradients import gradients
from codyra.methods.pieces.cone import mean_gradient, project
from methods.taught import load, move, start
from methods.toy_task import learn, toy_context, toy_net


def a_gem(**options):
    return build_method(parse_options({"name": "a_gem", "r": 2, **options}))


def flat(parts):
    return torch.cat([part.double().flatten() for part in parts])


@given(seed=st.integers(0, 10**6), size=st.integers(1, 40), scale=st.sampled_from([1e-8, 1e-3, 1.0]))
def test_the_product_is_never_negative_and_what_was_right_is_untouched(seed, size, scale):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(size, 3), (2,), (1, size)]
    gradient = [torch.randn(shape, generator=generator) * scale for shape in shapes]
    reference = [torch.randn(shape, generator=generator) for shape in shapes]
    g, r = flat(gradient), flat(reference)
    edited = [part.clone() for part in gradient]
    changed = project(edited, reference)
    assert changed == bool(g @ r < 0)
    # With a = g.r / |r|^2 three things are rounded, each by half an eps of itself: a, a r and g - a r. As |a r| <= |g|,
    # that is half an eps of |a r| + |a r| + (|g| + |a r|) at most, so of 4 |g|.
    rounding = 2 * torch.finfo(torch.float32).eps * g.norm()
    assert flat(edited) @ r >= -rounding * r.norm()
    if changed:
        torch.testing.assert_close(flat(edited), g - (g @ r) / (r @ r) * r, rtol=0, atol=float(rounding))
    else:
        assert all(map(torch.equal, edited, gradient))


@pytest.mark.parametrize("odd", [0.0, float("nan")])
def test_a_reference_of_zeros_and_a_gradient_that_is_not_finite_change_nothing(odd):
    gradient, reference = [torch.tensor([1.0, -2.0])], [torch.zeros(2)]
    if odd != odd:
        gradient, reference = [torch.tensor([1.0, odd])], [torch.tensor([-1.0, 0.0])]
    before = gradient[0].clone()
    assert not project(gradient, reference)
    torch.testing.assert_close(gradient[0], before, equal_nan=True)


def test_one_vector_over_all_parameters():
    """Tensor by tensor the first part would be projected and the second not."""
    gradient = [torch.tensor([-1.0]), torch.tensor([3.0])]
    assert not project(gradient, [torch.tensor([1.0]), torch.tensor([1.0])])
    assert project([torch.tensor([-4.0]), torch.tensor([3.0])], [torch.tensor([1.0]), torch.tensor([1.0])])


def second_task(method, net, **options):
    update, first = learn(method, net)
    ctx = toy_context(net, task_index=1, previous=update, memory=first.memory, **options)
    torch.manual_seed(1)
    method.before_task(ctx)
    return ctx


CONTINUED = {"carry": "continue", "grad_memory": "last_grad"}


@pytest.mark.parametrize("options", [{}, {"carry": "continue"}, CONTINUED])
def test_in_a_task_the_gradient_never_points_against_the_reference(options):
    net, method = toy_net(), a_gem(**options)
    ctx = second_task(method, net)
    ctx.optimizer = torch.optim.SGD(method.param_groups(ctx, 0.05))
    method.optimizer_ready(ctx)
    projected = 0
    for number in range(12):
        generator = torch.Generator().manual_seed(number)
        ctx.optimizer.zero_grad()
        net(torch.randn(3, 6, generator=generator)).sum().backward()
        before = {name: weight.grad.clone() for name, weight in ctx.trained().items()}
        if number % 2:
            for weight in ctx.trained().values():
                weight.grad.neg_()
            before = {name: -value for name, value in before.items()}
        reference = ctx.state["cone"]["gradient"] or method.pieces[1]._reference(ctx)
        method.after_backward(ctx)
        g = flat(weight.grad for weight in ctx.trained().values())
        r = flat(reference[name] for name in ctx.trained())
        assert g @ r >= -1e-6
        was_edited = bool(method.train_log(ctx)["projected"])
        projected += was_edited
        assert was_edited == bool(flat(before[name] for name in ctx.trained()) @ r < 0)
        if not was_edited:
            assert all(torch.equal(weight.grad, before[name]) for name, weight in ctx.trained().items())
        ctx.optimizer.step()
    assert 0 < projected < 12


def test_the_first_task_is_lora():
    updates = [
        learn(method, toy_net())[0]
        for method in (a_gem(), build_method(parse_options({"name": "lora", "r": 2})))
    ]
    for module, factors in updates[0].factors.items():
        assert all(map(torch.equal, factors, updates[1].factors[module]))


def test_the_reference_is_the_gradient_of_the_mean_loss_over_the_examples_that_are_kept():
    """All of the memory, in micro-batches of two over tasks of unlike size, is one pass over all of it."""
    net, method = toy_net(), a_gem(memory_examples=5)
    memory, update = Memory(), None
    for task in range(2):
        update, ctx = learn(method, net, task_index=task, previous=update, memory=memory)
        memory = ctx.memory
    assert {task for task, _ in memory.kept_examples()} == {0, 1}
    assert len(memory.kept_examples()) == 10
    ctx = toy_context(net, task_index=2, memory=memory, batch_size=2)
    method.before_task(ctx)
    with torch.no_grad():
        for weight in ctx.trained().values():
            weight.add_(0.1 * torch.randn_like(weight))
    found = method.pieces[1]._reference(ctx)
    loss = 0.0
    for task, position in memory.kept_examples():
        (batch,) = ctx.make_data(task).plain_batches([position], 1)
        loss = loss + ctx.make_data(task).loss(batch)["loss"] / 10
    loss.backward()
    for name, weight in ctx.trained().items():
        torch.testing.assert_close(found[name], weight.grad)


def test_the_reference_batch_is_drawn_anew_at_every_step_and_the_same_in_every_attempt():
    net, method = toy_net(), a_gem(memory_examples=8, reference_examples=2)
    ctx, seen = second_task(method, net), []
    with torch.no_grad():
        for weight in ctx.trained().values():
            weight.add_(0.1 * torch.randn_like(weight))
    for number in (0, 1, 2, 0):
        method.load_state(ctx, {"1.step": number})
        found = method.pieces[1]._reference(ctx)
        seen.append(flat(found.values()))
    assert torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[1]) or not torch.equal(seen[0], seen[2])


def test_state_bytes_are_positions_their_sizes_and_the_examples():
    _, ctx = learn(a_gem(memory_examples=3), toy_net())
    assert ctx.memory.num_bytes() == {"samples": 3 * (8 + 8 + 40)}
    again = Memory.from_tensors(ctx.memory.to_tensors())
    assert again.num_bytes() == ctx.memory.num_bytes()
    assert again.kept_examples() == ctx.memory.kept_examples()
    _, ctx = learn(a_gem(memory_examples=100), toy_net(), task_index=1, memory=again)
    assert ctx.memory.num_bytes() == {"samples": (3 + 8) * (8 + 8 + 40)}
    assert len(set(ctx.memory.kept_examples())) == 11


def test_last_gradients_are_averaged_over_tasks():
    net, method = toy_net(), a_gem(**CONTINUED)
    memory, update, own = Memory(), None, []
    for task in range(3):
        ctx = toy_context(net, task_index=task, previous=update, memory=memory)
        method.before_task(ctx)
        with torch.no_grad():
            for weight in ctx.trained().values():
                weight.add_(0.1 * torch.randn_like(weight))
        own.append(mean_gradient(ctx, [(ctx.data, range(8))]))
        ctx.optimizer = torch.optim.AdamW(method.param_groups(ctx, 0.1))
        update, memory = method.after_task(ctx), ctx.memory
    kept = memory.store("statistics", "gradient")
    for name, value in kept.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in own]).mean(dim=0))
    assert memory.num_bytes() == {"statistics": 4 * sum(value.numel() for value in kept.values())}


def test_last_gradients_need_one_adapter():
    with pytest.raises(UserError, match=r"set method\.carry to continue, or grad_memory to samples"):
        a_gem(grad_memory="last_grad")
    with pytest.raises(ValueError, match="reference_examples belongs to grad_memory: samples"):
        a_gem(**CONTINUED, reference_examples=4)
    assert parse_options({"name": "a_gem"}).reference_examples == 64
    assert parse_options({"name": "a_gem", **CONTINUED}).reference_examples is None


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_reference_is_the_gradient_of_the_loss_of_all_examples(kind, tmp_path):
    """However many are computed together, and however long the answers are."""
    _, ctx = start(load(kind, tmp_path), {"name": "a_gem", "r": 2})
    move(ctx)
    positions = list(range(len(ctx.data)))
    ctx.batch_size = 100
    (batch,) = ctx.data.plain_batches(positions, 100)
    whole = gradients(ctx, ctx.data.loss(batch)["loss"])
    for ctx.batch_size, parts in ((100, [positions]), (1, [positions]), (2, [positions[:3], positions[3:]])):
        found = mean_gradient(ctx, [(ctx.data, part) for part in parts])
        expected = whole
        if kind == "bert" and ctx.batch_size < 100:
            # A mean over all examples, and the sum of a text loss that compares those computed together.
            loss = 0.0
            for part in parts:
                for together in ctx.data.plain_batches(part, ctx.batch_size):
                    seen = ctx.data.outputs(together)
                    loss += F.cross_entropy(seen.logits, seen.targets, reduction="sum") / len(positions)
                    share = seen.logits.log_softmax(dim=0).gather(1, seen.targets[:, None])
                    loss -= share.sum() / ctx.data._num_rows
            expected = gradients(ctx, loss)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
