"""The packages of the extra [llm], imported when a metric needs one."""

import importlib
from types import ModuleType

from codyra.errors import UserError


def from_extra(module: str) -> ModuleType:
    """The module of that name.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"the package {module.partition('.')[0]} is needed to score these answers and cannot be imported "
            f'({error}); install it with pip install "codyra[llm]"'
        ) from None
