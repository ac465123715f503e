"""A label rule from a file."""

import json
from typing import Any

from pinnerformer_model.config import ModelError
from pinnerformer_model.labels import check_label_rule
from stores.errors import InputError


def read_label_rule(path: str) -> dict[str, Any]:
    """Reads a label rule from a JSON file.

    Raises:
        InputError: missing, or no rule; names the file.
    """
    try:
        with open(path) as file:
            return check_label_rule(json.load(file))
    except OSError as error:
        raise InputError(f"--label-rule {path}: {error.strerror}") from None
    except (ValueError, RecursionError, ModelError) as error:
        raise InputError(f"--label-rule {path}: {error}") from None
