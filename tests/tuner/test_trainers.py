"""Causal language models in transformers' Trainer and TRL's SFTTrainer: the trajectory of a loop of one's own, exact
resume, and a stream of two tasks."""

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from codyra import CodyraCallback, CodyraConfig, ProximalStep, TaskUpdate, finish_task, param_groups
from codyra.errors import UserError
from codyra.tuner import named_gates
from families.tiny_lms import save_llama

STEPS, BATCH, LR = 10, 4, 5e-3
CONFIG = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
SHARED = {
    "per_device_train_batch_size": BATCH,
    "learning_rate": LR,
    "lr_scheduler_type": "cosine",
    "adam_beta2": 0.9999,
    "max_grad_norm": 0.05,
    "max_steps": STEPS,
    "save_strategy": "no",
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "logging_steps": 1,
    "dataloader_pin_memory": False,
    "train_sampling_strategy": "sequential",
}
QUESTIONS = [
    {"prompt": f"Question: what is {n}{' and' * (n % 3)} 1? Answer:", "completion": f" {n + 1} it is"}
    for n in range(STEPS * BATCH * 2)
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"), chat=True)


@pytest.fixture
def net(llama):
    return AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)


@pytest.fixture
def tokenizer(llama):
    return AutoTokenizer.from_pretrained(llama)


class Recorder(TrainerCallback):
    """What an optimizer step has left behind, step by step."""

    def __init__(self, codyra: CodyraCallback) -> None:
        self.codyra, self.gates, self.kappas, self.losses = codyra, [], [], []

    def on_optimizer_step(self, args, state, control, model, **kwargs):
        self.gates.append(torch.cat([gate.weight.detach() for _, gate in named_gates(model)]))
        self.kappas.append(self.codyra.prox.kappa)

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def encoded(tokenizer) -> list[tuple[list[int], list[int]]]:
    """(ids, labels) of every question: the prompt is not learnt, the answer and one end token are."""
    rows = []
    for record in QUESTIONS:
        prompt = tokenizer(record["prompt"]).input_ids
        answer = tokenizer(record["completion"], add_special_tokens=False).input_ids
        answer += [tokenizer.eos_token_id]
        rows.append((prompt + answer, [-100] * len(prompt) + answer))
    return rows


def padded(rows, pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
    }


def own_loop(net, tokenizer, accumulation: int = 1):
    """Model, ProximalStep, and per step gates, kappa and loss; the loss is the mean over the answer tokens of all
    micro-batches of a step."""
    torch.manual_seed(42)  # the seed of TrainingArguments, which TRL sets before it wraps the network
    model = get_peft_model(net, CodyraConfig(**CONFIG)).train()
    optimizer = torch.optim.AdamW(param_groups(model, lr=LR), betas=(0.9, 0.9999))
    prox = ProximalStep(optimizer, model, total_steps=STEPS, kappa_total=0.8)
    rows, gates, kappas, losses = encoded(tokenizer), [], [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        size = BATCH * accumulation
        batch = padded(rows[step * size : (step + 1) * size], tokenizer.pad_token_id)
        labels = batch.pop("labels")
        logits = model(**batch).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        gates.append(torch.cat([gate.weight.detach() for _, gate in named_gates(model)]))
        kappas.append(prox.kappa)
        losses.append(loss.item())
    return model, prox, gates, kappas, losses


def sft(net, tokenizer, folder, callbacks, data=None, peft_config=None, **options) -> SFTTrainer:
    # What TRL would otherwise choose: bf16 autocast.
    args = SFTConfig(output_dir=str(folder), **(SHARED | {"bf16": False, "max_length": 64} | options))
    return SFTTrainer(
        net,
        args,
        train_dataset=Dataset.from_list(QUESTIONS if data is None else data),
        processing_class=tokenizer,
        peft_config=CodyraConfig(**CONFIG) if peft_config is None else peft_config,
        callbacks=callbacks,
    )


def plain_trainer(net, tokenizer, folder, callbacks, **options) -> Trainer:
    torch.manual_seed(42)
    model = get_peft_model(net, CodyraConfig(**CONFIG))
    optimizer = torch.optim.AdamW(param_groups(model, lr=LR), betas=(0.9, 0.9999))
    return Trainer(
        model,
        TrainingArguments(output_dir=str(folder), **(SHARED | options)),
        data_collator=lambda rows: padded(
            [(row["input_ids"], row["labels"]) for row in rows], tokenizer.pad_token_id
        ),
        train_dataset=[{"input_ids": ids, "labels": labels} for ids, labels in encoded(tokenizer)],
        callbacks=callbacks,
        optimizers=(optimizer, None),
    )


def assert_same(left, right) -> None:
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("make", [plain_trainer, sft], ids=["Trainer", "SFTTrainer"])
def test_trajectory_of_an_own_loop(llama, tokenizer, tmp_path, make, accumulation):
    def fresh():
        return AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)

    model, prox, gates, kappas, losses = own_loop(fresh(), tokenizer, accumulation)
    callback = CodyraCallback(kappa_total=0.8)
    seen = Recorder(callback)
    net = fresh()
    trainer = make(net, tokenizer, tmp_path, [callback, seen], gradient_accumulation_steps=accumulation)
    trainer.train()
    assert_same(seen.gates, gates)
    assert_same(seen.kappas, kappas)
    assert_same(seen.losses, losses)
    assert (callback.prox.steps, callback.prox.calls) == (prox.steps, prox.calls) == (10, 4)
    expected = TaskUpdate.from_model(model, prox)
    update, plain = finish_task(trainer)
    assert update.ranks == expected.ranks
    assert 0 < sum(update.ranks.values()) < 4 * len(update.ranks)
    assert update.survival_auc == expected.survival_auc
    assert plain is net
    assert not plain.training
    for name, (A_KD, B_OK) in expected.factors.items():
        assert_same(update.factors[name][1] @ update.factors[name][0], B_OK @ A_KD)
    ids = torch.tensor([encoded(tokenizer)[0][0]])
    with torch.no_grad():
        assert_same(plain(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_resume_from_a_checkpoint_of_sft(llama, tokenizer, tmp_path):
    def fresh():
        return AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float64)

    saving = {"save_strategy": "steps", "save_steps": 7, "restore_callback_states_from_checkpoint": True}
    whole = sft(fresh(), tokenizer, tmp_path, [CodyraCallback(kappa_total=0.8)], **saving)
    whole.train()
    again = sft(fresh(), tokenizer, tmp_path, [CodyraCallback(kappa_total=0.8)], seed=7, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    update, net = finish_task(again)
    expected, expected_net = finish_task(whole)
    assert (update.ranks, update.survival_auc) == (expected.ranks, expected.survival_auc)
    assert_same(net.state_dict(), expected_net.state_dict())


def test_two_tasks_in_a_row(net, tokenizer, tmp_path):
    base = {name: weight.clone() for name, weight in net.state_dict().items()}
    config, sums = CodyraConfig(**CONFIG), {}
    for data in (QUESTIONS[:40], QUESTIONS[40:]):
        trainer = sft(net, tokenizer, tmp_path, [CodyraCallback()], data=data, peft_config=config)
        trainer.train()
        update, net = finish_task(trainer)
        for name, (A_KD, B_OK) in update.factors.items():
            sums[f"{name}.weight"] = sums.get(f"{name}.weight", 0) + B_OK @ A_KD
    assert type(net).__name__ == "LlamaForCausalLM"
    assert "forward" not in vars(net)  # TRL's would make a copy compute with the weights of the original
    assert set(net.state_dict()) == set(base)
    assert_same(net.state_dict(), {name: weight + sums.get(name, 0) for name, weight in base.items()})


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_packing_changes_the_number_of_steps_and_the_schedule_follows(net, tokenizer, tmp_path, strategy):
    callback = CodyraCallback()
    packing = {"packing": True, "packing_strategy": strategy, "max_steps": -1, "num_train_epochs": 1}
    trainer = sft(net, tokenizer, tmp_path, [callback], **packing)
    trainer.train()
    assert callback.prox.steps == callback.prox.total_steps < len(QUESTIONS) / BATCH
    assert callback.prox.calls > 0


def test_only_the_assistants_words_are_learnt(net, tokenizer, tmp_path):
    data = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": "yes"}]}
        for row in QUESTIONS
    ]
    trainer = sft(net, tokenizer, tmp_path, [CodyraCallback()], data=data, assistant_only_loss=True)
    row = trainer.train_dataset[0]
    learnt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learnt) == "yes</s>"
    trainer.train()
    assert finish_task(trainer)[0].survival_auc is not None


