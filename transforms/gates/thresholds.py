"""Where the gates close: the defaults, and the YAML file that moves them."""

import dataclasses
import difflib
import math
from typing import Any

import yaml

from stores.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Where the gates close. `deploy/gates.yaml` holds the same values, with a line on each.

    Attributes:
        norm_tolerance: How far a stored float16 vector's L2 norm may be from 1.
        max_alike: Length of the mean of the unit vectors of users drawn, or of all pins; 1 if all are the same.
        max_lost_share: Share of the previous release's users, or pins, that may be missing.
        max_dropped_share: Share of the rows read that may go to the dead letters.
        max_failed_share: Share of the users tried that may raise or give NaN or infinity.
        max_week_factor: How many times more, or fewer, rows a day and active users than the median of the last 7
            releases.
        max_weekday_factor: The same against the median of the same weekday of the last 4 weeks.
        max_vectorless_share: Share of the tokens looked up whose pin has no vector.
        max_vectorless_rise: How far that share may be above the median of the last 7 releases.
        max_cosine_drift: Two-sample Kolmogorov-Smirnov distance between tonight's and yesterday's distribution of
            "cosine of an embedded user's vector to the one before", beyond what chance explains.
        min_canary_cosine: Of every canary's vector, recomputed from rows and pin vectors kept, to the one kept.
        min_pin_vectors_cosine: Median over the canaries' pins, tonight's vector to the one kept.
        min_recall_at_10: Of the index against exact search over all shards.
        recall_users: Users drawn for it; all, if there are fewer.
        min_coverage_pins: Pins that make up 90 % of the top-10 results of the users drawn.
        max_coverage_fall: How many times fewer such pins than in the previous release.
    """

    norm_tolerance: float = 2e-3
    max_alike: float = 0.9999
    max_lost_share: float = 0.05
    max_dropped_share: float = 0.05
    max_failed_share: float = 0.01
    max_week_factor: float = 4.0
    max_weekday_factor: float = 2.5
    max_vectorless_share: float = 0.6
    max_vectorless_rise: float = 0.1
    max_cosine_drift: float = 0.15
    min_canary_cosine: float = 0.9999
    min_pin_vectors_cosine: float = 0.9
    min_recall_at_10: float = 0.95
    recall_users: int = 1000
    min_coverage_pins: int = 10
    max_coverage_fall: float = 3.0


def read_thresholds(path: str | None) -> Thresholds:
    """The thresholds of a YAML file, `name: number` a line; what it leaves out keeps its default.

    Args:
        path: None: the defaults.

    Raises:
        UsageError: the file cannot be read, names something else, or a value is not a number >= 0.
    """
    if path is None:
        return Thresholds()
    try:
        with open(path, "rb") as file:
            found = yaml.safe_load(file.read(1 << 20)) or {}
    except OSError as error:
        raise UsageError(f"--gates {path}: {error.strerror}; give a YAML file like deploy/gates.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--gates {path}: not YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(found, dict):
        raise UsageError(f"--gates {path}: expected `name: number` lines")
    fields = {field.name: field.type for field in dataclasses.fields(Thresholds)}
    for name, value in found.items():
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(fields)}"
            raise UsageError(f"--gates {path}: no threshold {name!r}; {hint}")
        _check(path, name, value, whole=fields[name] is int)
    return Thresholds(**found)


def _check(path: str, name: str, value: Any, whole: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if not number or (whole and not isinstance(value, int)) or (name == "recall_users" and value < 1):
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"--gates {path}: {name} is {value!r}; expected {kind} >= {int(name == 'recall_users')}")
