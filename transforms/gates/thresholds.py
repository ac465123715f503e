"""Where the gates close: a threshold as a gate declares it, the values of all of them, and the YAML file of a user."""

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any

import yaml

from stores.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Threshold:
    """One number that a user can move: a line `name: value` of `--gates FILE` and of `deploy/gates.yaml`.

    Attributes:
        name: The key in the file and in a manifest's `settings.thresholds`.
        default: Where a file leaves it out. An int here takes whole numbers only.
        reads: What the number is, in words: the comment beside it in `deploy/gates.yaml`.
        least: The smallest value that a file may give.
    """

    name: str
    default: float
    reads: str
    least: int = 0


class ThresholdValues:
    """A value for every threshold; `transforms.gates.Thresholds` has them as fields."""

    def __getitem__(self, threshold: Threshold) -> float:
        """The value in use, asked for by the declaration, so that a typo is not a key that nobody has."""
        return getattr(self, threshold.name)


def thresholds_class(declared: Iterable[Threshold]) -> Any:
    """A frozen dataclass with a field per threshold, in their order; one that is declared twice counts once.

    Raises:
        TypeError: two different thresholds have one name.
    """
    fields = [(t.name, type(t.default), dataclasses.field(default=t.default)) for t in dict.fromkeys(declared)]
    return dataclasses.make_dataclass("DeclaredThresholds", fields, bases=(ThresholdValues,), frozen=True)


def read_values(path: str, declared: Iterable[Threshold]) -> dict[str, float]:
    """What a YAML file says, `name: number` a line.

    Raises:
        UsageError: the file cannot be read, names something else, or a value is not a number that is allowed.
    """
    try:
        with open(path, "rb") as file:
            found = yaml.safe_load(file.read(1 << 20)) or {}
    except OSError as error:
        raise UsageError(f"--gates {path}: {error.strerror}; give a YAML file like deploy/gates.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--gates {path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict):
        raise UsageError(f"--gates {path}: expected `name: number` lines")
    by_name = {threshold.name: threshold for threshold in declared}
    for name, value in found.items():
        if name not in by_name:
            near = difflib.get_close_matches(str(name), by_name, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(by_name)}"
            raise UsageError(f"--gates {path}: no threshold {name!r}; {hint}")
        _check_value(path, by_name[name], value)
    return found


def _check_value(path: str, threshold: Threshold, value: Any) -> None:
    whole = isinstance(threshold.default, int)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (whole and not isinstance(value, int)) or value < threshold.least:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"--gates {path}: {threshold.name} is {value!r}; expected {kind} >= {threshold.least}")
