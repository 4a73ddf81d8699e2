"""The folder in which an analysis keeps what it measured, so that it goes on where it was interrupted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from codyra import files
from codyra.engine.folder import first_difference
from codyra.engine.lock import LOCK
from codyra.errors import UserError
from codyra.reading import checked, damaged, read_json, within

SETTINGS = "settings.json"


class Measurement(Protocol):
    """Whatever else is measured, there is the accuracy of every task, percent; the class is a dataclass."""

    @property
    def accuracy(self) -> dict[str, float]: ...


T = TypeVar("T", bound=Measurement)


class Ledger(Generic[T]):
    """FOLDER/settings.json says what is measured, FOLDER/measured/<name>.json is one measurement.

    Args:
        kind: class of the measurements.
        tasks: names of those that every measurement has, in their order.
    """

    def __init__(self, folder: Path, kind: type[T], tasks: Sequence[str]) -> None:
        self.folder = folder
        self._kind = kind
        self._tasks = list(tasks)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Make sure that measurements made with these settings, or any others beside them, may go into the folder.

        Raises:
            UserError: it holds another analysis (the first difference is named) or something else.
        """
        file = within(self.folder, SETTINGS)
        if file.is_file():
            stored, given = checked(dict[str, Any], read_json(file), file), _as_stored(settings)
            if difference := first_difference({key: stored.get(key) for key in given}, given):
                raise UserError(f"{self.folder}: holds another analysis ({difference}); choose another --out")
        elif self.folder.exists() and not (
            self.folder.is_dir() and all(map(_is_harmless, self.folder.iterdir()))
        ):
            raise UserError(f"{self.folder}: exists and is no folder of an analysis; choose another --out")

    def start(self, settings: Mapping[str, Any]) -> None:
        """Write down all that must be equal for measurements to stand side by side; raises as `check` does."""
        self.check(settings)
        files.sweep(self.folder)
        files.write_json(self.folder / SETTINGS, _as_stored(settings))

    def find(self, name: str) -> T | None:
        """The measurement of this name; None where it was not taken yet.

        Raises:
            UserError: its file is damaged.
        """
        file = within(self.folder, self._file(name))
        if not file.exists():
            return None
        measurement = checked(self._kind, read_json(file), file)
        if list(measurement.accuracy) != self._tasks:
            damaged(file, "its accuracy is not of the tasks of the stream")
        return measurement

    def add(self, name: str, measurement: T) -> None:
        """Keep a measurement."""
        file = self._file(name)
        files.write_json(within(self.folder, file.parent) / file.name, vars(measurement))

    def _file(self, name: str) -> Path:
        return Path("measured") / f"{name}.json"


def _as_stored(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they come back from a file."""
    return dict(json.loads(json.dumps(settings)))


def _is_harmless(file: Path) -> bool:
    return file.name == LOCK or files.is_temporary(file.name)
