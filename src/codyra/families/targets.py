"""Which linear layers an adapter may go into (docs/config.md, `targets`)."""

import difflib
from collections.abc import Sequence

from torch import nn
from transformers.pytorch_utils import Conv1D

from codyra.errors import UserError

KEYWORDS = ("all", "all-linear", "vision", "text", "attention", "mlp")


def find_targets(
    net: nn.Module, targets: str | Sequence[str], towers: dict[str, str], head: nn.Module | None = None
) -> list[str]:
    """Full dotted names of the linear layers that `targets` means, in the order of the network.

    A block linear is an nn.Linear, or GPT-2's Conv1D, below an nn.ModuleList, the stack of transformer blocks:
    heads, poolers, projections and embeddings stand outside it, and with them SigLIP's pooling head. Linears of a
    packed nn.MultiheadAttention are never targets, because it reads their weights without calling them.

    Args:
        net: the plain network.
        targets: "all" or, the same, "all-linear"; "vision" or "text" (one tower); "attention" or "mlp" (one part of
            every block); or names: the end of a block linear's name ("q_proj", "layers.0.mlp.fc1") or the full name
            of any linear.
        towers: prefix of the module names of each tower, {"vision": ..., "text": ...}, as far as it exists.
        head: the linear that makes the logits, if any; it is no target even by its full name.

    Raises:
        UserError: something in `targets` matches no layer.
    """
    linears = [name for name in _plain_linears(net) if net.get_submodule(name) is not head]
    blocks = [name for name in linears if _path_in_block(net, name) is not None]
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise UserError(f"targets is empty; use one of {', '.join(KEYWORDS)} or module names")
    found: set[str] = set()
    for target in wanted:
        matches = _match(net, target, linears, blocks, towers)
        if not matches:
            raise UserError(_no_match(target, blocks, towers))
        found.update(matches)
    return [name for name in linears if name in found]


def _match(
    net: nn.Module, target: str, linears: Sequence[str], blocks: Sequence[str], towers: dict[str, str]
) -> list[str]:
    if target in ("all", "all-linear"):
        return list(blocks)
    if target in ("vision", "text"):
        return [name for name in blocks if target in towers and name.startswith(towers[target])]
    if target in ("attention", "mlp"):
        return [name for name in blocks if _is_attention(net, name) == (target == "attention")]
    if target in linears:
        return [target]
    return [name for name in blocks if name.endswith(f".{target}")]


def _plain_linears(net: nn.Module) -> list[str]:
    packed = [f"{name}." for name, module in net.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not name.startswith(tuple(packed))
    ]


def _path_in_block(net: nn.Module, name: str) -> str | None:
    """What follows the stack and the block number in a layer's name; None when it is in no stack."""
    parts = name.split(".")
    for depth in range(1, len(parts) - 1):
        if isinstance(net.get_submodule(".".join(parts[:depth])), nn.ModuleList):
            return ".".join(parts[depth + 1 :])
    return None


def _is_attention(net: nn.Module, name: str) -> bool:
    path = _path_in_block(net, name)
    return path is not None and ("attn" in path or "attention" in path)


def _no_match(target: str, blocks: Sequence[str], towers: dict[str, str]) -> str:
    if target in ("vision", "text"):
        parts = [word for word in KEYWORDS if word not in ("vision", "text") or word in towers]
        return f"targets: this model has no {target} tower; use one of {', '.join(parts)}"
    endings = {
        name.rsplit(".", count)[-count] if count == 1 else ".".join(name.split(".")[-count:])
        for name in blocks
        for count in (1, 2)
    }
    names = [name for name in (*KEYWORDS, *sorted(endings), *blocks) if name != target]
    nearest = difflib.get_close_matches(target, names, n=1, cutoff=0.0)
    return f"targets: '{target}' matches no linear layer of this model; the nearest name is '{nearest[0]}'"
