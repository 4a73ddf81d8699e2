"""TaskUpdate: what one task leaves behind, and how updates and base weights give a model again.

Shapes: D in features, O out features, R ranks, K kept ranks. A low-rank update of a linear is B_OK @ A_KD, with gate and
scale folded into B; nn.Linear holds its weight as (O, D), transformers' Conv1D as (D, O).

The merge is `compose`: theta_t = base + sum of updates, in the wider of float32 and the base's dtype, cast once.
"""

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from peft import PeftModel
from safetensors import SafetensorError
from scipy.stats import rankdata
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from codyra import files
from codyra.errors import UserError
from codyra.tuner import GatedLinear, ProximalStep, plain_network
from codyra.tuner.compat import BaseTuner, LoraLayer

Kind = Literal["low_rank", "dense", "cumulative", "head", "none"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TENSORS = "update.safetensors"
RANKS = "ranks.json"


@dataclass(frozen=True, eq=False)
class TaskUpdate:
    """The update of one task, on the CPU.

    Attributes:
        kind: "low_rank" (added to its predecessors), "cumulative" (one adapter trained on through the stream, replaces
            them), "dense" (difference tensors), "head" (a classifier beside the untouched network), "none".
        factors: {module name: (A, B)}, A (K, D), B (O, K), gate and scale folded into B; only modules with K > 0.
        tensors: {parameter name: tensor}: differences ("dense") or the classifier ("head").
        ranks: {module name: kept ranks, 0 included}. full_ranks: {module name: ranks before pruning}.
        norms: {module name: Frobenius norm of its update}; for "dense", {parameter name: ...}.
        survival_auc: area under the ROC curve of "the rank survived" against its initial |w|, pooled over all modules.
            1.0 means that the draw of the gates decided, 0.5 that it had no say. None without a ProximalStep, and when
            all ranks or none survived.
        base_model, task_type: what the exported adapter says about its base model.

    Names are those of the plain network ("text_model.encoder.layers.0.mlp.fc1").
    """

    kind: Kind
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    full_ranks: dict[str, int] = field(default_factory=dict)
    survival_auc: float | None = None
    base_model: str | None = None
    task_type: str | None = None
    exact_targets: bool = False
    """A stock loader matches names by their ends and would hit other modules too: export the names as one pattern."""
    norms: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        _check(self)
        norms = {
            name: _low_rank_norm(*self.factors[name]) if self.ranks[name] else 0.0 for name in self.ranks
        }
        if self.kind == "dense":
            norms |= {name: _norm(tensor) for name, tensor in self.tensors.items()}
        object.__setattr__(self, "norms", norms)

    @property
    def no_change(self) -> bool:
        """True when the update leaves nothing behind: no surviving rank, no difference."""
        return not self.factors and not self.tensors

    def norm(self) -> float:
        """Frobenius norm of the whole update of the network's weights."""
        return math.sqrt(math.fsum(norm**2 for norm in self.norms.values()))

    @classmethod
    def none(cls) -> "TaskUpdate":
        """The update of a task that changed nothing."""
        return cls("none")

    @classmethod
    def from_difference(
        cls, before: Mapping[str, Tensor], after: Mapping[str, Tensor], scale: float = 1.0
    ) -> "TaskUpdate":
        """scale * (after - before) per parameter, at least in float32; equal tensors are left out.

        Raises:
            UserError: the two name different parameters or shapes.
        """
        if {name: t.shape for name, t in before.items()} != {name: t.shape for name, t in after.items()}:
            raise UserError(
                "the weights before and after the task have other names or shapes; compare the same parameters"
            )
        tensors = {}
        for name, start in before.items():
            if not torch.equal(start, after[name]):
                wide = torch.promote_types(start.dtype, torch.float32)
                tensors[name] = ((after[name].detach().to(wide) - start.detach().to(wide)) * scale).cpu()
        return cls("dense", tensors=tensors)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        prox: ProximalStep | None = None,
        adapter_name: str = "default",
        kind: Literal["low_rank", "cumulative"] = "low_rank",
        scale: float = 1.0,
    ) -> "TaskUpdate":
        """The pruned update of a CoDyRA model, or the whole one of a stock PEFT LoRA model. The model is not changed.

        Args:
            prox: the ProximalStep of the task; without it `survival_auc` is None.
            scale: factor on the update.

        Raises:
            UserError: no such adapter, or one that trains more than linears (DoRA, biases, embeddings, other modules).
        """
        net = plain_network(model)
        layers = {
            name: layer
            for name, layer in net.named_modules()
            if isinstance(layer, LoraLayer) and adapter_name in layer.r
        }
        if not layers:
            raise UserError(
                f"the model has no LoRA or CoDyRA adapter named {adapter_name!r}; check adapter_name"
            )
        config = net.peft_config[adapter_name]
        if config.modules_to_save or config.trainable_token_indices or config.bias != "none":
            raise UserError(
                f"adapter {adapter_name!r} trains more than its linears (modules_to_save, trainable_token_indices or bias), "
                "which no update can carry; train without them"
            )
        if prox is None:
            _warn_if_never_proximal(layers, adapter_name)

        factors, ranks, full_ranks = {}, {}, {}
        survived: list[bool] = []
        initial: list[float] = []
        for name, layer in layers.items():
            A_RD, B_OR, kept_R = _folded(layer, name, adapter_name)
            ranks[name], full_ranks[name] = int(kept_R.sum()), kept_R.numel()
            if ranks[name]:
                factors[name] = (A_RD[kept_R].cpu(), (B_OR[:, kept_R] * scale).cpu())
            if prox is not None:
                survived += kept_R.tolist()
                initial += prox.initial_gates[f"{name}.lora_gate.{adapter_name}"].abs().tolist()
        return cls(
            kind,
            factors=factors,
            ranks=ranks,
            full_ranks=full_ranks,
            survival_auc=_auc(survived, initial),
            base_model=getattr(net, "name_or_path", None) or None,
            task_type=config.task_type
            or ("CAUSAL_LM" if type(net).__name__.endswith("ForCausalLM") else None),
            exact_targets=_ambiguous(ranks, (name for name, _ in net.named_modules())),
        )

    def save(self, directory: str | Path, base_model: str | None = None, revision: str | None = None) -> None:
        """Write the update: a standard PEFT LoRA adapter, or difference tensors, and always ranks.json.

        The same update gives the same bytes. Files are replaced one by one, ranks.json last.

        Args:
            base_model, revision: what the adapter's config names as its base; the name is known for hub models.

        Raises:
            UserError: a file cannot be written.
        """
        directory = Path(directory)
        written = set()
        if self.factors:
            weights = {}
            for name, (A_KD, B_OK) in self.factors.items():
                weights[f"base_model.model.{name}.lora_A.weight"] = A_KD
                weights[f"base_model.model.{name}.lora_B.weight"] = B_OK
            _write_tensors(directory / ADAPTER_WEIGHTS, weights)
            files.write_json(directory / ADAPTER_CONFIG, self._adapter_config(base_model, revision))
            written = {ADAPTER_WEIGHTS, ADAPTER_CONFIG}
        if self.tensors:
            _write_tensors(directory / TENSORS, self.tensors)
            written = {TENSORS}
        for stale in {ADAPTER_WEIGHTS, ADAPTER_CONFIG, TENSORS} - written:
            (directory / stale).unlink(missing_ok=True)
        files.write_json(directory / RANKS, self._rank_table())

    @classmethod
    def load(cls, directory: str | Path) -> "TaskUpdate":
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or damaged, shapes do not fit together, values are not finite.
        """
        directory = Path(directory)
        try:
            table = json.loads((directory / RANKS).read_text(encoding="utf-8"))
            modules = table["modules"]
            fields: dict[str, Any] = {"kind": table["kind"], "survival_auc": table["survival_auc"]}
            if table["kind"] in ("low_rank", "cumulative"):
                fields["ranks"] = {name: row["kept"] for name, row in modules.items()}
                fields["full_ranks"] = {name: row["r"] for name, row in modules.items()}
                if not table["no_change"]:
                    config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
                    fields["factors"] = _factors(
                        safetensors.torch.load_file(directory / ADAPTER_WEIGHTS), fields["ranks"]
                    )
                    fields["base_model"] = config["base_model_name_or_path"]
                    fields["task_type"] = config["task_type"]
                    fields["exact_targets"] = isinstance(config["target_modules"], str)
            elif not table["no_change"]:
                fields["tensors"] = safetensors.torch.load_file(directory / TENSORS)
            return cls(**fields)
        except FileNotFoundError as error:
            raise UserError(
                f"{directory} holds no whole task update: {Path(error.filename).name} is missing"
            ) from error
        except (json.JSONDecodeError, SafetensorError, UnicodeDecodeError) as error:
            raise UserError(
                f"{directory} holds a damaged task update: {error}; restore the folder"
            ) from error
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{directory} holds a task update with missing entries: {error}; restore the folder"
            ) from error
        except UserError as error:
            raise UserError(f"{directory}: {error}") from error

    def _rank_table(self) -> dict[str, Any]:
        rows = {
            name: {"kept": self.ranks.get(name), "r": self.full_ranks.get(name), "norm": norm}
            for name, norm in self.norms.items()
        }
        return {
            "kind": self.kind,
            "no_change": self.no_change,
            "survival_auc": self.survival_auc,
            "norm": self.norm(),
            "modules": rows,
        }

    def _adapter_config(self, base_model: str | None, revision: str | None) -> dict[str, Any]:
        """A stock LoRA config with scale 1 everywhere: r = alpha = largest rank, rank_pattern = alpha_pattern."""
        kept = {name: rank for name, rank in sorted(self.ranks.items()) if rank}
        largest = max(kept.values())
        pattern = {_pattern_key(name, kept): rank for name, rank in kept.items()}
        targets: list[str] | str = list(kept)
        if self.exact_targets or _ambiguous(kept, self.ranks):
            targets = "|".join(re.escape(name) for name in kept)
        return {
            "alpha_pattern": pattern,
            "base_model_name_or_path": base_model or self.base_model,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "lora_alpha": largest,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": largest,
            "rank_pattern": pattern,
            "revision": revision,
            "target_modules": targets,
            "task_type": self.task_type,
        }


def compose(net: nn.Module, base: Mapping[str, Tensor], updates: Iterable[TaskUpdate]) -> dict[str, Tensor]:
    """base + ordered sum of the updates, in the wider of float32 and the base's dtype, cast once.

    Args:
        net: the plain network; only its layer types are read.
        base: {parameter name: tensor} of everything an update may touch.
        updates: iterated once. Each "cumulative" update replaces the "cumulative" ones before it.

    Returns:
        Every name of `base`; tensors that no update touches are the base's own.

    Raises:
        UserError: an update touches what `base` lacks, or has another shape.
    """
    exact = _exact(net, base, updates)
    return {name: exact[name].to(weight.dtype) if name in exact else weight for name, weight in base.items()}


def rounding_loss(net: nn.Module, base: Mapping[str, Tensor], updates: Iterable[TaskUpdate]) -> float:
    """Share of the summed update that the one cast of `compose` loses: 1 - <cast - base, update> / |update|^2.

    0.0 on a base of float32 or wider, and without updates. Arguments as for `compose`.
    """
    if all(torch.promote_types(weight.dtype, torch.float32) == weight.dtype for weight in base.values()):
        return 0.0
    arrived, meant = 0.0, 0.0
    for name, exact in _exact(net, base, updates).items():
        start = base[name].double()
        update = exact.double() - start
        arrived += float((update * (exact.to(base[name].dtype).double() - start)).sum())
        meant += float(update.square().sum())
    return 1 - arrived / meant if meant else 0.0


def write_weights(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the plain network's parameters, in place and without a gradient."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            net.get_parameter(name).copy_(tensor)


def consolidate(model: nn.Module, prox: ProximalStep | None = None) -> nn.Module:
    """Prune, merge and unwrap: the plain network again, its weights updated, ready for the next `get_peft_model`.

    The merge is computed in at least float32 and cast once. On a bf16 base, many tasks are better kept as TaskUpdates
    and composed from the base.

    Args:
        prox: when given, it is checked that it fired.

    Raises:
        UserError: the model is not a PEFT model.
        RuntimeError: `prox` never fired.
    """
    if prox is not None:
        prox.check_fired()
    return _tuner(model).merge_and_unload()


def unwrap(model: nn.Module) -> nn.Module:
    """The plain network again with the weights it had before the adapter; the adapter is dropped.

    Raises:
        UserError: the model is not a PEFT model.
    """
    return _tuner(model).unload()


def _tuner(model: nn.Module) -> BaseTuner:
    while not isinstance(model, PeftModel | BaseTuner):
        if not isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise UserError(f"expected a model from peft.get_peft_model, got {type(model).__name__}")
        model = model.module
    return model.base_model if isinstance(model, PeftModel) else model


def _exact(net: nn.Module, base: Mapping[str, Tensor], updates: Iterable[TaskUpdate]) -> dict[str, Tensor]:
    """The sum before the cast, only for parameters that an update touches."""
    sums: dict[str, Tensor] = {}
    cumulative = None
    with torch.no_grad():
        for update in updates:
            if update.kind == "cumulative":
                cumulative = update
            else:
                _add(net, base, sums, update)
        if cumulative is not None:
            _add(net, base, sums, cumulative)
    return sums


def _add(net: nn.Module, base: Mapping[str, Tensor], sums: dict[str, Tensor], update: TaskUpdate) -> None:
    if update.kind == "head":
        return

    def target(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in base:
            raise UserError(
                f"an update changes {name}, which the base model lacks; use the base it was trained on"
            )
        if base[name].shape != shape:
            raise UserError(
                f"an update of {name} has shape {tuple(shape)}, the base model {tuple(base[name].shape)}; use the base it "
                "was trained on"
            )
        if name not in sums:
            # A copy also where the dtype is wide enough: the base stays as it is.
            sums[name] = (
                base[name].detach().to(torch.promote_types(base[name].dtype, torch.float32), copy=True)
            )
        return sums[name]

    for name, (A_KD, B_OK) in update.factors.items():
        left, right = (A_KD.T, B_OK.T) if isinstance(net.get_submodule(name), Conv1D) else (B_OK, A_KD)
        weight = target(f"{name}.weight", (left.shape[0], right.shape[1]))
        weight.addmm_(left.to(weight), right.to(weight))
    for name, tensor in update.tensors.items():
        weight = target(name, tensor.shape)
        weight.add_(tensor.to(weight))


def _folded(layer: LoraLayer, name: str, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """(A, B with gate and scale folded in, which ranks are kept), at least in float32."""
    gated = isinstance(layer, GatedLinear)
    plain = gated or (adapter_name not in layer.lora_variant and not layer.lora_bias[adapter_name])
    if not plain or not isinstance(layer.get_base_layer(), nn.Linear | Conv1D):
        raise UserError(
            f"the adapter of {name} is not plain LoRA on a linear; train with CodyraConfig or a plain LoraConfig"
        )
    A_RD, B_OR = layer.lora_A[adapter_name].weight.detach(), layer.lora_B[adapter_name].weight.detach()
    dtype = torch.promote_types(B_OR.dtype, torch.float32)
    B_OR = B_OR.to(dtype) * layer.scaling[adapter_name]
    if not gated:
        return A_RD.to(dtype), B_OR, torch.ones(len(A_RD), dtype=torch.bool, device=A_RD.device)
    gate_R = layer.lora_gate[adapter_name].weight.detach().to(dtype)
    return A_RD.to(dtype), B_OR * gate_R, gate_R != 0


def _warn_if_never_proximal(layers: Mapping[str, LoraLayer], adapter_name: str) -> None:
    gates = [layer.lora_gate[adapter_name] for layer in layers.values() if isinstance(layer, GatedLinear)]
    if gates and not any(gate.proximal or bool((gate.weight == 0).any()) for gate in gates):
        warnings.warn(
            "no ProximalStep was ever attached to this model, so no rank was pruned; attach one: "
            "ProximalStep(optimizer, model, total_steps=...)",
            stacklevel=3,
        )


def _auc(positive: list[bool], score: list[float]) -> float | None:
    num_positive = sum(positive)
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return None
    rank_sum = math.fsum(rank for rank, label in zip(rankdata(score), positive, strict=True) if label)
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def _low_rank_norm(A_KD: Tensor, B_OK: Tensor) -> float:
    """Frobenius norm of B A without forming it: |B A|^2 = <B'B, A A'>."""
    A_KD, B_OK = A_KD.double(), B_OK.double()
    return math.sqrt(max(float(((B_OK.T @ B_OK) * (A_KD @ A_KD.T)).sum()), 0.0))


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float64)))


def _check(update: TaskUpdate) -> None:
    if update.kind not in get_args(Kind):
        raise UserError(f"unknown kind of update {update.kind!r}; known are {', '.join(get_args(Kind))}")
    low_rank = update.kind in ("low_rank", "cumulative")
    if (update.factors and not low_rank) or (update.tensors and update.kind not in ("dense", "head")):
        raise UserError(f"an update of kind {update.kind!r} cannot hold these tensors; save it again")
    if set(update.factors) != {name for name, kept in update.ranks.items() if kept}:
        raise UserError(
            "the factors and the table of kept ranks name different modules; save the update again"
        )
    if set(update.ranks) != set(update.full_ranks):
        raise UserError("kept ranks and full ranks name different modules; save the update again")
    for name, (A_KD, B_OK) in update.factors.items():
        kept = update.ranks[name]
        if (
            A_KD.ndim != 2
            or B_OK.ndim != 2
            or not len(A_KD) == B_OK.shape[1] == kept <= update.full_ranks[name]
        ):
            raise UserError(
                f"the factors of {name} have shapes {tuple(A_KD.shape)} and {tuple(B_OK.shape)}, which do not fit "
                f"{kept} kept of {update.full_ranks[name]} ranks; save the update again"
            )
    for name, tensor in [
        *((n, t) for n, pair in update.factors.items() for t in pair),
        *update.tensors.items(),
    ]:
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"the update of {name} holds values that are not finite; the task diverged, lower its lr"
            )


def _factors(weights: dict[str, Tensor], ranks: Mapping[str, int]) -> dict[str, tuple[Tensor, Tensor]]:
    keys = {name: f"base_model.model.{name}.lora_" for name, kept in ranks.items() if kept}
    if set(weights) != {f"{key}{factor}.weight" for key in keys.values() for factor in "AB"}:
        raise UserError(f"{ADAPTER_WEIGHTS} and {RANKS} name different modules; restore the folder")
    return {name: (weights[f"{key}A.weight"], weights[f"{key}B.weight"]) for name, key in keys.items()}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}

    def fill(temporary: Path) -> None:
        try:
            safetensors.torch.save_file(contiguous, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error

    files.write_atomic(path, fill)


def _ambiguous(targets: Iterable[str], names: Iterable[str]) -> bool:
    """Would a loader that matches names by their ends also hit a module of `names` that is no target?"""
    targets = set(targets)
    return any(
        name not in targets and any(name.endswith(f".{target}") for target in targets) for name in names
    )


def _pattern_key(name: str, ranks: Mapping[str, int]) -> str:
    """The name itself; where PEFT's matching (a regular expression for the end of a name) would mistake it, an exact one."""
    matched = {other for other in ranks if re.match(rf"(.*\.)?({name})$", other)}
    return name if matched == {name} else f"^{re.escape(name)}"
