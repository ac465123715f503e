"""What a vector set says of itself in `version.json`."""

import datetime
import json
from typing import Any

from stores import locations
from stores.errors import InputError
from stores.vector_columns import DTYPE_KEY, NUMBERS

VERSION_FILE = "version.json"


def read_version_file(folder: str) -> dict[str, Any]:
    """What a vector set says of itself in `version.json`.

    Raises:
        InputError: missing, or no JSON object.
    """
    path = locations.join(locations.absolute(folder), VERSION_FILE)
    try:
        found = json.loads(locations.read_bytes(path))
    except FileNotFoundError:
        raise InputError(f'{path}: missing; expected {{"pinsage_version": "..."}}') from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f'{path}: not understood; expected {{"pinsage_version": "..."}}')
    return found


def read_version(folder: str) -> str:
    """The PinSage version that a vector set says it is of, in `version.json`; a number is taken for its digits.

    Raises:
        InputError: missing, or no name of a version in it.
    """
    path = locations.join(locations.absolute(folder), VERSION_FILE)
    found = read_version_file(folder)
    if "pinsage_version" not in found:
        raise InputError(f'{path}: not understood; expected {{"pinsage_version": "..."}}')
    version = found["pinsage_version"]
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    if not isinstance(version, str) or not version:
        raise InputError(f'{path}: pinsage_version is {version!r}; expected a name, {{"pinsage_version": "..."}}')
    return version


def read_until(folder: str) -> datetime.date | None:
    """The day before which lies everything that the vectors know of, the key `until` of `version.json`.

    Returns:
        None where the vector set does not say.

    Raises:
        InputError: `version.json` is missing, or says something else than a day.
    """
    until = read_version_file(folder).get("until")
    if until is None:
        return None
    try:
        return datetime.date.fromisoformat(until)
    except (TypeError, ValueError):
        path = locations.join(locations.absolute(folder), VERSION_FILE)
        raise InputError(f"{path}: until is {until!r}; expected a day like 2026-11-01") from None


def read_dtype(folder: str) -> str | None:
    """Of what numbers a vector set says that vectors written as bytes are, in `version.json`; None if it does not.

    Raises:
        InputError: `version.json` is missing, or says something else.
    """
    found = read_version_file(folder).get(DTYPE_KEY)
    if found is not None and found not in NUMBERS:
        path = locations.join(locations.absolute(folder), VERSION_FILE)
        raise InputError(f"{path}: {DTYPE_KEY} is {found!r}; expected one of {', '.join(NUMBERS)}")
    return found
