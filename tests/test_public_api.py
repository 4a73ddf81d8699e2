"""`import codyra` costs nothing, its names come when they are asked for, and PEFT knows the adapter type in time."""

import subprocess
import sys

import pytest

import codyra


def python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_importing_codyra_imports_no_heavy_library():
    python("import sys, codyra; assert not {'torch', 'peft', 'transformers', 'numpy'} & set(sys.modules)")


@pytest.mark.parametrize("name", codyra.__all__)
def test_public_names_resolve(name):
    assert getattr(codyra, name) is not None
    assert name in dir(codyra)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'codyra' has no attribute 'Codira'"):
        _ = codyra.Codira


@pytest.mark.slow
def test_peft_before_codyra_knows_the_adapter_type():
    python("import peft, codyra; assert 'CODYRA' in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING")
