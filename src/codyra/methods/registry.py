"""Named methods: one YAML file per method in this folder, options checked against the pieces it names."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, create_model

from codyra.errors import UserError
from codyra.methods.base import Adapter, Merge, Method, Piece
from codyra.methods.pieces.add import Add
from codyra.methods.pieces.carry import Carry
from codyra.methods.pieces.full import Full
from codyra.methods.pieces.gated import Gated
from codyra.methods.pieces.lora import Lora
from codyra.methods.pieces.none import Nothing
from codyra.methods.pieces.prox import Prox
from codyra.naming import nearest

PIECES: dict[str, type[Piece]] = {
    "none": Nothing,
    "lora": Lora,
    "gated": Gated,
    "full": Full,
    "prox": Prox,
    "add": Add,
    "carry": Carry,
}
SLOTS = ("adapter", "step_edit", "merge")


class MethodOptions(BaseModel):
    """Options of every method; each method adds those of its pieces."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    text_loss: Literal["official", "current"] = Field(
        "official",
        description="normalisation of the text-to-image loss: over earlier and current classes, or current ones only",
    )


@cache
def _declaration(name: str) -> dict[str, Any]:
    return yaml.safe_load((resources.files("codyra.methods") / f"{name}.yaml").read_text("utf-8"))


@cache
def method_names() -> tuple[str, ...]:
    """The methods that exist, sorted."""
    files = resources.files("codyra.methods").iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def _piece_classes(name: str) -> list[type[Piece]]:
    declaration = _declaration(name)
    return [PIECES[declaration[slot]] for slot in SLOTS if slot in declaration]


@cache
def options_class(name: str) -> type[MethodOptions]:
    """The pydantic model of a method's options: the common ones and those of its pieces.

    Raises:
        UserError: there is no such method.
    """
    if name not in method_names():
        near = nearest(name, method_names())
        hint = f"did you mean {near}?" if near else "choose one of"
        raise UserError(f"method.name: there is no method {name!r}; {hint} ({', '.join(method_names())})")
    fields: dict[str, Any] = {
        option: (info.annotation, info)
        for piece in _piece_classes(name)
        for option, info in piece.model_fields.items()
    }
    return create_model(name, __base__=MethodOptions, **fields)


def option_names(name: str) -> list[str]:
    """The options of a method, sorted.

    Raises:
        UserError: there is no such method.
    """
    return sorted(options_class(name).model_fields)


def _build_pieces(options: MethodOptions) -> list[Piece]:
    return [
        piece(**{option: getattr(options, option) for option in piece.model_fields})
        for piece in _piece_classes(options.name)
    ]


def parse_options(raw: Mapping[str, Any]) -> MethodOptions:
    """Options of the method `raw["name"]` with every default filled in, those that depend on others included.

    Raises:
        UserError: there is no such method.
        pydantic.ValidationError: an option does not exist or has an illegal value.
    """
    options = options_class(str(raw.get("name")))(**raw)
    resolved = {option: value for piece in _build_pieces(options) for option, value in piece}
    return options.model_copy(update=resolved)


def build_method(options: MethodOptions) -> Method:
    """The method that `options` describe."""
    declaration = _declaration(options.name)
    pieces = _build_pieces(options)
    adapter = next(piece for piece in pieces if isinstance(piece, Adapter))
    merge = next(piece for piece in pieces if isinstance(piece, Merge))
    others = tuple(piece for piece in pieces if not isinstance(piece, Adapter | Merge))
    about = {key: value for key, value in declaration.items() if key not in SLOTS}
    return Method(name=options.name, **about, adapter=adapter, merge=merge, others=others)
