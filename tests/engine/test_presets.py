"""The presets against the published settings, written out here once more, and what is built from them."""

import math

import pytest
import torch
from peft import get_peft_model
from torch import nn

from codyra.engine.config import RunConfig, load_config, preset_names
from codyra.engine.progress import Narrator
from codyra.engine.run import run
from codyra.tuner import CodyraConfig, ProximalStep, named_gates, param_groups

METHOD = {
    "name": "codyra",
    "r": 16,
    "targets": "all",
    "gate_init": "normal",
    "dense_fraction": 0.5,
    "text_loss": "official",
}
PAPER = METHOD | {"operator": "soft", "schedule": "linear", "kappa_total": 0.65}
RELEASED = METHOD | {"operator": "official", "schedule": "official", "kappa_max": 0.005, "levels": 50}
TRAIN = {
    "steps": 500,
    "epochs": None,
    "batch_size": 64,
    "lr": 5e-4,
    "betas": (0.9, 0.9999),
    "eps": 1e-8,
    "schedule": "cosine",
    "warmup_steps": 0,
    "precision": "fp32",
    "clip": None,
}
XTAIL = {"benchmark": "xtail", "order": 1, "shots": 16, "label_space": "all", "prompts": "default"}
MTIL = {"benchmark": "mtil", "order": 1, "shots": 5, "label_space": "task", "prompts": "ensemble"}
PRESETS = {
    "xtail-vit-b16": (PAPER, TRAIN, XTAIL | {"ties": "shared"}),
    "xtail-vit-b16-official": (RELEASED, TRAIN, XTAIL | {"prompts": "codyra", "ties": "first"}),
    "mtil-5shot-vit-b16": (PAPER, TRAIN, MTIL),
    "mtil-full-vit-b16": (PAPER, TRAIN | {"steps": 1000}, MTIL | {"shots": None}),
}
TRACE_TRAIN = TRAIN | {
    "steps": None,
    "epochs": {
        **{"C-STANCE": 2, "FOMC": 1, "MeetingBank": 3, "Py150": 2},
        **{"ScienceQA": 1, "NumGLUE-cm": 2, "NumGLUE-ds": 2, "20Minuten": 3},
        "others": 2,
    },
    "batch_size": 32,
    "gradient_checkpointing": True,
    "betas": (0.9, 0.95),
    "schedule": "constant",
    "precision": "bf16",
    "clip": 1.0,
}
TRACE_STREAM = {
    **{
        "benchmark": "trace",
        "variant": 500,
        "order": 1,
        "shots": None,
        "test_examples": None,
        "score": "all",
    },
    **{"truncation": "keep_instruction", "generation": "greedy", "accuracy": "exact", "chat_template": False},
    **{"max_prompt_tokens": 1024, "max_answer_tokens": 512},
}
QKVO = [f"{letter}_proj" for letter in "qkvo"]
TRACE_METHOD = {key: PAPER[key] for key in PAPER if key != "text_loss"} | {"r": 8, "targets": QKVO}
SEQ_LORA = {
    "name": "lora",
    "r": 8,
    "alpha": 32,
    "dropout": 0.1,
    "targets": ["q_proj", "v_proj"],
    "carry": "continue",
}
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"
TRACE = {
    "trace": (LLAMA_1B, TRACE_METHOD, TRACE_TRAIN, TRACE_STREAM),
    "trace-llama-2-7b-chat": ("meta-llama/Llama-2-7b-chat-hf", TRACE_METHOD, TRACE_TRAIN, TRACE_STREAM),
    "trace-gemma-2b-it": ("google/gemma-2b-it", TRACE_METHOD, TRACE_TRAIN, TRACE_STREAM),
    "trace-5000": (LLAMA_1B, TRACE_METHOD, TRACE_TRAIN, TRACE_STREAM | {"variant": 5000}),
    "trace-seqlora": (LLAMA_1B, SEQ_LORA, TRACE_TRAIN | {"lr": 1e-4}, TRACE_STREAM),
}
XTAIL_ORDER = [
    *("aircraft", "caltech101", "dtd", "eurosat", "oxford_flowers"),
    *("food101", "mnist", "oxford_pets", "stanford_cars", "sun397"),
]
TRACE_ORDER = [
    "C-STANCE",
    "FOMC",
    "MeetingBank",
    "Py150",
    "ScienceQA",
    "NumGLUE-cm",
    "NumGLUE-ds",
    "20Minuten",
]
MTIL_ORDER = [
    *("Aircraft", "Caltech101", "CIFAR100", "DTD", "EuroSAT", "Flowers", "Food", "MNIST", "OxfordPet"),
    *("StanfordCars", "SUN397"),
]