class TestMistakes:
    def test_callback_forgotten(self, net, tokenizer, tmp_path):
        trainer = sft(net, tokenizer, tmp_path, [], max_steps=1)
        trainer.train()
        with pytest.raises(UserError, match=r"no CodyraCallback.*callbacks=\[CodyraCallback\(\)\]"):
            finish_task(trainer)

    def test_not_trained_yet(self, net, tokenizer, tmp_path):
        with pytest.raises(UserError, match=r"call trainer.train\(\)"):
            finish_task(sft(net, tokenizer, tmp_path, [CodyraCallback()]))

    def test_finished_twice(self, net, tokenizer, tmp_path):
        trainer = sft(net, tokenizer, tmp_path, [CodyraCallback()], max_steps=4)
        trainer.train()
        finish_task(trainer)
        with pytest.raises(UserError, match="no LoRA or CoDyRA adapter"):
            finish_task(trainer)

    def test_stock_lora_has_no_gates(self, net, tokenizer, tmp_path):
        config = LoraConfig(**CONFIG)
        with pytest.raises(ValueError, match="no trainable gate"):
            sft(net, tokenizer, tmp_path, [CodyraCallback()], peft_config=config).train()

    def test_decay(self, net, tokenizer, tmp_path):
        with pytest.raises(ValueError, match=r"weight_decay=0.01"):
            sft(net, tokenizer, tmp_path, [CodyraCallback()], weight_decay=0.01).train()

    def test_best_model_at_the_end(self, net, tokenizer, tmp_path):
        saving = {"save_strategy": "steps", "save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}
        model = get_peft_model(net, CodyraConfig(**CONFIG))
        args = TrainingArguments(output_dir=str(tmp_path), **(SHARED | saving), load_best_model_at_end=True)
        trainer = Trainer(model, args, train_dataset=[{}], eval_dataset=[{}], callbacks=[CodyraCallback()])
        with pytest.raises(ValueError, match=r"load_best_model_at_end=True.*set it to False"):
            trainer.train()

    def test_gates_in_half_precision(self, net, tokenizer, tmp_path):
        # As TRL leaves them on a quantised base.
        trainer = sft(net, tokenizer, tmp_path, [CodyraCallback()])
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.bfloat16()
        with pytest.raises(ValueError, match=r"lora_gate.default is torch.bfloat16"):
            trainer.train()

    def test_stopped_in_the_dense_phase(self, net, tokenizer, tmp_path):
        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step == 3

        with pytest.raises(RuntimeError, match="never fired: 3 of total_steps=10"):
            sft(net, tokenizer, tmp_path, [CodyraCallback(), Stop()]).train()
