"""Peak memory of a training step of CoDyRA on a language model: predicted, and measured on the CPU.

    python benchmarks/lm_memory.py --predict [--model NAME ...] [--set KEY=VALUE ...] [--out FILE.json]
    python benchmarks/lm_memory.py --measure [--model NAME ...] [--out FILE.json]

`--predict` takes codyra's own step (adapters, objective, autocast, recomputation, optimizer) at full size on tensors
that have no memory and counts the bytes of those that exist at once. It needs neither weights nor a GPU, follows the
code, and with tensors that have memory counts the same to the byte. What is no tensor is not in it: workspaces of
kernels, the CUDA context (about half a GB), gaps of the allocator. A model is a name of MODELS or a directory with a
config.json; `--set` changes a field of every row (see Case).

`--measure` takes the step with random weights, one process per row: the peak resident set of the process (ru_maxrss)
less its resident set just before the model is built, after a step of a tiny model has loaded all libraries. glibc is
told to hand freed tensors back (MALLOC_MMAP_THRESHOLD_=65536), which it does not do of itself.

Both take the step that comes after another one, so that gradients and moments are there while activations peak.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from codyra.engine.config import TrainConfig
from codyra.engine.plan import make_accelerator
from codyra.engine.rng import private_random
from codyra.families import AnswerSettings
from codyra.families.answers import POSITIONS_AT_ONCE
from codyra.families.causal_lm import CausalLM
from codyra.families.quantized import BLOCK, Quantization, quantize_linears
from codyra.methods import TaskContext, build_method
from codyra.methods.registry import parse_options
from codyra.streams import AnswerSplit, InstructionTask

GIB = 2**30
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

MODELS: dict[str, PreTrainedConfig] = {
    # config.json of meta-llama/Llama-2-7b-hf
    "Llama-2-7B": LlamaConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    ),
    # config.json of google/gemma-2b
    "gemma-2b": GemmaConfig(
        vocab_size=256_000,
        hidden_size=2048,
        intermediate_size=16_384,
        num_hidden_layers=18,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=8192,
    ),
    # config.json of meta-llama/Llama-3.2-1B
    "Llama-3.2-1B": LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131_072,
        tie_word_embeddings=True,
    ),
    # Ours, to check the prediction against small processes.
    "300M": LlamaConfig(
        vocab_size=32_000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=24,
        num_attention_heads=16,
        tie_word_embeddings=True,
    ),
    "100M": LlamaConfig(
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        tie_word_embeddings=True,
    ),
    "tiny": LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
}


FORMATS = {
    "float32": {"dtype": "float32"},
    "float32, bf16 autocast": {"dtype": "float32", "precision": "bf16"},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, bf16 autocast": {"dtype": "bfloat16", "precision": "bf16"},
    "4-bit, bf16 autocast": {"dtype": "bfloat16", "quantize": "4bit", "precision": "bf16"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "r=8": {},
    "r=16": {"r": 16},
    "r=16, all": {"r": 16, "targets": "all"},
    "r=8, 4 at once": {"micro_batch": 4},
    "r=8, kept": {"checkpointing": False},
    "r=16, all, kept": {"r": 16, "targets": "all", "checkpointing": False},
}
"""Columns of the predicted table; targets q, k, v, o, one example at once and recomputed activations unless said."""

PREDICTED = ("Llama-2-7B", "gemma-2b", "Llama-3.2-1B")
MEASURED = ("100M", "300M", "Llama-3.2-1B")


@dataclass(frozen=True)
class Case:
    """One training setting, in the words of a run's config.

    `prompt` and `answer`: tokens of every example, the answer's end included.
    """

    model: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantize: Quantization | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    r: int = 8
    targets: str | tuple[str, ...] = ATTENTION
    checkpointing: bool = True
    micro_batch: int = 1
    prompt: int = 512
    answer: int = 512

    @property
    def config(self) -> PreTrainedConfig:
        """The sizes of the model.

        Raises:
            SystemExit: the model is neither known nor a directory.
        """
        if self.model in MODELS:
            return MODELS[self.model]
        if not (Path(self.model) / "config.json").is_file():
            raise SystemExit(
                f"model {self.model!r}: give one of {', '.join(MODELS)}, or a directory with a config.json"
            )
        return AutoConfig.from_pretrained(self.model)


@dataclass(frozen=True)
class Parts:
    """Bytes at the peak. `rest`: activations, their gradients, logits, cast weights.

    `base_copy`: the weights that updates may change, kept beside the network on the CPU; no part of `peak`.
    """

    weights: int
    adapters: int
    gradients: int
    moments: int
    rest: int
    base_copy: int

    @property
    def peak(self) -> int:
        return self.weights + self.adapters + self.gradients + self.moments + self.rest


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is open, storage by storage, for as long as they exist.

    Attributes:
        now: bytes that exist.
        peak: the most that existed at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that may have been made elsewhere."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage not in self._known:
                self._known[storage] = True
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, num_bytes: int) -> None:
        self.now -= num_bytes


# --- the step, on tensors with or without memory --------------------------------------------------------------


def train(case: Case, live: LiveTensors | None = None, fake: bool = False) -> Parts:
    """Build the model and take a step in the middle of training: gradients of an earlier micro-batch are there, and
    moments.

    Args:
        live: counts; without it `rest` is 0.
        fake: tensors of weights, adapters and activations have no memory. Token ids have, so that masks and positions
            are read, as they are in training.
    """
    counted = live or nullcontext()
    fakes = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    options = TrainConfig(
        precision=case.precision, micro_batch_size=case.micro_batch, gradient_checkpointing=case.checkpointing
    )
    accelerator = make_accelerator(options)
    with fakes or nullcontext(), counted:
        net: Any = AutoModelForCausalLM.from_config(case.config, dtype=getattr(torch, case.dtype))
    family = CausalLM(net.eval().requires_grad_(False), word_tokenizer(), AnswerSettings(), {})
    # With so large a shrink nothing asks for the values of the gates.
    method = build_method(
        parse_options({"name": "codyra", "r": case.r, "targets": case.targets, "kappa_total": 1.0})
    )
    assert method.targets is not None
    ctx = TaskContext(net, family.target_modules(method.targets), [], 0, 10, None)
    touched = method.adapter.touched(ctx.target_modules, [])
    with counted:
        # Copies are what the engine keeps; of quantised weights it keeps the weights themselves.
        base = [net.get_parameter(name).detach().to("cpu", copy=True) for name in touched]
        if case.quantize:
            quantize_linears(net, family.target_modules("all"), case.quantize, "cpu")
    weights = num_bytes(net.parameters())
    method.before_task(ctx)
    if fakes is not None:
        forget_values(ctx.model, fakes)
    adapters = num_bytes(weight for weight in ctx.model.parameters() if weight.requires_grad)
    if live is not None:
        live.add(ctx.model.parameters())
        live.peak = live.now
    groups = method.param_groups(ctx, options.lr)
    ctx.optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=options.betas, eps=options.eps)
    with counted, family.checkpointed_activations(case.checkpointing):
        method.optimizer_ready(ctx)
        for weight in (weight for group in groups for weight in group["params"]):
            weight.grad = torch.zeros_like(weight)
        ctx.optimizer.step()
        task = words_task(case)
        objective = family.start_task(task, [], text_loss="official", micro_batch_size=case.micro_batch)
        (batch,) = objective.micro_batches(range(case.micro_batch), private_random(0), 0, 1)
        with accelerator.autocast():
            loss = objective.loss(batch)["loss"]
        loss.backward()
        ctx.optimizer.step()
    base_copy = num_bytes(base)
    rest = 0 if live is None else live.peak - weights - base_copy - 4 * adapters
    return Parts(weights, adapters, adapters, 2 * adapters, rest, base_copy)


def num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def forget_values(model: nn.Module, fakes: FakeTensorMode) -> None:
    """Exchange the real parameters, those of the adapters, for fake ones: peft cannot make them so."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if not isinstance(weight, FakeTensor):
                module.register_parameter(name, nn.Parameter(fakes.from_tensor(weight), weight.requires_grad))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    words = Tokenizer(models.WordLevel({"</s>": 0, "word": 1}, unk_token="word"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", pad_token="</s>")


def words_task(case: Case) -> InstructionTask:
    """The examples of one micro-batch, all of the length that `case` says."""
    count = case.micro_batch
    split = AnswerSplit(("word " * case.prompt,) * count, (" word" * (case.answer - 1),) * count, "")
    return InstructionTask(
        name="words",
        prompt="{}",
        train=split,
        test=split,
        shots={},
        source="",
        fingerprint="",
        marks=(),
        notes=(),
        metric="accuracy",
        choices=(),
        max_new_tokens=case.answer,
        frame=("", ""),
    )


def predict(case: Case) -> Parts:
    return train(case, LiveTensors(), fake=True)


# --- the same from sizes alone -----------------------------------------------------------------------------------


def linear_sizes(config: Any) -> dict[str, tuple[int, int]]:
    """(in, out) of the linears of a block of Llama or Gemma."""
    D, F = config.hidden_size, config.intermediate_size
    head_dim = config.head_dim or D // config.num_attention_heads
    Q, K = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return dict(zip(names, [(D, Q), (D, K), (D, K), (Q, D), (D, F), (D, F), (F, D)], strict=True))


def closed_form(case: Case) -> Parts:
    """The formulas of docs/memory.md. All but `rest` are exact."""
    config: Any = case.config
    D, V, layers = config.hidden_size, config.vocab_size, config.num_hidden_layers
    linears = linear_sizes(config)
    F, Q, K = linears["gate_proj"][1], linears["q_proj"][1], linears["k_proj"][1]
    adapted = [name for name in linears if case.targets == "all" or name in case.targets]
    stored = 4 if case.dtype == "float32" else 2
    autocast = case.precision == "bf16"
    computed = 2 if autocast else stored
    cast = 2 if autocast and stored == 4 else 0  # bytes of every weight that is used
    of_adapter = 2 if autocast else 4

    num_linear = sum(inside * outside for inside, outside in linears.values())
    per_linear = {None: stored, "8bit": 1, "4bit": 0.5 + 4 / BLOCK}[case.quantize]
    num_other = V * D * (1 if config.tie_word_embeddings else 2) + (2 * layers + 1) * D
    weights = round(per_linear * layers * num_linear) + stored * num_other
    if case.quantize == "8bit":
        weights += 4 * layers * sum(outside for _, outside in linears.values())
    adapters = 4 * layers * case.r * sum(sum(linears[name]) + 1 for name in adapted)
    base_copy = stored * layers * sum(linears[name][0] * linears[name][1] for name in adapted)

    # What a block keeps of a token: inputs of its two norms; q, k, v, attention's result; three widths of the MLP;
    # inputs of adapters, which linears that read the same share unless each casts its own; and these times A.
    if case.quantize:
        inputs = of_adapter * sum(linears[name][0] for name in adapted)
    elif cast:  # attention's result is in 16 bit already
        inputs = cast * sum(linears[name][0] for name in adapted if name != "o_proj")
    else:
        readers = ((D, "qkv"), (D, "gu"), (F, "d"))
        inputs = computed * sum(
            width for width, letters in readers if any(name[0] in letters for name in adapted)
        )
    low = of_adapter * case.r * len(adapted) * (2 if case.quantize else 1)  # there also behind the gate
    kept = 2 * 4 * D + computed * (2 * Q + 2 * K + 3 * F) + inputs + low
    tokens = case.micro_batch * (case.prompt + case.answer - 1)
    casts = cast * num_linear + (adapters // (2 * layers) if autocast else 0)
    block = tokens * kept + casts
    # Beside what is kept, in the backward pass of a block: three gradients of the width of the MLP; or one and, where
    # an adapter is wider than the rest, two sums in float32; or a weight that is widened.
    backward = 3 * computed * tokens * F
    if case.quantize:
        backward = max(backward, computed * D * F)
    elif "down_proj" in adapted and of_adapter > computed:
        backward = (computed + 2 * 4) * tokens * F
    # Logits, their gradient, a few positions of both in float32; the input of the last norm.
    head = V * (2 * computed * case.micro_batch * case.answer + 3 * 4 * POSITIONS_AT_ONCE + cast * D)
    head += 4 * tokens * D
    if case.checkpointing:
        rest = tokens * layers * stored * D + max(head, block + backward)
    else:
        rest = layers * block + max(head, backward)
    return Parts(weights, adapters, adapters, 2 * adapters, rest, base_copy)


# --- on this machine ---------------------------------------------------------------------------------------------


def measure(case: Case) -> tuple[int, float]:
    """(bytes, seconds) of a process that takes the step of `case`; the base copy is among the bytes."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--one", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    figures = json.loads(done.stdout)
    return figures["bytes"], figures["seconds"]


def measure_here(case: Case) -> None:
    """What `measure` starts; prints one line of JSON."""
    train(dataclasses.replace(case, model="tiny", prompt=16, answer=16))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    started = time.monotonic()
    train(case)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes": peak - before, "seconds": time.monotonic() - started}))


# --- tables ------------------------------------------------------------------------------------------------------


def predicted_table(names: Iterable[str], changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Prints a line per model and format; returns a row per case."""
    rows = []
    print(
        f"| model | weights | on the CPU | {' | '.join(SETTINGS)} |\n|---|---|{'---|' * (len(SETTINGS) + 1)}"
    )
    for name in names:
        for format_, options in FORMATS.items():
            line = []
            for setting in SETTINGS.values():
                case = Case(name, **{**options, **setting, **changes})
                parts, formula = predict(case), closed_form(case)
                rows.append(row(case, parts, formula))
                line.append(parts)
            copies = (
                f"{line[0].base_copy / GIB:.1f} (all: {max(parts.base_copy for parts in line) / GIB:.1f})"
            )
            peaks = " | ".join(f"{parts.peak / GIB:.1f}" for parts in line)
            print(f"| {name} | {format_} | {copies} | {peaks} |", flush=True)
    ratios = sorted(entry["formula"]["peak"] / entry["predicted"]["peak"] for entry in rows)
    print(f"\nGiB; formula / prediction {ratios[0]:.3f} to {ratios[-1]:.3f}")
    return rows


def measured_table(names: Iterable[str], changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Prints and returns a row per case."""
    rows = []
    print(
        "| model | weights | activations | formula | predicted | measured | predicted / measured | seconds |"
    )
    print(f"|{'---|' * 8}")
    for name in names:
        for format_, options in FORMATS.items():
            for checkpointing in (True, False):
                case = Case(name, **{**options, "checkpointing": checkpointing, **changes})
                parts, formula = predict(case), closed_form(case)
                measured, seconds = measure(case)
                rows.append(row(case, parts, formula) | {"measured": measured, "seconds": seconds})
                predicted = parts.peak + parts.base_copy
                print(
                    f"| {name} | {format_} | {'recomputed' if checkpointing else 'kept'} | "
                    f"{(formula.peak + formula.base_copy) / GIB:.2f} | {predicted / GIB:.2f} | {measured / GIB:.2f} | "
                    f"{predicted / measured:.2f} | {seconds:.0f} |",
                    flush=True,
                )
    return rows


def row(case: Case, parts: Parts, formula: Parts) -> dict[str, Any]:
    """Of the JSON file; all figures in bytes."""
    return {
        "case": dataclasses.asdict(case),
        "predicted": dataclasses.asdict(parts) | {"peak": parts.peak},
        "formula": dataclasses.asdict(formula) | {"peak": formula.peak},
    }


def changes_of_cases(entries: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` of the command line; values as YAML.

    Raises:
        SystemExit: no case has such a field.
    """
    fields = {field.name for field in dataclasses.fields(Case)} - {"model"}
    changes = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or key not in fields:
            raise SystemExit(f"--set {entry}: give KEY=VALUE with one of {', '.join(sorted(fields))}")
        changes[key] = yaml.safe_load(value)
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--predict", action="store_true")
    what.add_argument("--measure", action="store_true")
    what.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--model", action="append")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of libraries about each other
    if args.one:
        measure_here(Case(**json.loads(args.one)))
        return
    changes = changes_of_cases(args.set)
    if args.predict:
        rows = predicted_table(args.model or PREDICTED, changes)
    else:
        rows = measured_table(args.model or MEASURED, changes)
    if args.out:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