def proximal(config: RunConfig, steps: int | None = None, gates: int = 1) -> tuple[nn.Module, ProximalStep]:
    """A network with so many gates, and the proximal step that the config asks for."""
    options = config.method
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(-(-gates // options.r))))
    tuner = CodyraConfig(r=options.r, gate_init=options.gate_init, target_modules=r"\d+")
    model = get_peft_model(net, tuner)
    groups = param_groups(model, config.train.lr)
    optimizer = torch.optim.AdamW(groups, lr=config.train.lr, betas=config.train.betas, eps=config.train.eps)
    return model, ProximalStep(
        optimizer,
        model,
        total_steps=config.train.steps if steps is None else steps,
        schedule=options.schedule,
        kappa_total=options.kappa_total,
        kappa_max=options.kappa_max,
        levels=options.levels,
        dense_fraction=options.dense_fraction,
        operator=options.operator,
    )


def test_the_optimizer_that_is_built_never_decays(coop_tree, tiny_clip, tmp_path, monkeypatch):
    built = []

    class Watched(torch.optim.AdamW):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            built.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    overrides = [
        f"data_dir={coop_tree[0]}",
        f"model.name={tiny_clip}",
        "stream.only=[eurosat]",
        "train.steps=3",
    ]
    run("xtail-vit-b16", tmp_path / "run", overrides=overrides, narrator=Narrator(quiet=True))
    assert built
    for group in (group for optimizer in built for group in optimizer.param_groups):
        assert group["weight_decay"] == 0
        assert (group["betas"], group["eps"]) == ((0.9, 0.9999), 1e-8)
        assert group["initial_lr" if "initial_lr" in group else "lr"] <= 5e-4


def test_these_are_the_presets():
    assert set(preset_names()) == {*PRESETS, *TRACE, "demo"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_published_setting(name):
    config = load_config(name)
    method, train, stream = PRESETS[name]
    assert config.model.name == "openai/clip-vit-base-patch16"
    assert config.model.dtype == "float32"
    assert config.seed == 8
    assert config.guard is None
    for section, expected in ((config.method, method), (config.train, train), (config.stream, stream)):
        assert {key: getattr(section, key) for key in expected} == expected
    order = XTAIL_ORDER if stream["benchmark"] == "xtail" else MTIL_ORDER
    assert [task.name for task in config.stream.tasks] == order
    assert {task.shots for task in config.stream.tasks} == {stream["shots"]}
    assert config.stream.score_split == "test"
    assert config.stream.only is None


@pytest.mark.parametrize("name", TRACE)
def test_a_preset_of_trace_is_the_published_setting_where_there_is_one(name):
    config = load_config(name)
    model, method, train, stream = TRACE[name]
    assert config.model.name == model
    assert config.seed == 1234
    for section, expected in ((config.method, method), (config.train, train), (config.stream, stream)):
        assert {key: getattr(section, key) for key in expected} == expected
    assert [task.name for task in config.stream.tasks] == TRACE_ORDER
    updates = {
        500: [32, 16, 47, 32, 16, 32, 32, 47],
        5000: [313, 157, 469, 313, 157, 313, 313, 469],
    }[config.stream.variant]
    assert [config.num_steps(key, config.stream.variant) for key in TRACE_ORDER] == updates


@pytest.mark.parametrize("name", ["mtil-5shot-vit-b16", "mtil-full-vit-b16"])
def test_mtil_in_order_2(name):
    tasks = [task.name for task in load_config(name, ["stream.order=2"]).stream.tasks]
    assert tasks == [MTIL_ORDER[position] for position in (9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2)]


@pytest.mark.parametrize("name", [*PRESETS, *TRACE])
def test_a_resolved_preset_reads_back_as_itself(name, tmp_path):
    config = load_config(name, ["data_dir=/somewhere"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert load_config(file) == config


@pytest.mark.parametrize("steps", [100, 500, 1000, 2000])
@pytest.mark.parametrize("name", [name for name, (method, *_) in PRESETS.items() if method is PAPER])
def test_the_ramp_shrinks_by_0_65_in_any_number_of_steps(name, steps):
    config = load_config(name, [f"train.steps={steps}"])
    _, prox = proximal(config)
    assert prox.total_steps == steps
    assert prox.total_shrink == pytest.approx(0.65, abs=1e-12)


@pytest.mark.parametrize("updates", [16, 32, 47, 157])
def test_the_ramp_prunes_in_the_few_updates_of_a_task_of_trace(updates):
    _, prox = proximal(load_config("trace"), updates)
    assert prox.total_shrink == pytest.approx(0.65, abs=1e-12)


def test_the_released_staircase_shrinks_by_what_it_does_in_500_steps():
    config = load_config("xtail-vit-b16-official")
    _, prox = proximal(config)
    assert prox.total_shrink == pytest.approx(6369 / 49 * 0.005, abs=1e-12)
    # It is a fixed threshold, so other numbers of steps give other sums.
    for steps, total in ((100, 0.1299), (300, 0.3899), (1000, 1.2999)):
        assert proximal(config, steps)[1].total_shrink == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("name", ["xtail-vit-b16", "xtail-vit-b16-official"])
def test_without_gradient_8_2_to_8_3_of_16_ranks_survive(name):
    torch.manual_seed(0)
    config = load_config(name, ["method.r=4096"])
    model, prox = proximal(config, gates=100_000)
    optimizer = prox._optimizer
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    for _ in range(500):
        optimizer.step()
    gates = torch.cat([gate.weight.detach() for _, gate in named_gates(model)])
    assert prox.calls == 249
    share = (gates != 0).double().mean().item()
    expected = math.erfc((0.6549 if "official" in name else 0.6499) / math.sqrt(2))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / len(gates)))
    assert 8.2 <= 16 * expected <= 8.3
