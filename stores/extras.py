"""Libraries that come with an extra of this package, and what is said where one is missing.

They are imported where they are used, so that the wheel alone runs every command's `--help`; a command that needs one
asks for it first, before it reads anything.
"""

import importlib
from typing import Any

from stores.errors import UsageError


def load(module: str, extra: str, what: str) -> Any:
    """A library that is no dependency of every installation.

    Args:
        module: Of the library.
        extra: Of `pyproject.toml`, which brings it.
        what: The command or flag that needs it.

    Raises:
        UsageError: it is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise UsageError(f"{what} needs {missing}: pip install 'pinnerformer[{extra}]'") from None
