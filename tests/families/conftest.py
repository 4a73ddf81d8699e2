"""Tiny dual encoders, loaded as a user loads real ones."""

from collections.abc import Callable
from pathlib import Path

import pytest

from codyra.families import DualEncoder, ModelSpec, load_family
from families.tiny_encoders import SAVERS


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a tiny model by kind, made once."""
    directories: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in directories:
            directories[kind] = SAVERS[kind](tmp_path_factory.mktemp(kind))
        return directories[kind]

    return get


@pytest.fixture
def load(saved: Callable[[str], Path]) -> Callable[..., DualEncoder]:
    return lambda kind, **spec: load_family(ModelSpec(name=str(saved(kind)), **spec))


@pytest.fixture(params=list(SAVERS))
def family(request: pytest.FixtureRequest, load: Callable[..., DualEncoder]) -> DualEncoder:
    return load(request.param)
