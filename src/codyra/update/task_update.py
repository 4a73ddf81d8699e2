"""TaskUpdate: what one task leaves behind, the only thing that flows from training into history.

Shapes: D in features, O out features, R ranks, K kept ranks. The low-rank update of a linear is B_OK @ A_KD,
with gate and scale folded into B.
"""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft.tuners.adalora import SVDLinear
from scipy.stats import rankdata
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from codyra.errors import UserError
from codyra.tuner import GatedLinear, ProximalStep, plain_network
from codyra.tuner.compat import LoraLayer
from codyra.update import storage
from codyra.update.head import Head, head_of

MAX_NORM = 1e30
"""Frobenius norm of one module's update; no float32 weight survives a larger one."""
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# PEFT reads the names in an adapter's rank_pattern as regular expressions.
_PART = r"[^.^$|?*+()\[\]{}\\]+"
_MODULE_NAME = re.compile(rf"{_PART}(?:\.{_PART})*")


@dataclass(frozen=True, eq=False)
class TaskUpdate:
    """The update of one task. Module and parameter names are those of the plain network.

    Attributes:
        kind: "low_rank" (added to its predecessors), "cumulative" (one adapter trained on through the stream;
            it replaces its predecessors), "dense" (difference tensors), "head" (a classifier beside the
            untouched network), "none".
        factors: {module: (A, B)}, A (K, D), B (O, K), gate and scale folded into B; modules with K > 0 only.
        tensors: {parameter: difference} for "dense", the tensors of a `Head` for "head".
        ranks, full_ranks: {module: ranks kept, 0 included}, {module: ranks before pruning}.
        survival_auc: area under the ROC curve of "the rank survived" against its initial |w|, over all
            modules together: 1.0 when the draw of the gates decided, 0.5 when it had no say. None without a
            ProximalStep, and when all ranks or none survived.
        base_info: the entries of an adapter's config that describe its base model.
        lookalikes: a loader that matches module names by their ends would also hit modules that are not
            adapted.
        norms: {module: Frobenius norm of its update}; {parameter: ...} for "dense".

    Raises:
        UserError: shapes that do not fit together, names that no adapter can hold, values that are not finite
            or no floats.
    """

    kind: storage.Kind
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    full_ranks: dict[str, int] = field(default_factory=dict)
    survival_auc: float | None = None
    base_info: dict[str, Any] = field(default_factory=dict)
    lookalikes: bool = False
    norms: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        _check(self)
        norms = dict.fromkeys(self.ranks, 0.0)
        norms |= {name: _product_norm(A_KD, B_OK) for name, (A_KD, B_OK) in self.factors.items()}
        if self.kind == "dense":
            norms |= {name: _norm(tensor) for name, tensor in self.tensors.items()}
        for name, norm in norms.items():
            if not norm <= MAX_NORM:
                raise UserError(
                    f"the update of {name} is not finite or beyond all sense ({norm:g}): training diverged; "
                    "lower the learning rate"
                )
        object.__setattr__(self, "norms", norms)

    @property
    def no_change(self) -> bool:
        """True when nothing is left behind: no surviving rank, no difference, no head."""
        return not self.factors and not self.tensors

    @property
    def head(self) -> Head | None:
        """The classifier of an update of kind "head"."""
        return head_of(self.tensors) if self.kind == "head" and self.tensors else None

    def norm(self) -> float:
        """Frobenius norm of the whole update of the network."""
        return math.sqrt(math.fsum(norm**2 for norm in self.norms.values()))

    def moved(self, previous: "TaskUpdate | None") -> float:
        """Frobenius norm of what this task changed; of a cumulative update its distance from the one before it."""
        if self.kind != "cumulative" or previous is None or previous.kind != "cumulative":
            return self.norm()
        squares = []
        for name in {**self.factors, **previous.factors}:
            signed = [
                (update.factors[name], sign)
                for update, sign in ((self, 1), (previous, -1))
                if name in update.factors
            ]
            A_KD = torch.cat([A_KD for (A_KD, _), _ in signed])
            B_OK = torch.cat([sign * B_OK for (_, B_OK), sign in signed], dim=1)
            squares.append(_product_norm(A_KD, B_OK) ** 2)
        return math.sqrt(math.fsum(squares))

    def scaled(self, factor: float) -> "TaskUpdate":
        """The same update, `factor` times as large; 0 leaves no rank and no difference.

        Raises:
            UserError: the update is cumulative or a head, of which no multiple is half of what it did.
        """
        if self.kind in ("cumulative", "head"):
            raise UserError(f"an update of kind {self.kind!r} cannot be scaled; only one that is added can")
        if factor == 0:
            return replace(self, factors={}, tensors={}, ranks=dict.fromkeys(self.ranks, 0))
        factors = {name: (A_KD, B_OK * factor) for name, (A_KD, B_OK) in self.factors.items()}
        return replace(
            self, factors=factors, tensors={name: tensor * factor for name, tensor in self.tensors.items()}
        )

    @classmethod
    def none(cls) -> "TaskUpdate":
        """The update of a task that changed nothing."""
        return cls("none")

    @classmethod
    def from_difference(
        cls, before: Mapping[str, Tensor], after: Mapping[str, Tensor], scale: float = 1.0
    ) -> "TaskUpdate":
        """scale * (after - before) per parameter, in at least float32; equal tensors are left out.

        Raises:
            UserError: `before` and `after` differ in names or shapes.
        """
        if {name: t.shape for name, t in before.items()} != {name: t.shape for name, t in after.items()}:
            raise UserError(
                "weights before and after a task differ in names or shapes; compare the same parameters"
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
        """The pruned update of a CoDyRA or AdaLoRA model, or the whole one of a stock PEFT LoRA model.

        No model changes.

        Args:
            model: what `get_peft_model` returned, or a transformers model with a loaded adapter.
            prox: the task's ProximalStep, for `survival_auc`.
            scale: factor on the update.

        Raises:
            UserError: there is no such adapter, or it trains more than linears (DoRA, biases, heads,
                embeddings).

        Warns when a CoDyRA model never had a ProximalStep.
        """
        net = plain_network(model)
        layers = {
            name: layer
            for name, layer in net.named_modules()
            if isinstance(layer, LoraLayer) and adapter_name in layer.r
        }
        if not layers:
            raise UserError(
                f"{type(net).__name__} has no LoRA or CoDyRA adapter {adapter_name!r}; check adapter_name"
            )
        config = _only_low_rank(net, adapter_name)
        if prox is None:
            _warn_without_prox(layers, adapter_name)

        factors, ranks, full_ranks = {}, {}, {}
        survived: list[bool] = []
        initial: list[float] = []
        for name, layer in layers.items():
            A_RD, B_OR, kept_R = _folded(layer, name, adapter_name)
            ranks[name], full_ranks[name] = int(kept_R.sum()), len(kept_R)
            if ranks[name]:
                factors[name] = (A_RD[kept_R].cpu(), (B_OR[:, kept_R] * scale).cpu())
            if prox is not None:
                survived += kept_R.tolist()
                initial += _initial_gate(prox, f"{name}.lora_gate.{adapter_name}").abs().tolist()
        return cls(
            kind,
            factors=factors,
            ranks=ranks,
            full_ranks=full_ranks,
            survival_auc=_auc(survived, initial),
            base_info=_base_info(net, config.task_type, layers),
            lookalikes=storage.has_lookalikes(ranks, (name for name, _ in net.named_modules())),
        )

    def save(self, directory: str | Path, base_model: str | None = None, revision: str | None = None) -> None:
        """Write the update's files into `directory`: the same update gives the same bytes.

        Always ranks.json; "low_rank" and "cumulative": adapter_model.safetensors and adapter_config.json, a
        standard PEFT LoRA adapter; "dense" and "head": update.safetensors. An update without change has
        ranks.json only.

        Args:
            base_model, revision: what the adapter names as its base model; default the network's own name.

        Raises:
            UserError: a file cannot be written.
        """
        storage.save(self, Path(directory), base_model, revision)

    @classmethod
    def load(cls, directory: str | Path) -> "TaskUpdate":
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or damaged, or its contents do not fit together.
        """
        fields = storage.load_fields(Path(directory))
        try:
            return cls(**fields)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from error


def _only_low_rank(net: nn.Module, adapter_name: str) -> Any:
    configs: Any = net.peft_config
    config = configs[adapter_name]
    if config.modules_to_save or config.trainable_token_indices or config.bias != "none":
        raise UserError(
            f"adapter {adapter_name!r} trains more than its linears (modules_to_save, "
            "trainable_token_indices or bias), which a task update cannot carry; train without them"
        )
    return config


def _warn_without_prox(layers: Mapping[str, LoraLayer], adapter_name: str) -> None:
    gates: list[Any] = [
        layer.lora_gate[adapter_name] for layer in layers.values() if isinstance(layer, GatedLinear)
    ]
    # A zero is proof enough for an adapter that was trained elsewhere and loaded here.
    if gates and not any(gate.proximal or bool((gate.weight == 0).any()) for gate in gates):
        warnings.warn(
            "no ProximalStep was ever attached to this model, so no rank was pruned; before training: "
            "ProximalStep(optimizer, model, total_steps=...)",
            stacklevel=3,
        )


def _folded(layer: Any, name: str, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """A, B with gate and scale folded in (both at least float32), and which ranks are kept."""
    if isinstance(layer, GatedLinear):
        A_RD, B_OR, gate_R = (part.detach() for part in layer.factors(adapter_name))
        return A_RD, B_OR * gate_R, gate_R != 0
    if isinstance(layer, SVDLinear):
        return _folded_triplets(layer, adapter_name)
    plain = adapter_name not in layer.lora_variant and not layer.lora_bias[adapter_name]
    if not plain or not isinstance(layer.get_base_layer(), nn.Linear | Conv1D):
        raise UserError(
            f"the adapter of {name} is not plain LoRA on a linear; use CodyraConfig or a plain LoraConfig"
        )
    A_RD, B_OR = layer.lora_A[adapter_name].weight.detach(), layer.lora_B[adapter_name].weight.detach()
    dtype = torch.promote_types(B_OR.dtype, torch.float32)
    kept_R = torch.ones(len(A_RD), dtype=torch.bool)
    return A_RD.to(dtype), B_OR.to(dtype) * layer.scaling[adapter_name], kept_R


def _folded_triplets(layer: Any, adapter_name: str) -> tuple[Tensor, Tensor, Tensor]:
    """As `_folded`, of P diag(lambda) Q of AdaLoRA; a triplet is kept whose lambda is not zero."""
    parts = [part[adapter_name].detach() for part in (layer.lora_A, layer.lora_B, layer.lora_E)]
    A_RD, B_OR, value_R1 = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts)
    value_R = value_R1.squeeze(1)
    scale = layer.scaling[adapter_name] / (layer.ranknum[adapter_name].detach() + 1e-5)
    return A_RD, B_OR * (value_R * scale), value_R != 0


def _base_info(net: nn.Module, task_type: str | None, layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """As PEFT writes it: the task type where the class has one of PEFT's wrappers, else the class itself."""
    kind = type(net)
    if task_type is None and kind.__name__.endswith(("ForCausalLM", "LMHeadModel")):
        task_type = "CAUSAL_LM"
    mapping = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    return {
        "auto_mapping": mapping if task_type is None else None,
        "base_model_name_or_path": getattr(net, "name_or_path", None) or None,
        "fan_in_fan_out": all(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        "task_type": task_type,
    }


def _initial_gate(prox: ProximalStep, name: str) -> Tensor:
    if name not in prox.initial_gates:
        raise UserError(f"the ProximalStep knows no gate {name}; pass the one of this model's own task")
    return prox.initial_gates[name]


def _auc(survived: list[bool], score: list[float]) -> float | None:
    """Chance that a random survivor scores above a random pruned rank, ties counting half."""
    num_kept = sum(survived)
    num_pruned = len(survived) - num_kept
    if not num_kept or not num_pruned:
        return None
    rank_sum = math.fsum(rankdata(score)[survived])
    return (rank_sum - num_kept * (num_kept + 1) / 2) / (num_kept * num_pruned)


def _product_norm(A_KD: Tensor, B_OK: Tensor) -> float:
    """Frobenius norm of B A without forming it: |B A|^2 = <B'B, A A'>."""
    A_KD, B_OK = A_KD.double(), B_OK.double()
    return math.sqrt(max(float(((B_OK.T @ B_OK) * (A_KD @ A_KD.T)).sum()), 0.0))


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _check(update: TaskUpdate) -> None:
    if update.kind not in get_args(storage.Kind):
        raise UserError(
            f"unknown kind of update {update.kind!r}; known are {', '.join(get_args(storage.Kind))}"
        )
    if update.factors and update.kind not in ("low_rank", "cumulative"):
        raise UserError(
            f"an update of kind {update.kind!r} has no factors; its kind is 'low_rank' or 'cumulative'"
        )
    if update.tensors and update.kind not in ("dense", "head"):
        raise UserError(f"an update of kind {update.kind!r} has no tensors; its kind is 'dense' or 'head'")
    if set(update.ranks) != set(update.full_ranks):
        raise UserError("ranks and full_ranks name different modules; give both for every adapted module")
    if set(update.factors) != {name for name, kept in update.ranks.items() if kept}:
        raise UserError(
            "the factors are not those of the modules with kept ranks; give factors for exactly these"
        )
    for name in update.ranks:
        if not _MODULE_NAME.fullmatch(name) or not name.isprintable():
            raise UserError(f"{name!r} is no module name that an adapter can hold; rename the module")
        kept, full = update.ranks[name], update.full_ranks[name]
        if not 0 <= kept <= full:
            raise UserError(f"{kept} of {full} ranks of {name} are kept, which cannot be; save it again")
    for name, (A_KD, B_OK) in update.factors.items():
        shapes = (tuple(A_KD.shape), tuple(B_OK.shape))
        kept, full = update.ranks[name], update.full_ranks[name]
        if not (A_KD.ndim == B_OK.ndim == 2 and len(A_KD) == B_OK.shape[1] == kept):
            raise UserError(
                f"factors of {name} have shapes {shapes}, but {kept} of {full} ranks are kept; save it again"
            )
        _check_values(name, A_KD, B_OK)
        if A_KD.dtype != B_OK.dtype:
            raise UserError(
                f"factors of {name} are of types {A_KD.dtype} and {B_OK.dtype}; both have one type"
            )
    for name, tensor in update.tensors.items():
        _check_values(name, tensor)
    if update.kind == "head" and update.tensors:
        head_of(update.tensors)


def _check_values(name: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype not in _DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise UserError(f"the update of {name} is of type {tensor.dtype}; it must be one of {known}")
        if not bool(tensor.isfinite().all()):
            raise UserError(f"the update of {name} is not finite: training diverged; lower the learning rate")
