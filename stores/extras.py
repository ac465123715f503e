"""Libraries that come with an extra of this package, and what is said where one is missing."""

import importlib
from types import ModuleType

from stores.errors import UsageError


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """A module of an extra.

    Args:
        module: Its name.
        extra: As in `pip install 'pinnerformer[EXTRA]'`.
        what: That needs it, for the message.

    Raises:
        UsageError: it is not installed; says the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the library is there and lacks something of its own
        raise UsageError(
            f"{what} needs {module.partition('.')[0]}, which is not installed: pip install 'pinnerformer[{extra}]'"
        ) from None
