"""How models and data are named in what is passed on: never by a path of the machine they came from."""

import re
from pathlib import Path

from codyra.engine.config import model_path, parse_config
from codyra.engine.folder_reader import RunView

_HUB_MODEL = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_HUB_DATA = re.compile(r"hf:\w[\w.-]*/[\w.-]+@[\w.-]+")


def hub_id(view: RunView) -> str | None:
    """The run's base model on the Hugging Face hub; None for a directory and a built-in model."""
    place = model_path(parse_config(view.config, f"config.yaml of {view.name}")).name
    return place if _HUB_MODEL.fullmatch(place) and not Path(place).is_dir() else None


def is_local(view: RunView) -> bool:
    """True when the run's base model is a directory of somebody's machine."""
    return hub_id(view) is None and not view.manifest.base.name.startswith("builtin:")


def base_name(view: RunView) -> str:
    """The run's base model: its hub id, its built-in name, or the last part of its path."""
    return _last_part(view.manifest.base.name) if is_local(view) else view.manifest.base.name


def data_name(source: str) -> str:
    """A task's `data`: whole when it is a data set of a hub, else its kind and the last part of its path."""
    if _HUB_DATA.fullmatch(source):
        return source
    kind, _, place = source.partition(":")
    return f"{kind}:{_last_part(place)}"


def _last_part(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]
