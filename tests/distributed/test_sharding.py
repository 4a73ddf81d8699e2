"""FSDP2 and DeepSpeed ZeRO-2, as the configs in examples/accelerate ask for them, compute what one process does."""

import pytest

from distributed.answer_runs import WORDS, assert_same_run
from families.tiny_lms import save_gemma, save_gpt2

FSDP2, ZERO2 = "fsdp2.yaml", "deepspeed_zero2.yaml"
RELEASED = {"schedule": "official", "operator": "official", "levels": 5, "kappa_max": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options", "tolerance"),
    [
        # Three ranks on two processes: shards of unequal size.
        (FSDP2, {"method": {"r": 3}, "train": {"clip": 0.5, "gradient_checkpointing": True}}, 1e-6),
        (FSDP2, {"save": save_gemma, "method": RELEASED, "train": {"micro_batch_size": 2}}, 1e-6),
        (FSDP2, {"method": {"name": "full"}, "train": {"micro_batch_size": None, "lr": 1e-3}}, 1e-6),
        (FSDP2, {"save": save_gpt2, "choices": WORDS[:3], "train": {"batch_size": 1}}, 1e-6),
        # DeepSpeed steps on copies in float32.
        (ZERO2, {"method": {"r": 3}, "train": {"clip": 0.5, "gradient_checkpointing": True}}, 1e-3),
        (ZERO2, {"method": {"name": "full"}, "train": {"micro_batch_size": None, "lr": 1e-3}}, 1e-3),
        (ZERO2, {"save": save_gpt2, "method": {"name": "lora", "r": 4}, "train": {"batch_size": 1}}, 1e-3),
    ],
)
def test_two_sharded_processes_are_one_process(stream, command, launch, tmp_path, config, options, tolerance):
    if config == ZERO2:
        pytest.importorskip("deepspeed")
    path = stream(dtype="float64" if config == FSDP2 else "float32", **options)
    code, _, err = command("run", path, "--out", tmp_path / "one")
    assert code == 0, err
    assert launch("run", path, "--out", tmp_path / "two", config=config).count("report: ") == 1
    assert_same_run(tmp_path / "one", tmp_path / "two", tolerance)
