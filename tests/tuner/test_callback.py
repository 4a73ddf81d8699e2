"""CodyraCallback in a real Trainer: the same trajectory as a plain loop, exact resume, and errors that help."""

import math
import warnings

import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

from codyra.tuner import CodyraCallback, CodyraConfig, ProximalStep, named_gates, param_groups
from codyra.update import TaskUpdate
from tiny_nets import TwoLayers

STEPS, BATCH, LR = 24, 4, 0.02


class Regressor(nn.Module):
    """TwoLayers with the loss inside, as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TwoLayers()

    def forward(self, x, labels=None):
        y = self.net(x)
        return {"loss": (y - labels).square().mean(), "logits": y}


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(STEPS * BATCH, n, generator=generator) for n in (6, 4))
    return [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]


def gated() -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(Regressor(), CodyraConfig(r=4, target_modules=["first", "second"]))


def optimizer_of(model) -> torch.optim.Optimizer:
    return torch.optim.AdamW(param_groups(model, lr=LR), betas=(0.9, 0.9999))


def trainer(model, data, folder, callback, optimizer=None, **options) -> Trainer:
    options = {"max_steps": STEPS, "save_strategy": "no", **options}
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        learning_rate=LR,
        lr_scheduler_type="cosine",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        **options,
    )
    return Trainer(model, args, train_dataset=data, callbacks=[callback], optimizers=(optimizer, None))


def trained(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" in name}


def plain_loop(model, data, **options) -> ProximalStep:
    optimizer = optimizer_of(model)
    prox = ProximalStep(optimizer, model, total_steps=STEPS, **options)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        batch = data[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        x, labels = (torch.stack([row[key] for row in batch]) for key in ("x", "labels"))
        model(x=x, labels=labels)["loss"].backward()
        optimizer.step()
    return prox


def assert_same(left: dict, right: dict) -> None:
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("own_optimizer", [True, False], ids=["param_groups", "the Trainer's own"])
def test_trajectory_of_a_plain_loop(data, tmp_path, own_optimizer):
    expected = gated()
    plain = plain_loop(expected, data, kappa_total=0.8)
    model = gated()
    callback = CodyraCallback(kappa_total=0.8)
    options = {} if own_optimizer else {"adam_beta2": 0.9999, "weight_decay": 0.0}
    trainer(
        model, data, tmp_path, callback, optimizer_of(model) if own_optimizer else None, **options
    ).train()
    assert_same(trained(model), trained(expected))
    assert (callback.prox.steps, callback.prox.calls) == (plain.steps, plain.calls) == (24, 11)
    ours, theirs = TaskUpdate.from_model(model, callback.prox), TaskUpdate.from_model(expected, plain)
    assert ours.ranks == theirs.ranks
    assert ours.survival_auc == theirs.survival_auc is not None


def test_accumulation_counts_optimizer_steps(data, tmp_path):
    callback = CodyraCallback(dense_fraction=0.0)
    model = gated()
    trainer(model, data, tmp_path, callback, max_steps=6, gradient_accumulation_steps=2).train()
    assert (callback.prox.steps, callback.prox.calls) == (6, 5)


@pytest.mark.parametrize("restore", [False, True])
def test_resume_from_a_checkpoint_is_exact(data, tmp_path, restore):
    whole = gated()
    initial = [gate.weight.detach().clone() for _, gate in named_gates(whole)]
    options = {"save_strategy": "steps", "save_steps": 17, "restore_callback_states_from_checkpoint": restore}
    callback = CodyraCallback(kappa_total=0.8)
    trainer(whole, data, tmp_path, callback, optimizer_of(whole), **options).train()

    torch.manual_seed(99)
    resumed = get_peft_model(Regressor(), CodyraConfig(r=4, target_modules=["first", "second"]))
    resumed.load_state_dict({k: v for k, v in whole.state_dict().items() if "lora_" not in k}, strict=False)
    again = trainer(
        resumed, data, tmp_path, CodyraCallback(kappa_total=0.8), optimizer_of(resumed), **options
    )
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-17"))
    assert_same(trained(resumed), trained(whole))
    (prox,) = [c.prox for c in again.callback_handler.callbacks if isinstance(c, CodyraCallback)]
    assert (prox.steps, prox.calls) == (24, 11)
    for left, right in zip(prox.initial_gates.values(), initial, strict=True):
        assert torch.equal(left, right)


def test_resume_without_the_callbacks_state_is_refused(data, tmp_path):
    model = gated()
    untracked = CodyraCallback()
    untracked.state = lambda: {"args": {}, "attributes": {"saved": None}}
    trainer(model, data, tmp_path, untracked, save_strategy="steps", save_steps=17).train()
    with pytest.raises(ValueError, match="checkpoint at step 17"):
        trainer(gated(), data, tmp_path, CodyraCallback()).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-17")
        )


def test_decay_is_refused_with_the_remedy(data, tmp_path):
    with pytest.raises(ValueError, match=r"weight_decay=0.1.*param_groups.*optimizers="):
        trainer(gated(), data, tmp_path, CodyraCallback(), weight_decay=0.1).train()


def test_never_fired_raises_at_the_end(data, tmp_path):
    class Stop(CodyraCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    with pytest.raises(RuntimeError, match="never fired: 5 of total_steps=24"):
        trainer(gated(), data, tmp_path, Stop()).train()


def test_training_twice_shrinks_once_each(data, tmp_path):
    model = gated()
    callback = CodyraCallback()
    twice = trainer(model, data, tmp_path, callback, optimizer_of(model))
    twice.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        twice.train()
    assert (callback.prox.steps, callback.prox.calls) == (24, 11)


def test_a_wrong_option_is_refused_before_training():
    with pytest.raises(TypeError, match="kapa_total"):
        CodyraCallback(kapa_total=1.0)
