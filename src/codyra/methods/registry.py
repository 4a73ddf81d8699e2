"""Pieces by name, and methods made of them; options are checked against the pieces that a method names."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from codyra.errors import UserError
from codyra.methods.base import Piece
from codyra.methods.declaration import method_names, read_declaration
from codyra.methods.memory import covers
from codyra.methods.method import Method
from codyra.methods.pieces.adalora import AdaLora
from codyra.methods.pieces.add import Add
from codyra.methods.pieces.carry import Carry
from codyra.methods.pieces.cone import Cone
from codyra.methods.pieces.data_svd import DataSvd
from codyra.methods.pieces.distill import Distill
from codyra.methods.pieces.distill_random_texts import DistillRandomTexts
from codyra.methods.pieces.distill_references import DistillReferences
from codyra.methods.pieces.energy import Energy
from codyra.methods.pieces.fisher_anchor import FisherAnchor
from codyra.methods.pieces.fixed_a import FixedA
from codyra.methods.pieces.full import Full
from codyra.methods.pieces.gate_l1 import GateL1
from codyra.methods.pieces.gated import Gated
from codyra.methods.pieces.interpolate import Interpolate
from codyra.methods.pieces.l2_anchor import L2Anchor
from codyra.methods.pieces.lora import Lora
from codyra.methods.pieces.none import Nothing
from codyra.methods.pieces.ortho import Ortho
from codyra.methods.pieces.osf import Osf
from codyra.methods.pieces.project_out import ProjectOut
from codyra.methods.pieces.prox import Prox
from codyra.methods.pieces.random_ranks import RandomRanks
from codyra.methods.pieces.ridge_dual import RidgeDual
from codyra.methods.pieces.ridge_primal import RidgePrimal
from codyra.methods.pieces.running_average import RunningAverage
from codyra.naming import nearest

PIECES: dict[str, type[Piece]] = {
    # adapters: what is trainable
    "none": Nothing,
    "full": Full,
    "lora": Lora,
    "fixed_a": FixedA,
    "gated": Gated,
    "adalora": AdaLora,
    "osf": Osf,
    # inits: where the adapter starts
    "data_svd": DataSvd,
    # penalties: terms of the loss
    "gate_l1": GateL1,
    "ortho": Ortho,
    "fisher_anchor": FisherAnchor,
    "l2_anchor": L2Anchor,
    "distill": Distill,
    "distill_random_texts": DistillRandomTexts,
    "distill_references": DistillReferences,
    # edits of the gradient
    "project_out": ProjectOut,
    "cone": Cone,
    # edits of the step
    "prox": Prox,
    "running_average": RunningAverage,
    # rank rules: what is kept of an update
    "energy": Energy,
    "random_ranks": RandomRanks,
    # merges: how an update joins its predecessors
    "add": Add,
    "carry": Carry,
    "interpolate": Interpolate,
    # heads: classifiers beside the untouched network
    "ridge_primal": RidgePrimal,
    "ridge_dual": RidgeDual,
}


SHARED_OPTIONS = ("r", "targets", "text_loss")
"""Options that mean the same to every method that has them.

Others of one name need not: `kappa_max` is the last threshold of CoDyRA's staircase and SoRA's stages, of other size.
"""


class MethodOptions(BaseModel):
    """Options of every method; each method adds those of its pieces."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    text_loss: Literal["official", "current"] = Field(
        "official",
        description="normalisation of the text-to-image loss: over earlier and current classes, or current ones only",
    )


def _choices(name: str, adapter: str) -> list[tuple[type[Piece], dict[str, Any]]]:
    """(piece, its fixed options) in the order of the slots."""
    return [(PIECES[piece], fixed) for piece, fixed in [(adapter, {}), *read_declaration(name).choices()]]


def _check_exists(name: str) -> None:
    if name not in method_names():
        near = nearest(name, method_names())
        hint = f"did you mean {near}?" if near else "choose one of"
        raise UserError(f"method.name: there is no method {name!r}; {hint} ({', '.join(method_names())})")


@cache
def options_class(name: str, adapter: str) -> type[MethodOptions]:
    """The pydantic model of a method's options: the common ones and those of its pieces."""
    declared = read_declaration(name)
    fields: dict[str, Any] = {}
    if len(declared.adapters) > 1:
        what = Field(declared.adapters[0], description=f"what is trained: {', '.join(declared.adapters)}")
        fields["adapter"] = (Literal[declared.adapters], what)
    for piece, fixed in _choices(name, adapter):
        for option, info in piece.model_fields.items():
            if option not in fixed:
                assert option not in fields, f"two pieces of {name} have an option {option}"
                if option in declared.defaults:
                    info = FieldInfo.merge_field_infos(info, default=declared.defaults[option])
                fields[option] = (info.annotation, info)
    return create_model(name, __base__=MethodOptions, **fields)


def option_names(name: str) -> list[str]:
    """The options of a method, with any of its adapters, sorted.

    Raises:
        UserError: there is no such method.
    """
    _check_exists(name)
    return sorted(
        {
            option
            for adapter in read_declaration(name).adapters
            for option in options_class(name, adapter).model_fields
        }
    )


def _build_pieces(options: MethodOptions) -> tuple[Piece, ...]:
    adapter = getattr(options, "adapter", read_declaration(options.name).adapters[0])
    return tuple(
        piece(
            **fixed,
            **{option: getattr(options, option) for option in piece.model_fields if option not in fixed},
        )
        for piece, fixed in _choices(options.name, adapter)
    )


def parse_options(raw: Mapping[str, Any]) -> MethodOptions:
    """Options of the method `raw["name"]` with every default filled in, those that depend on others included.

    Raises:
        UserError: there is no such method, or options of two of its pieces do not go together.
        pydantic.ValidationError: an option does not exist or has an illegal value.
    """
    name = str(raw.get("name"))
    _check_exists(name)
    adapters = read_declaration(name).adapters
    chosen = raw.get("adapter")
    options = options_class(name, chosen if chosen in adapters else adapters[0])(**raw)
    pieces = _build_pieces(options)
    for piece in pieces:
        piece.check_beside(pieces)
    resolved = {option: value for piece in pieces for option, value in piece}
    return options.model_copy(
        update={option: value for option, value in resolved.items() if option in type(options).model_fields}
    )


def build_method(options: MethodOptions) -> Method:
    """The method that `options` describe."""
    declared = read_declaration(options.name)
    if declared.head is not None and not declared.extra_inference:
        raise UserError(
            f"{options.name}.yaml: a head is extra work at inference; declare extra_inference: true"
        )
    for name, _ in declared.choices():
        kept = PIECES[name].keeps
        if kept is not None and not covers(declared.stores, kept):
            raise UserError(
                f"{options.name}.yaml: stores: {declared.stores}, but its piece {name} keeps {kept}; declare {kept}"
            )
    return Method(options.name, declared, _build_pieces(options))
