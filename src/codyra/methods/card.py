"""The card of a method, one page of Markdown made of its declaration and of the options of its pieces.

`python -m codyra.methods.card DIR` writes the cards of all methods and their index.
"""

import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from codyra import files, markdown
from codyra.methods.base import Modality, Piece
from codyra.methods.declaration import Declaration, method_names, read_declaration
from codyra.methods.registry import PIECES, options_class, parse_options

_MODELS: dict[Modality, str] = {
    "image": "CLIP, SigLIP",
    "text": "sentence encoders",
    "answers": "causal language models",
}
INDEX = "README.md"


def card(name: str) -> str:
    """The page of a method that exists."""
    declared = read_declaration(name)
    facts = [
        ("trains", declared.trains),
        ("keeps between tasks", f"{declared.keeps} (`stores: {declared.stores}`)"),
        ("needs", _needs(declared)),
        ("at inference", _inference(declared)),
        ("costs", declared.costs),
        ("models", _models(name)),
        ("source", declared.source),
        ("released code", declared.code or "none that it was compared with"),
    ]
    parts = [
        f"# {declared.title}",
        f"`method: {{name: {name}}}`: {declared.summary}.",
        _table(("", ""), facts),
        "## Pieces",
        _table(("slot", "piece", "what it does"), _pieces(declared)),
        "## Options",
        _table(("option", "default", "meaning"), _options(name)),
        "## Not as in the paper or its code",
        "\n".join(f"- {deviation}" for deviation in declared.deviations) or "Nothing that is known.",
    ]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """The page that lists all cards."""
    rows = []
    for name in method_names():
        declared = read_declaration(name)
        row = (
            f"[{name}]({name}.md)",
            declared.summary,
            declared.stores,
            _needs(declared),
            _inference(declared),
        )
        rows.append((*row, _models(name)))
    head = ("method", "what it does", "stores", "needs", "at inference", "models")
    about = (
        "One page per method, made of its declaration (`src/codyra/methods/NAME.yaml`) by "
        "`python -m codyra.methods.card docs/methods`; [methods.md](../methods.md) says how methods are put together "
        "and how another one is added."
    )
    return f"# Methods\n\n{about}\n\n{_table(head, rows)}\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown.table(head, [[cell.replace("|", "&#124;") for cell in row] for row in rows])


def _needs(declared: Declaration) -> str:
    needs = {
        "reference data of the user's": declared.needs_reference_data,
        "the number of tasks in advance": declared.needs_number_of_tasks,
        "the task of every test example": declared.task_id_at_test,
        "the examples that it keeps": declared.stores == "samples",
    }
    return ", ".join(need for need, needed in needs.items() if needed) or "nothing but the current task"


def _inference(declared: Declaration) -> str:
    return "a head beside the model" if declared.extra_inference else "the plain model, nothing more"


def _models(name: str) -> str:
    declared = read_declaration(name)
    chosen = [PIECES[piece] for piece in (*declared.adapters, *(piece for piece, _ in declared.choices()))]
    able = frozenset.intersection(*(piece.modalities for piece in chosen))
    return ", ".join(kind for modality, kind in _MODELS.items() if modality in able)


def _pieces(declared: Declaration) -> list[tuple[str, str, str]]:
    rows = [(slot, piece, _described(PIECES[piece], fixed)) for slot, piece, fixed in declared.slots()]
    return [
        (slot, f"[`{piece}`](../../src/codyra/methods/pieces/{piece}.py)", what) for slot, piece, what in rows
    ]


def _described(piece: type[Piece], fixed: dict[str, object]) -> str:
    module = inspect.getmodule(piece)
    first = inspect.getdoc(module).split("\n\n")[0] if module is not None else ""  # type: ignore[union-attr]
    what = " ".join(first.partition(": ")[2].split()) or " ".join(first.split())
    return what + (f" Here {', '.join(f'{key} = {value}' for key, value in fixed.items())}." if fixed else "")


def _options(name: str) -> list[tuple[str, str, str]]:
    rows: dict[str, tuple[str, str, str]] = {}
    adapters = read_declaration(name).adapters
    for adapter in adapters:
        chosen = {"adapter": adapter} if len(adapters) > 1 else {}
        resolved = parse_options({"name": name, **chosen})
        for option, info in options_class(name, adapter).model_fields.items():
            if option != "name":
                what = info.description or ""
                if option == "adapter":
                    resolved_default: object = adapters[0]
                else:
                    resolved_default = getattr(resolved, option)
                rows.setdefault(option, (f"`{option}`", _written(resolved_default), what))
    return list(rows.values())


def _written(value: object) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def write_cards(directory: Path) -> None:
    """One file per method, and the index."""
    for name in method_names():
        files.write_text(directory / f"{name}.md", card(name))
    files.write_text(directory / INDEX, index())


if __name__ == "__main__":
    write_cards(Path(sys.argv[1]))
