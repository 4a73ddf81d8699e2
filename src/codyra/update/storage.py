"""The files of a task update; the adapter among them is standard PEFT LoRA and loads without codyra."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import pad as pad_zeros

from codyra import files
from codyra.reading import checked, damaged, read_json, read_tensors, within

if TYPE_CHECKING:
    from codyra.update.task_update import TaskUpdate

Kind = Literal["low_rank", "dense", "cumulative", "head", "none"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TENSORS = "update.safetensors"
RANKS = "ranks.json"
_METADATA = {"format": "pt"}  # transformers asks for it
# What an adapter's config says about its base model, where nothing is known.
BASE_INFO = {
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "fan_in_fan_out": False,
    "task_type": None,
}


class _Module(BaseModel):
    """One module in ranks.json; no ranks for a dense update."""

    model_config = ConfigDict(strict=True)

    kept: Annotated[int, Field(ge=0)] | None
    r: Annotated[int, Field(ge=1)] | None
    norm: Annotated[float, Field(ge=0)]


class _RankTable(BaseModel):
    """ranks.json, as far as it is read back."""

    model_config = ConfigDict(strict=True)

    kind: Kind
    no_change: bool
    survival_auc: Annotated[float, Field(ge=0, le=1)] | None
    modules: dict[str, _Module]


class _AdapterConfig(BaseModel):
    """adapter_config.json, as far as it is read back."""

    model_config = ConfigDict(strict=True)

    peft_type: Literal["LORA"]
    r: int
    lora_alpha: int
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, int]
    auto_mapping: dict[str, str | None] | None
    base_model_name_or_path: str | None
    fan_in_fan_out: bool
    task_type: str | None
    target_modules: str | list[str]


def save(update: "TaskUpdate", directory: Path, base_model: str | None, revision: str | None) -> None:
    """Write the files one by one, each atomically; ranks.json, which says what must be there, comes last."""
    written = set()
    if update.factors:
        save_adapter(update, directory, base_model, revision)
        written = {ADAPTER_WEIGHTS, ADAPTER_CONFIG}
    if update.tensors:
        files.write_tensors(directory / TENSORS, update.tensors, _METADATA)
        written = {TENSORS}
    for stale in {ADAPTER_WEIGHTS, ADAPTER_CONFIG, TENSORS} - written:
        (directory / stale).unlink(missing_ok=True)
    files.write_json(directory / RANKS, _rank_table(update))


def save_adapter(
    update: "TaskUpdate", directory: Path, base_model: str | None, revision: str | None, *, pad: bool = False
) -> None:
    """Write the adapter of an update with factors, and nothing else.

    Args:
        pad: fill A with rows and B with columns of zeros, which add nothing, up to the largest rank, so that every
            module has the same one and the config needs no pattern of ranks.
    """
    factors, config = update.factors, _adapter_config(update, base_model, revision)
    if pad:
        factors = {name: _padded(A_KD, B_OK, config["r"]) for name, (A_KD, B_OK) in factors.items()}
        config |= {"alpha_pattern": {}, "rank_pattern": {}}
    weights: dict[str, Tensor] = {}
    for name, pair in factors.items():
        weights |= dict(zip(_keys(name), pair, strict=True))
    files.write_tensors(directory / ADAPTER_WEIGHTS, weights, _METADATA)
    files.write_json(directory / ADAPTER_CONFIG, config)


def load_fields(directory: Path) -> dict[str, Any]:
    """The constructor's arguments of the TaskUpdate in `directory`.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    ranks_file = within(directory, RANKS)
    table = checked(_RankTable, read_json(ranks_file), ranks_file)
    fields: dict[str, Any] = {"kind": table.kind, "survival_auc": table.survival_auc}
    if table.kind in ("low_rank", "cumulative"):
        fields["ranks"] = {name: module.kept for name, module in table.modules.items()}
        fields["full_ranks"] = {name: module.r for name, module in table.modules.items()}
        if None in {*fields["ranks"].values(), *fields["full_ranks"].values()}:
            damaged(directory / RANKS, f"an update of kind {table.kind!r} has ranks for every module")
    if table.no_change:
        return fields
    if "ranks" not in fields:
        return fields | {"tensors": read_tensors(within(directory, TENSORS))}
    config_file = within(directory, ADAPTER_CONFIG)
    config = checked(_AdapterConfig, read_json(config_file), config_file)
    if (config.lora_alpha, config.alpha_pattern) != (config.r, config.rank_pattern):
        damaged(directory / ADAPTER_CONFIG, "the scale of its factors is not 1 everywhere")
    weights = read_tensors(within(directory, ADAPTER_WEIGHTS))
    adapted = {name: _keys(name) for name, kept in fields["ranks"].items() if kept}
    if set(weights) != {key for keys in adapted.values() for key in keys}:
        damaged(directory / ADAPTER_WEIGHTS, f"it has not the modules that {RANKS} has")
    fields["factors"] = {name: (weights[A], weights[B]) for name, (A, B) in adapted.items()}
    fields["base_info"] = config.model_dump(include=set(BASE_INFO))
    fields["lookalikes"] = isinstance(config.target_modules, str)
    return fields


def has_lookalikes(targets: Iterable[str], names: Iterable[str]) -> bool:
    """Would a loader that matches module names by their ends hit a module of `names` that is no target?"""
    targets = set(targets)
    # The parts of a dotted name after its first dot, its second dot, ... are what a loader would compare.
    return any(
        name not in targets and any(name[dot.end() :] in targets for dot in re.finditer(r"\.", name))
        for name in names
    )


def _padded(A_KD: Tensor, B_OK: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - len(A_KD)
    return pad_zeros(A_KD, (0, 0, 0, missing)), pad_zeros(B_OK, (0, missing))


def _keys(module: str) -> tuple[str, str]:
    return (f"base_model.model.{module}.lora_A.weight", f"base_model.model.{module}.lora_B.weight")


def _rank_table(update: "TaskUpdate") -> dict[str, Any]:
    head = update.head
    return {
        "kind": update.kind,
        "no_change": update.no_change,
        "survival_auc": update.survival_auc,
        "norm": update.norm(),
        "modules": {
            name: {"kept": update.ranks.get(name), "r": update.full_ranks.get(name), "norm": norm}
            for name, norm in update.norms.items()
        },
        **({"head": {"classes": head.num_classes, "parameters": head.num_parameters}} if head else {}),
    }


def _adapter_config(update: "TaskUpdate", base_model: str | None, revision: str | None) -> dict[str, Any]:
    """A LoRA config of scale 1 everywhere, as some readers ignore the patterns: r = alpha = largest rank."""
    ranks = {name: update.ranks[name] for name in sorted(update.factors)}
    pattern = {_pattern_key(name, ranks): rank for name, rank in ranks.items()}
    exact = update.lookalikes or has_lookalikes(ranks, update.ranks)
    config = {
        **BASE_INFO,
        **update.base_info,
        "alpha_pattern": pattern,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": max(ranks.values()),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": max(ranks.values()),
        "rank_pattern": pattern,
        "revision": revision,
        "target_modules": "|".join(re.escape(name) for name in ranks) if exact else list(ranks),
    }
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
    return dict(sorted(config.items()))


def _pattern_key(name: str, ranks: Mapping[str, int]) -> str:
    """The name, anchored where PEFT, which reads it as a regex for the end of names, would hit others too."""
    hit = [other for other in ranks if re.match(rf"(.*\.)?({name})$", other)]
    return name if hit == [name] else f"^{re.escape(name)}"
